"""Which calls an engine takes while the contexts of the sessions under way fill its KV cache.

`held` counts what their contexts take, `sessions` knows who is under way, `rules` decides, `gate` keeps the calls that
wait, in the HTTP process: it knows sessions and clocks, and every rank of the engine then sees the same calls in the
same order.
"""
