"""Pages that are begun and not full: what a request computed beyond its last whole page is not lost.

The tree holds whole pages. Without this, each call would compute the end of the prompt before it once more, half a
page on average, since that prompt's last page was not full.

    tokens   0 ............ whole ....... end            of the request that ended
             |---- tree ------|-- begun ---|   free  |   its last page, kept here: an open page of the node at `whole`
             |---- tree ------|---- the next request's own page -----------------|

The next request with the same tokens takes the page over, if it wants all of it, and goes on in it. Where it wants
fewer tokens, or another request's full page in the tree begins as its own would, it gets a copy of these rows. This is
done when its batch is made, after it was admitted: it then computes less, and needs no page more than it was admitted
for. Nothing here is locked: an open page belongs to the tree, which may evict it at any time, and then to one request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from sglang_patches.prefill.request_state import Continued

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.radix_cache import TreeNode

    from sglang_patches.engine.radix_cache import SharedPrefillRadixCache

ATTRIBUTE = "open_pages"
"""Of a tree's node: pages that were begun behind its end. Most nodes have none."""
MOST_PER_NODE = 8
MOST_CHILDREN = 256
"""Full pages behind one node that are looked at, the latest first: beyond, looking costs more than it saves."""


@dataclass(eq=False, kw_only=True, slots=True)
class OpenPage:
    """The computed start of a page; the page is the tree's."""

    node: TreeNode
    """Where the whole pages before it end."""
    tokens: tuple[int, ...]
    rows: torch.Tensor
    """One for each token: the first rows of the page."""
    origin: str | None
    last_access_time: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    rows: torch.Tensor
    origin: str | None
    page: OpenPage | None
    """None for a full page of the tree."""


class OpenPages:
    """All open pages of one tree."""

    def __init__(self, cache: SharedPrefillRadixCache) -> None:
        self._cache = cache
        self._page_size: int = cache.page_size
        # The one used longest ago first.
        self._pages: dict[OpenPage, None] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[OpenPage]:
        return iter(self._pages)

    def keep(self, node: TreeNode, tokens: Sequence[int], rows: torch.Tensor, origin: str | None) -> bool:
        """Take a page over from a request that ends; False where it brings nothing new and stays the request's."""
        begun = tuple(tokens)
        if node is self._cache.root_node or not begun or self._is_known(node, begun):
            return False
        there: list[OpenPage] = getattr(node, ATTRIBUTE, [])
        for page in [page for page in there if page.tokens == begun[: len(page.tokens)]]:
            self.drop(page)
        for page in there[: max(0, len(there) + 1 - MOST_PER_NODE)]:
            self.drop(page)
        # A copy: the pool's row of the request will be another one's.
        kept = rows.to(dtype=torch.int64, copy=True)
        page = OpenPage(node=node, tokens=begun, rows=kept, origin=origin)
        setattr(node, ATTRIBUTE, [*getattr(node, ATTRIBUTE, []), page])
        self._pages[page] = None
        self._cache.evictable_size_ += self._page_size
        return True

    def give_to(self, req: Req, *, may_copy: bool) -> Continued:
        """Let a request that was admitted go on in the page that follows its cached prefix, as far as it is computed.

        Effects: ``prefix_indices`` and ``extend_range`` then begin within the page, which is the request's own; what
        it shares with the tree (``cache_protected_len``) stays.
        """
        start, end = len(req.prefix_indices), self._last_to_give(req)
        is_at_page = start > 0 and start % self._page_size == 0 and start == req.cache_protected_len
        if not is_at_page or end <= start or req.last_node is self._cache.root_node:
            return Continued()
        wanted = tuple(req.full_untruncated_fill_ids[start:end])
        source = self._longest(req.last_node, wanted)
        rows = self._hand_over(source, may_copy) if source is not None else None
        if source is None or rows is None:
            return Continued()
        req.prefix_indices = torch.cat([req.prefix_indices, rows.to(req.prefix_indices.dtype)])
        req.set_extend_range(start + len(rows), req.extend_range.end)
        return Continued(num_tokens=len(rows), origin=source.origin)

    def evict(self, num_tokens: int, *, older_than: float = math.inf) -> int:
        """Give up pages that were last used before then, the oldest first; the number of tokens that are free then."""
        num_freed = 0
        for page in list(self._pages):
            if num_freed >= num_tokens or page.last_access_time >= older_than:
                break
            self.drop(page)
            num_freed += self._page_size
        return num_freed

    def drop(self, page: OpenPage) -> None:
        """Free a page."""
        self._forget(page)
        self._cache.token_to_kv_pool_allocator.free_segment(page.rows, start_pos=0)

    def drop_of(self, node: TreeNode) -> None:
        """Free what was begun behind a node that goes."""
        for page in getattr(node, ATTRIBUTE, []):
            self.drop(page)

    def _last_to_give(self, req: Req) -> int:
        """Where rows that are not computed must end: before the boundary (I2, I5), and a token stays to be computed."""
        tokens, state = req.full_untruncated_fill_ids, req.prefillshare
        most: int = min(
            state.boundary, state.match_limit, req._compute_max_prefix_len(len(tokens)), req.extend_range.end - 1
        )
        return min(most, len(req.prefix_indices) + self._page_size)

    def _longest(self, node: TreeNode, wanted: tuple[int, ...]) -> _Source | None:
        best: _Source | None = None
        for page in getattr(node, ATTRIBUTE, []):
            num_common = _num_common(page.tokens, wanted)
            if num_common > (len(best.rows) if best is not None else 0):
                best = _Source(rows=page.rows[:num_common], origin=page.origin, page=page)
        for child in self._children_beginning_with(node, wanted[0]):
            num_common = _num_common(child.key.token_ids[: self._page_size], wanted)
            if num_common > (len(best.rows) if best is not None else 0):
                best = _Source(rows=child.value[:num_common], origin=child.origin, page=None)
        return best

    def _children_beginning_with(self, node: TreeNode, token: int) -> Iterator[Any]:
        for child in islice(reversed(node.children.values()), MOST_CHILDREN):
            if child.value is not None and child.key.token_ids[0] == token:
                yield child

    def _is_known(self, node: TreeNode, begun: tuple[int, ...]) -> bool:
        source = self._longest(node, begun)
        if source is None or len(source.rows) < len(begun):
            return False
        if source.page is not None:
            self._touch(source.page)
        return True

    def _hand_over(self, source: _Source, may_copy: bool) -> torch.Tensor | None:
        """Rows of a page that is the caller's; None where there is no page for a copy."""
        if source.page is not None and len(source.rows) == len(source.page.tokens):
            self._forget(source.page)
            return source.rows
        # Without an eviction: the source itself might go.
        copied = self._cache.token_to_kv_pool_allocator.alloc(self._page_size) if may_copy else None
        if copied is None:
            return None
        if source.page is not None:
            self._touch(source.page)
        rows: torch.Tensor = copied[: len(source.rows)]
        self._cache.copy_rows(source.rows, rows)
        return rows

    def _touch(self, page: OpenPage) -> None:
        page.last_access_time = time.monotonic()
        self._pages[page] = self._pages.pop(page)

    def _forget(self, page: OpenPage) -> None:
        """The page is the tree's no longer."""
        del self._pages[page]
        setattr(page.node, ATTRIBUTE, [other for other in getattr(page.node, ATTRIBUTE) if other is not page])
        self._cache.evictable_size_ -= self._page_size


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    for number, (one_token, other_token) in enumerate(zip(left, right, strict=False)):
        if one_token != other_token:
            return number
    return min(len(left), len(right))
