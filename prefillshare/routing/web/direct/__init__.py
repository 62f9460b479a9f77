"""Ordinary calls without a framework in between: nearly all requests of a router are of one form.

    client's bytes ─┬─ one whole ordinary call ── `asked` reads it, `answering` writes its answer
                    └─ all else ── aiohttp

A call costs the router some hundred microseconds, of which aiohttp's way there and back is a good part, and on a router
that is not saturated a larger one: the more code a call runs through, the less of it is still in the processor's caches
when the next call comes. So a request that has come whole and has nothing unusual in it is read here in one go. What is
unusual is not judged here: aiohttp reads it, with every rule and limit that it has.

    asked       a whole ordinary call in bytes, or None
    answering   the way back for its answer
    lane        one connection's calls, one after the other
"""
