"""The mark of what one router sends another: whoever bears it is answered here and passed on no further.

It is made from the admin key, which clients do not have, and from the address of the router that it is meant for: a
server that stands at a peer's address by mistake learns nothing that is of use elsewhere.
"""

import hmac
from collections.abc import Mapping

from prefillshare.routing.errors import ForbiddenError

HOP_HEADER = "X-PrefillShare-Hop"
STOPPING_HEADER = "X-PrefillShare-Stopping"
"""Header of the answer of a router that takes no further calls: the next one may take this call."""


class Hops:
    """The marks that routers with one admin key give each other."""

    def __init__(self, admin_key: str, own_address: str) -> None:
        self._admin_key = admin_key
        self._marks: dict[str, str] = {}
        self._own = self.mark_for(own_address)
        self._own_address = own_address

    def mark_for(self, address: str) -> str:
        """Return the mark of what is sent to the router at `address`."""
        mark = self._marks.get(address)
        if mark is None:
            mark = hmac.digest(self._admin_key.encode(), b"router hop to " + address.encode(), "sha256").hex()
            self._marks[address] = mark
        return mark

    def is_hop(self, headers: Mapping[str, str]) -> bool:
        """Whether another router has sent what has these headers.

        Raises: ForbiddenError when the mark is wrong: were it only overlooked, two routers that do not agree on key or
        addresses could pass a call to and fro.
        """
        mark = headers.get(HOP_HEADER)
        if mark is None:
            return False
        if not hmac.compare_digest(mark.encode(errors="surrogateescape"), self._own.encode()):
            raise ForbiddenError(
                f"the header {HOP_HEADER} is not of a router of this deployment: leave it out; routers need one "
                f"admin key, and must know this one as {self._own_address}"
            )
        return True
