"""Which worker holds which prefix: a radix tree over canonical prompts, bounded in memory.

A node carries the bytes between its parent and itself and the workers that hold the prompt up to its end. Positions
are bytes, not tokens: the router has no tokenizer, and for choosing a worker the proportion is enough.

    p0 holds "abcd", p1 holds "abef":     root ── ab {p0, p1} ─┬─ cd {p0}
                                                               └─ ef {p1}

Whoever holds a node holds all nodes above it: `insert` adds a worker along the whole way, and `drop` takes from the
leaves up, since a child is never used later than its parent.

Order of use: `_recency` lists nodes from the longest unused to the latest used. Every touch moves the whole path,
deepest node first, so a parent is always later in the list than its children, and the first node is a leaf.
"""

from collections import OrderedDict

from prefillshare.observe.prefix import common_prefix

NODE_OVERHEAD_BYTES = 600
"""Memory of a node beside its bytes: 530 measured with CPython 3.11 (object, dictionary, set, links), rounded up."""


class _Node:
    __slots__ = ("children", "edge", "holders", "parent")

    def __init__(self, edge: bytes, parent: "_Node | None") -> None:
        self.edge = edge
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.holders: set[str] = set()


class PrefixIndex:
    """Prefixes by worker; forgets the longest unused ones beyond `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._root = _Node(b"", None)
        self._owed: dict[str, float] = {}  # bytes that a worker evicted and `drop` could not: less than its next edge
        self._recency: OrderedDict[_Node, None] = OrderedDict()

    @property
    def num_nodes(self) -> int:
        """Nodes without the root."""
        return len(self._recency)

    def match(self, prompt: bytes) -> dict[str, int]:
        """Return for each worker how many bytes of `prompt` it holds; workers that hold none are left out."""
        matched: dict[str, int] = {}
        path = []
        node, position = self._root, 0
        while child := self._child(node, prompt, position):
            common = common_prefix(child.edge, prompt, position)
            position += common
            for holder in child.holders:  # a deeper node overwrites: whoever holds it holds the way to it
                matched[holder] = position
            path.append(child)
            if common < len(child.edge):
                break
            node = child
        self._touch(path)
        return matched

    def insert(self, prompt: bytes, *workers: str) -> None:
        """Remember that each of `workers` holds the whole of `prompt`."""
        if len(prompt) + NODE_OVERHEAD_BYTES > self.max_bytes:
            return
        path = []
        node, position = self._root, 0
        while position < len(prompt):
            child = self._child(node, prompt, position) or self._add(node, prompt[position:])
            common = common_prefix(child.edge, prompt, position)
            if common < len(child.edge):  # the rest of the edge stays with those who held it, below the new node
                child = self._split(child, common)
            child.holders.update(workers)
            path.append(child)
            node, position = child, position + common
        self._touch(path)
        self._shrink()

    def forget(self, worker: str) -> None:
        """Drop everything that `worker` holds: it left, restarted or flushed its cache."""
        self._owed.pop(worker, None)
        # The longest unused first: every child comes before its parent, so emptied branches go from the leaves up.
        for node in list(self._recency):
            node.holders.discard(worker)
            if not node.holders and not node.children:
                self._remove(node)

    def drop(self, worker: str, num_bytes: float) -> float:
        """Drop about `num_bytes` of what `worker` holds, the longest unused first, whole edges only.

        Returns how many bytes less that were; they are dropped with the next ones, unless it holds nothing any more.
        """
        num_bytes += self._owed.pop(worker, 0.0)
        for node in list(self._recency):
            if worker not in node.holders:
                continue
            if num_bytes < len(node.edge):
                self._owed[worker] = num_bytes
                return num_bytes
            num_bytes -= len(node.edge)
            node.holders.discard(worker)
            if not node.holders and not node.children:
                self._remove(node)
        return 0.0

    def held_bytes(self, worker: str) -> int:
        """Bytes of all prefixes that `worker` holds, shared beginnings once."""
        return sum(len(node.edge) for node in self._recency if worker in node.holders)

    def _child(self, node: _Node, prompt: bytes, position: int) -> _Node | None:
        return node.children.get(prompt[position]) if position < len(prompt) else None

    def _add(self, parent: _Node, edge: bytes) -> _Node:
        node = _Node(edge, parent)
        parent.children[edge[0]] = node
        self._recency[node] = None
        self.num_bytes += len(edge) + NODE_OVERHEAD_BYTES
        return node

    def _split(self, lower: _Node, at: int) -> _Node:
        """Put a node before `lower` that ends `at` bytes into its edge, and return it."""
        assert lower.parent is not None
        upper = _Node(lower.edge[:at], lower.parent)
        upper.holders = set(lower.holders)
        lower.parent.children[upper.edge[0]] = upper
        lower.edge = lower.edge[at:]
        lower.parent = upper
        upper.children[lower.edge[0]] = lower
        self._recency[upper] = None
        self.num_bytes += NODE_OVERHEAD_BYTES
        return upper

    def _touch(self, path: list[_Node]) -> None:
        for node in reversed(path):
            self._recency.move_to_end(node)

    def _shrink(self) -> None:
        while self.num_bytes > self.max_bytes:
            self._remove(next(iter(self._recency)))

    def _remove(self, leaf: _Node) -> None:
        assert leaf.parent is not None
        assert not leaf.children
        del leaf.parent.children[leaf.edge[0]]
        del self._recency[leaf]
        self.num_bytes -= len(leaf.edge) + NODE_OVERHEAD_BYTES
