"""A worker's KV: a radix tree of prefixes in whole pages, locked while they are in use, and private tokens of calls.

A node holds the tokens between its parent and itself. Prompts are bytes, four per token, so that equal prefixes are
found without looking at tokens one by one. Whoever is evicted is the longest unused leaf that nobody has locked.

    capacity   |---- nodes (num_cached) ----|-- private (num_private) --|---- free ----|
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from prefillshare.observe.prefix import common_prefix

TOKEN_BYTES = 4


@dataclass(slots=True, eq=False)
class Node:
    """The end of a prefix."""

    edge: bytes
    parent: "Node | None"
    children: "dict[bytes, Node]" = field(default_factory=dict)
    num_locks: int = 0


class KvPool:
    """KV of one worker."""

    def __init__(self, capacity_tokens: int, page_size: int) -> None:
        """A capacity of 0 is without limit."""
        self.capacity_tokens = capacity_tokens or None
        self.num_cached = 0
        self.num_private = 0
        self.num_locked = 0
        self.num_evicted = 0
        self._page_bytes = page_size * TOKEN_BYTES
        self._root = Node(b"", None)
        # Deepest first on every use, so that a parent is always used later than its children and the first is a leaf.
        self._recency: OrderedDict[Node, None] = OrderedDict()

    def match(self, prompt: bytes) -> tuple[Node, int]:
        """Return the end of the longest prefix of `prompt` that is held, and its tokens; whole pages only."""
        node, position = self._walk(prompt)
        self._touch(node)
        return node, position // TOKEN_BYTES

    def insert(self, prompt: bytes) -> Node:
        """Hold the whole pages of `prompt`; room must have been reserved for what is new."""
        whole = prompt[: len(prompt) // self._page_bytes * self._page_bytes]
        node, position = self._walk(whole)
        if position < len(whole):
            child = Node(whole[position:], node)
            node.children[self._first_page(child)] = child
            self.num_cached += len(child.edge) // TOKEN_BYTES
            node = child
        self._touch(node)
        return node

    def lock(self, node: Node) -> None:
        """Keep the prefix that ends at `node` until `unlock`."""
        for above in _path(node):
            if not above.num_locks:
                self.num_locked += len(above.edge) // TOKEN_BYTES
            above.num_locks += 1

    def unlock(self, node: Node) -> None:
        """Let the prefix go again."""
        for above in _path(node):
            above.num_locks -= 1
            if not above.num_locks:
                self.num_locked -= len(above.edge) // TOKEN_BYTES

    def reserve(self, num_tokens: int) -> bool:
        """Make room for private tokens, evicting what is unused; return whether there is room."""
        if self.capacity_tokens is not None:
            if self.num_locked + self.num_private + num_tokens > self.capacity_tokens:
                return False
            self._evict(self.num_cached + self.num_private + num_tokens - self.capacity_tokens)
        self.num_private += num_tokens
        return True

    def release(self, num_tokens: int) -> None:
        """Give private tokens back."""
        self.num_private -= num_tokens

    def _evict(self, num_tokens: int) -> None:
        while num_tokens > 0:
            leaf = next(node for node in self._recency if not node.num_locks and not node.children)
            assert leaf.parent is not None
            num_tokens -= self._remove(leaf)

    def _remove(self, leaf: Node) -> int:
        assert leaf.parent is not None
        del leaf.parent.children[self._first_page(leaf)]
        del self._recency[leaf]
        num_tokens = len(leaf.edge) // TOKEN_BYTES
        self.num_cached -= num_tokens
        self.num_evicted += num_tokens
        return num_tokens

    def _walk(self, prompt: bytes) -> tuple[Node, int]:
        """Return the end of the longest held prefix and its bytes, splitting the edge in which it ends."""
        node, position = self._root, 0
        while child := node.children.get(prompt[position : position + self._page_bytes]):
            common = common_prefix(child.edge, prompt, position) // self._page_bytes * self._page_bytes
            if common < len(child.edge):
                return self._split(child, common), position + common
            node, position = child, position + common
        return node, position

    def _split(self, lower: Node, at: int) -> Node:
        """Put a node before `lower` that ends `at` bytes into its edge; whoever locks `lower` locks it as well."""
        assert lower.parent is not None
        upper = Node(lower.edge[:at], lower.parent, num_locks=lower.num_locks)
        lower.parent.children[self._first_page(upper)] = upper
        lower.edge, lower.parent = lower.edge[at:], upper
        upper.children[self._first_page(lower)] = lower
        self._recency[upper] = None
        return upper

    def _touch(self, node: Node) -> None:
        for above in _path(node):
            self._recency[above] = None
            self._recency.move_to_end(above)

    def _first_page(self, node: Node) -> bytes:
        return node.edge[: self._page_bytes]


def _path(node: Node) -> list[Node]:
    """Return `node` and all above it but the root, from below."""
    path = []
    while node.parent is not None:
        path.append(node)
        node = node.parent
    return path
