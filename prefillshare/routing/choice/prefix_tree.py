"""Which worker holds which prefix: a radix tree over strings of digests, bounded in memory.

A node carries the digests between its parent and itself and the workers that hold the string up to its end. A digest
has `DIGEST_BYTES` bytes and is never split. Here each letter is one:

    p0 holds "abcd", p1 holds "abef":     root ── ab {p0, p1} ─┬─ cd {p0}
                                                               └─ ef {p1}

Whoever holds a node holds all nodes above it: `insert` adds a worker along the whole way, and `drop` takes from the
leaves up, since a child is never used later than its parent.

Order of use: `_recency` lists nodes from the longest unused to the latest used. Every touch moves the whole path,
deepest node first, so a parent is always later in the list than its children, and the first node is a leaf.

What a worker holds is found without looking at what others hold: `_ends` has, for each worker, nodes from which the
ways up to the root are all that it holds.
"""

import heapq

from prefillshare.observe.prefix import common_prefix
from prefillshare.routing.choice.blocks import DIGEST_BYTES
from prefillshare.routing.choice.holders import Sharing, without
from prefillshare.routing.choice.matched import Level
from prefillshare.routing.choice.prefix_node import Node, Recency

NODE_OVERHEAD_BYTES = 250
"""Memory of a node beside its bytes, with its part of what is kept by worker: 170 measured with CPython 3.11 where
sessions of agents meet 16 workers, rounded up (benchmarks/choice); more only while there are few nodes per worker."""


