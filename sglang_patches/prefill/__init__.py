"""Where the prefill module's part of a prompt ends, and how a prefix is computed once: without SGLang."""
