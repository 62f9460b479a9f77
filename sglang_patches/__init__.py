"""Shared prefill inside SGLang 0.5.17, without an edited line of it.

Loaded by SGLang itself through its entry points (``plugin.py``) in every process of
a server that names it in ``SGLANG_PLUGINS``. Start reading at ``registry.py``: it
lists each patch with what would go wrong without it. ``request_boundary.py`` says
where the prefill module's part of a prompt ends, ``lora_segments.py`` keeps to it in
a batch, ``shared_radix_cache.py`` in the cache, ``disaggregation/`` between workers.
``cpu/`` lets the engine run on machines without an accelerator.

Not covered: speculative decoding, HiCache (``server_checks.py`` refuses them).
Importing the package changes nothing and imports no SGLang.
"""
