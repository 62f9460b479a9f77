"""Whose session a call is of: the routers by rendezvous hashing, also called highest random weight.

Each router draws a number from its own address and the session; the highest owns the session, and where that router is
away, the next one does. So without any of them only its own sessions move, evenly to all the others, and they come back
with it.
"""

import functools
from collections.abc import Sequence
from hashlib import blake2b

from prefillshare.routing.call.prompt import find_beginning
from prefillshare.routing.choice.demand import Demand

_MAX_KEPT = 4096


def session_key(demand: Demand) -> bytes:
    """Return what all calls of a session have in common: its name, else the beginning of its prompts."""
    if demand.session is not None:
        return name_key(demand.session)
    return b"prompt " + find_beginning(demand.prompts[0] if demand.prompts else b"")


def name_key(session: str) -> bytes:
    """Return the key of a session that has a name."""
    return b"session " + session.encode()


class Owners:
    """The routers in the order in which they take a session; of named sessions, those asked for last are kept."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(addresses)
        self._rank_named = functools.lru_cache(maxsize=_MAX_KEPT)(self._rank)

    def rank(self, demand: Demand) -> Sequence[str]:
        """Return the routers' addresses, the owner's of the session of `demand` first."""
        # The beginning of a prompt may be long, and seldom comes again.
        return self._rank(session_key(demand)) if demand.session is None else self.rank_named(demand.session)

    def rank_named(self, session: str) -> Sequence[str]:
        """Return the routers' addresses, the owner's of the session of that name first."""
        return self._rank_named(name_key(session))

    def _rank(self, key: bytes) -> tuple[str, ...]:
        return tuple(rank_owners(key, self._addresses))


def rank_owners(key: bytes, addresses: Sequence[str]) -> list[str]:
    """Return `addresses` in the order in which they take the session of `key`, its owner first."""
    digest = blake2b(key, digest_size=16).digest()
    return sorted(addresses, key=lambda address: (_weigh(digest, address), address), reverse=True)


def _weigh(digest: bytes, address: str) -> bytes:
    return blake2b(address.encode(), digest_size=8, key=digest).digest()
