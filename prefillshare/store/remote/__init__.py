"""The store over several hosts: pages that a peer's store has come by NIXL, and are checked before they are believed.

    engine  --fetch, Unix socket-->  process of this host  --find, stage: HTTP-->  process of a peer's host
            <--how many came------                         <==NIXL READ==========  (pages of its store, staged)
                                         |
                                         v  digest and MAC fit
                                     store of this host, where the engine finds them as any other page

One process of each launch (`python -m prefillshare.store.remote`) does all of it, so that no library of a network runs
inside of an engine, and a page crosses once for all engines of a host. docs/store-format.md has the messages.
"""
