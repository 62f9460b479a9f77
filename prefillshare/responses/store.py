"""Responses in memory, within a number, a size and an age; the oldest go first."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
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


class ResponseStore:
    """The responses of one process."""

    def __init__(self, limits: Responses, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.num_bytes = 0
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, response_id: str) -> Kept | None:
        """Return the response, None where it is not kept any more."""
        self._forget_old()
        return self._kept.get(response_id)

    def put(self, response_id: str, response: dict[str, Any], items: list[Any]) -> None:
        """Keep a response, in place of what was kept under its id."""
        kept = Kept(response=orjson.dumps(response), items=orjson.dumps(items), kept_at=self._clock())
        self.delete(response_id)
        if kept.num_bytes > self.limits.max_bytes or self.limits.max_count == 0:
            return
        self._kept[response_id] = kept
        self.num_bytes += kept.num_bytes
        while len(self._kept) > self.limits.max_count or self.num_bytes > self.limits.max_bytes:
            self._drop_oldest()
        self._forget_old()

    def delete(self, response_id: str) -> bool:
        """Forget a response; return whether it was there."""
        kept = self._kept.pop(response_id, None)
        self.num_bytes -= kept.num_bytes if kept else 0
        return kept is not None

    def _forget_old(self) -> None:
        # In the order in which they came, so the first that is young enough ends the search.
        limit = self._clock() - self.limits.max_age_s
        while self._kept and next(iter(self._kept.values())).kept_at < limit:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self.num_bytes -= kept.num_bytes
