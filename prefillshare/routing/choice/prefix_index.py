"""Which worker holds which prefix: a tree over digests of prompts, so that no text is kept.

Lengths are in bytes of prompts, whole blocks (`blocks.py`); inside the tree they are bytes of digests.
"""

from prefillshare.routing.choice.blocks import Blocks
from prefillshare.routing.choice.matched import Matched
from prefillshare.routing.choice.prefix_tree import PrefixTree

BLOCK_BYTES = 64


class PrefixIndex:
    """Prefixes by worker; forgets the longest unused ones beyond `max_bytes` of memory."""

    def __init__(self, max_bytes: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.tree = PrefixTree(max_bytes)
        self._blocks = Blocks(block_bytes)

    @property
    def max_bytes(self) -> int:
        """Memory that it may take."""
        return self.tree.max_bytes

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.tree.num_bytes

    @property
    def num_nodes(self) -> int:
        """Prefixes that it knows."""
        return self.tree.num_nodes

    def covered(self, num_bytes: int) -> int:
        """Return how many bytes of a prompt of `num_bytes` can be found."""
        return self._blocks.covered(num_bytes)

    def digest(self, prompt: bytes) -> bytes:
        """Return what the index knows `prompt` by."""
        return self._blocks.digest(prompt)

    def find(self, prompt: bytes, digest: bytes | None = None) -> Matched:
        """Return who holds how much of `prompt`, whose digest may be known; good until the index changes."""
        scale, length = self._blocks.scale, len(prompt)
        levels = self.tree.find(self.digest(prompt) if digest is None else digest)
        # A prompt that is shorter than a block is padded to one.
        return Matched([(min(position * scale, length), holders) for position, holders in levels])

    def match(self, prompt: bytes) -> dict[str, int]:
        """Return for each worker how many bytes of `prompt` it holds; workers that hold none are left out."""
        return self.find(prompt).as_dict()

    def insert(self, prompt: bytes, *workers: str) -> None:
        """Remember that each of `workers` holds the whole of `prompt`."""
        self.insert_digest(self.digest(prompt), *workers)

    def insert_digest(self, digest: bytes, *workers: str) -> None:
        """Remember that each of `workers` holds the whole of the prompt with this digest."""
        self.tree.insert(digest, *workers)

    def forget(self, worker: str) -> None:
        """Drop everything that `worker` holds: it left, restarted or flushed its cache."""
        self.tree.forget(worker)

    def drop(self, worker: str, num_bytes: float) -> float:
        """Drop about `num_bytes` of what `worker` holds, the longest unused first, whole edges only.

        Returns how many bytes less that were; they are dropped with the next ones, unless it holds nothing any more.
        """
        return self.tree.drop(worker, num_bytes / self._blocks.scale) * self._blocks.scale

    def held_bytes(self, worker: str) -> int:
        """Bytes of all prefixes that `worker` holds, shared beginnings once."""
        return self.tree.held_bytes(worker) * self._blocks.scale
