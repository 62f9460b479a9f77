"""How much of the host tier loads from the store may take, and what was loaded for requests that are not admitted yet.

A request whose load has ended waits until the pool has room for it. Until then nothing of it is in use, so what other
requests back up or load would take the room of its pages, and it would prefill all the same. They are held until it is
admitted; and only so much is loaded at once that what is backed up finds room beside it:

    host tier   |- copies of what the pool holds -|-- held and being loaded --|- free for what is backed up next -|
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.radix_cache import TreeNode

_SHARE_BESIDE_POOL = 0.75
_LEAST_SHARE = 0.25
"""Where the host tier is hardly larger than the pool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    req: Req
    node: TreeNode
    num_tokens: int


class HeldLoads:
    """What was loaded and is waited for, by request."""

    def __init__(self, *, host_tokens: int, pool_tokens: int) -> None:
        self._limit = max(_LEAST_SHARE * host_tokens, _SHARE_BESIDE_POOL * (host_tokens - pool_tokens))
        self._held: dict[str, _Held] = {}

    def __contains__(self, rid: str) -> bool:
        return rid in self._held

    def has_room(self, num_loading: int) -> bool:
        """Whether another load may begin beside those that make ``num_loading`` tokens."""
        if self._sum() + num_loading < self._limit:
            return True
        # Requests that ended without having been admitted.
        for rid in [rid for rid, held in self._held.items() if held.req.finished()]:
            self.release(rid)
        return self._sum() + num_loading < self._limit

    def hold(self, req: Req, node: TreeNode, num_tokens: int) -> None:
        """Keep ``node``, and so all before it, in the host tier until the request is admitted."""
        self.release(req.rid)
        node.protect_host()
        self._held[req.rid] = _Held(req=req, node=node, num_tokens=num_tokens)

    def release(self, rid: str) -> None:
        """The request was admitted, or will not be."""
        if (held := self._held.pop(rid, None)) is not None:
            held.node.release_host()

    def clear(self) -> None:
        """The nodes are gone."""
        self._held.clear()

    def _sum(self) -> int:
        return sum(held.num_tokens for held in self._held.values())