class PrefixTree:
    """Prefixes by worker; forgets the longest unused ones beyond `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._root = Node(b"", None)
        self._owed: dict[str, float] = {}  # bytes that a worker evicted and `drop` could not: less than its next edge
        self._ends: dict[str, set[Node]] = {}
        self._held_bytes: dict[str, int] = {}
        self._recency = Recency()

    @property
    def num_nodes(self) -> int:
        """Nodes without the root."""
        return len(self._recency)

    def find(self, prompt: bytes) -> list[Level]:
        """Return who holds how much of `prompt`, the most first; good until the tree changes."""
        levels: list[Level] = []
        path = []
        node, position = self._root, 0
        while child := self._child(node, prompt, position):
            common = _common_digests(child.edge, prompt, position)
            position += common
            # Whoever holds a deeper node holds the way to it: of equal holders the deepest level says it all.
            if levels and levels[-1][1] is child.holders:
                levels.pop()
            levels.append((position, child.holders))
            path.append(child)
            if common < len(child.edge):
                break
            node = child
        self._recency.touch(path)
        levels.reverse()
        return levels

    def insert(self, prompt: bytes, *workers: str) -> None:
        """Remember that each of `workers` holds the whole of `prompt`."""
        if len(prompt) + NODE_OVERHEAD_BYTES > self.max_bytes:
            return
        path = []
        node, position = self._root, 0
        while position < len(prompt):
            child = self._child(node, prompt, position) or self._add(node, prompt[position:])
            common = _common_digests(child.edge, prompt, position)
            if common < len(child.edge):  # the rest of the edge stays with those who held it, below the new node
                child = self._split(child, common)
            path.append(child)
            node, position = child, position + common
        self._hold(path, workers)
        self._recency.touch(path)
        self._shrink()

    def forget(self, worker: str) -> None:
        """Drop everything that `worker` holds: it left, restarted or flushed its cache."""
        self._owed.pop(worker, None)
        self._held_bytes.pop(worker, None)
        sharing = Sharing()
        for end in self._ends.pop(worker, ()):
            if worker in end.holders:  # else it was met on the way up from an end below it
                self._forget_way(worker, end, sharing)

    def drop(self, worker: str, num_bytes: float) -> float:
        """Drop about `num_bytes` of what `worker` holds, the longest unused first, whole edges only.

        Returns how many bytes less that were; they are dropped with the next ones, unless it holds nothing any more.
        """
        num_bytes += self._owed.pop(worker, 0.0)
        # The least recently used node that a worker holds is one of its ends: children come before their parents. Of
        # nodes that were touched together, which lie on one way, the deepest comes first.
        waiting = [(end.used, -depth_of(end), id(end), end) for end in self._ends.get(worker, ())]
        heapq.heapify(waiting)
        while waiting:
            _, depth, _, node = heapq.heappop(waiting)
            if worker not in node.holders:
                continue
            if num_bytes < len(node.edge):
                self._owed[worker] = num_bytes
                return num_bytes
            num_bytes -= len(node.edge)
            parent = self._take(worker, node)
            if parent is not self._root:
                heapq.heappush(waiting, (parent.used, depth + 1, id(parent), parent))
        return 0.0

    def held_bytes(self, worker: str) -> int:
        """Bytes of all prefixes that `worker` holds, shared beginnings once."""
        return self._held_bytes.get(worker, 0)

    def _child(self, node: Node, prompt: bytes, position: int) -> Node | None:
        return node.child(prompt[position : position + DIGEST_BYTES]) if position < len(prompt) else None

    def _add(self, parent: Node, edge: bytes) -> Node:
        node = Node(edge, parent)
        parent.put_child(node)
        self._recency.append(node)
        self.num_bytes += len(edge) + NODE_OVERHEAD_BYTES
        return node

    def _split(self, lower: Node, at: int) -> Node:
        """Put a node before `lower` that ends `at` bytes into its edge, and return it."""
        upper = lower.split(at)
        self._recency.append(upper)
        self.num_bytes += NODE_OVERHEAD_BYTES
        return upper

    def _hold(self, path: list[Node], workers: tuple[str, ...]) -> None:
        """Add `workers` to the holders of the whole path."""
        for worker in workers:
            missing = [node for node in path if worker not in node.holders]
            if not missing:
                continue
            ends = self._ends.setdefault(worker, set())
            if len(missing) < len(path):  # the deepest that it held was maybe an end, and is none now
                ends.discard(path[-len(missing) - 1])
            ends.add(path[-1])
            self._held_bytes[worker] = self.held_bytes(worker) + sum(len(node.edge) for node in missing)
        sharing = Sharing()
        for node in path:
            node.holders = sharing.add_all(node.holders, workers)

    def _forget_way(self, worker: str, end: Node, sharing: Sharing) -> None:
        """Let `worker` no longer hold `end` and what is above it, as far as it does."""
        node = end
        while worker in node.holders:
            node.holders = sharing.share(without(node.holders, worker))
            node = self._remove_if_useless(node)
        # Here the way joins one that was walked before: what nobody holds was kept for the branch that is gone now.
        while node.parent is not None and self._is_useless(node):
            node = self._remove_if_useless(node)

    def _take(self, worker: str, node: Node) -> Node:
        """Let `worker` no longer hold `node`, below which it holds nothing; return the node above."""
        node.holders = without(node.holders, worker)
        parent = self._let_go(worker, node)
        self._remove_if_useless(node)
        return parent

    def _let_go(self, worker: str, node: Node) -> Node:
        """Count `node` as no longer held by `worker`: the way up to the node above is what stays."""
        assert node.parent is not None
        ends = self._ends[worker]
        ends.discard(node)
        self._held_bytes[worker] -= len(node.edge)
        if node.parent is not self._root:
            ends.add(node.parent)
        elif not ends:
            del self._ends[worker], self._held_bytes[worker]
        return node.parent

    def _shrink(self) -> None:
        while self.num_bytes > self.max_bytes:
            leaf = self._recency.first()
            for worker in leaf.holders:
                self._let_go(worker, leaf)
            self._remove(leaf)

    def _is_useless(self, node: Node) -> bool:
        return not node.holders and node.is_leaf

    def _remove_if_useless(self, node: Node) -> Node:
        """Remove `node` if nobody holds it and nothing is below it; return the node above."""
        assert node.parent is not None
        parent = node.parent
        if self._is_useless(node):
            self._remove(node)
        return parent

    def _remove(self, leaf: Node) -> None:
        assert leaf.parent is not None
        assert leaf.is_leaf
        leaf.parent.drop_child(leaf)
        self._recency.remove(leaf)
        self.num_bytes -= len(leaf.edge) + NODE_OVERHEAD_BYTES


def _common_digests(edge: bytes, prompt: bytes, position: int) -> int:
    """Return how many bytes of `edge` stand in `prompt` at `position`, whole digests only."""
    common = common_prefix(edge, prompt, position)
    return common - common % DIGEST_BYTES


def depth_of(node: Node) -> int:
    """Return how many nodes there are above."""
    depth = 0
    while node.parent is not None:
        node, depth = node.parent, depth + 1
    return depth
