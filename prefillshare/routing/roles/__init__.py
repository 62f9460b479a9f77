"""Workers that change their role with the load: the router looks, decides and drains; who started a worker moves it.

`look` measures, `order` is one move, `conductor` sees it through. The decision itself is `prefillshare.roles`.
"""
