"""SGLang on machines without an accelerator: the platform and what it must mend."""
