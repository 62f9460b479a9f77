"""A node of the prefix index, and the list of all nodes by their last use; laid out for little memory.

There are as many nodes as prompts, so each has what it needs and nothing else: no dictionary while it has one child,
holders that it shares with its neighbours, and the links of the list in itself.
"""

from collections.abc import Iterator

from prefillshare.routing.choice.blocks import DIGEST_BYTES
from prefillshare.routing.choice.holders import NOBODY, Holders, copied


class Node:
    """The digests between a parent and this node, and who holds the prompt up to its end."""

    __slots__ = ("below", "edge", "holders", "newer", "older", "parent", "used")

    def __init__(self, edge: bytes, parent: "Node | None") -> None:
        self.edge = edge
        self.parent = parent
        self.holders: Holders = NOBODY
        self.below: Node | dict[bytes, Node] | None = None
        """Its only child, or children by the first digest of their edges."""
        self.used = 0
        """When it was used, as `Recency` counts; the older the less."""
        self.older: Node = self
        self.newer: Node = self

    @property
    def is_leaf(self) -> bool:
        """Whether it has no children."""
        return self.below is None

    def child(self, digest: bytes) -> "Node | None":
        """Return the child whose edge begins with `digest`."""
        below = self.below
        if isinstance(below, dict):
            return below.get(digest)
        return below if below is not None and below.edge.startswith(digest) else None

    def put_child(self, child: "Node") -> None:
        """Add `child`, or let it stand in place of the one whose edge begins alike."""
        digest, below = child.edge[:DIGEST_BYTES], self.below
        if isinstance(below, dict):
            below[digest] = child
        elif below is None or below.edge.startswith(digest):
            self.below = child
        else:
            self.below = {below.edge[:DIGEST_BYTES]: below, digest: child}

    def drop_child(self, child: "Node") -> None:
        """Remove `child`."""
        below = self.below
        if not isinstance(below, dict):
            self.below = None
            return
        del below[child.edge[:DIGEST_BYTES]]
        if len(below) == 1:
            self.below = next(iter(below.values()))

    def split(self, at: int) -> "Node":
        """Put a node before this one that ends `at` bytes into its edge, and return it."""
        assert self.parent is not None
        upper = Node(self.edge[:at], self.parent)
        upper.holders = copied(self.holders)
        self.parent.put_child(upper)
        self.edge = self.edge[at:]
        self.parent = upper
        upper.below = self
        return upper


class Recency:
    """Nodes from the longest unused to the latest used: a ring of links through the nodes and one that stands for none.

    `used` of a node is the number of the touch that moved it last; those of one touch have the same.
    """

    def __init__(self) -> None:
        self._ring = Node(b"", None)
        self._num_nodes = 0
        self._num_touches = 0

    def __len__(self) -> int:
        return self._num_nodes

    def __iter__(self) -> Iterator[Node]:
        node = self._ring.newer
        while node is not self._ring:
            yield node
            node = node.newer

    def first(self) -> Node:
        """Return the longest unused node; there must be one."""
        return self._ring.newer

    def append(self, node: Node) -> None:
        """Add a node as the latest used."""
        self._num_nodes += 1
        self._link_last(node)

    def remove(self, node: Node) -> None:
        """Take a node out."""
        self._num_nodes -= 1
        self._unlink(node)

    def touch(self, path: list[Node]) -> None:
        """Note that the nodes from the root downwards were used: the deepest comes first, the topmost last."""
        self._num_touches += 1
        now = self._num_touches
        for node in reversed(path):
            node.used = now
            self._unlink(node)
            self._link_last(node)

    def _link_last(self, node: Node) -> None:
        ring = self._ring
        last = ring.older
        node.older, node.newer = last, ring
        last.newer = ring.older = node

    def _unlink(self, node: Node) -> None:
        node.older.newer, node.newer.older = node.newer, node.older
        node.older = node.newer = node
