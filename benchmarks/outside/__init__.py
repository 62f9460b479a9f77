"""PrefillShare and plain SGLang under one load, by a generator that is none of ours: aiperf, in its own environment."""
