"""Responses in memory, within a number, a size and an age; the oldest go first, of whoever has most.

Each belongs to its owner, a tenant or (with an empty name) whoever has the server's key, and is nobody else's to find.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from prefillshare.config.responses import Responses

_OVERHEAD_BYTES = 512
"""Of Python's objects around one response, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One response."""

    response: bytes
    """Its object, as JSON."""
    items: bytes
    """List of the items of its conversation up to the answer, the answer left out, as JSON."""
    kept_at: float
    """When it came, by the store's clock."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return len(self.response) + len(self.items) + _OVERHEAD_BYTES


@dataclass(slots=True, kw_only=True)
class _Shelf:
    """The responses of one owner, in the order in which they came."""

    kept: "OrderedDict[str, Kept]" = field(default_factory=OrderedDict)
    num_bytes: int = 0


class ResponseStore:
    """The responses of one process."""

    def __init__(self, limits: Responses, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    def __len__(self) -> int:
        return sum(len(shelf.kept) for shelf in self._shelves.values())

    @property
    def num_bytes(self) -> int:
        """Memory that all of them take."""
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def get(self, response_id: str, owner: str = "") -> Kept | None:
        """Return the response, None where it is not kept any more, or is another owner's."""
        self._forget_old()
        shelf = self._shelves.get(owner)
        return None if shelf is None else shelf.kept.get(response_id)

    def put(self, response_id: str, response: dict[str, Any], items: list[Any], owner: str = "") -> None:
        """Keep a response, in place of what was kept under its id."""
        kept = Kept(response=orjson.dumps(response), items=orjson.dumps(items), kept_at=self._clock())
        self.delete(response_id, owner)
        if kept.num_bytes > self.limits.max_bytes or self.limits.max_count == 0:
            return
        shelf = self._shelves.setdefault(owner, _Shelf())
        shelf.kept[response_id] = kept
        shelf.num_bytes += kept.num_bytes
        # Whoever keeps most gives room: one owner cannot make the others' be forgotten.
        while len(self) > self.limits.max_count:
            self._drop_oldest(max(self._shelves, key=lambda name: len(self._shelves[name].kept)))
        while self.num_bytes > self.limits.max_bytes:
            self._drop_oldest(max(self._shelves, key=lambda name: self._shelves[name].num_bytes))
        self._forget_old()

    def delete(self, response_id: str, owner: str = "") -> bool:
        """Forget a response; return whether it was there."""
        shelf = self._shelves.get(owner)
        if shelf is None or response_id not in shelf.kept:
            return False
        shelf.num_bytes -= shelf.kept.pop(response_id).num_bytes
        if not shelf.kept:
            del self._shelves[owner]
        return True

    def _forget_old(self) -> None:
        # In the order in which they came, so the first that is young enough ends the search.
        limit = self._clock() - self.limits.max_age_s
        for owner in list(self._shelves):
            kept = self._shelves[owner].kept
            while kept and next(iter(kept.values())).kept_at < limit:
                self._drop_oldest(owner)

    def _drop_oldest(self, owner: str) -> None:
        self.delete(next(iter(self._shelves[owner].kept)), owner)
