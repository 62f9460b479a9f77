"""Shared prefill inside SGLang 0.5.17, without an edited line of it.

Loaded by SGLang itself through its entry points (``plugin.py``), in the HTTP server and each scheduler of an engine
that names it in ``SGLANG_PLUGINS``. Start reading at ``bindings.py``: the one table of what is changed, and
``apply()``, which checks everything and then makes all changes or none. What a file changes and what it needs stands
in that file (``declarations.py``); ``python -m sglang_patches report`` lists it all.

    engine/           subclasses of SGLang's classes, one file per upstream class, bound in their place
    patches/          functions, methods and names that are wrapped where no class can be bound
    prefill/          where the prefill module's part of a prompt ends (``boundary.py``), in a batch (``segments.py``)
    disaggregation/   the same between workers: hand-off, hand-shake, aborts
    checks/           calls, adapters and settings that are refused
    answers/          what an answer shall follow: grammars, stop patterns, seeds
    http/             names, routes, bodies, errors and connections of the HTTP server
    observed/         what an engine counts and tells of itself
    pin/              what became of all that in another SGLang (``python -m sglang_patches diff``)
    cpu/              lets the engine run on machines without an accelerator

Not covered: speculative decoding, HiCache (``checks/settings.py`` refuses them).
Importing the package changes nothing and imports no SGLang.
"""
