"""Prompts as strings of block digests: a sixteenth of their bytes, and what begins alike still begins alike.

    prompt    |--- 64 bytes ---|--- 64 bytes ---|--- 64 bytes ---|- rest -|
    digests   |4|4|4|                                    left out, unless it is all there is

Two prompts have as many digests in common as whole blocks. That is exact enough: a block is some 16 tokens, as much as
a page of KV often is. A digest depends on secrets of the process; of two unequal blocks, it is equal once in four
thousand million times, and then costs a choice that is not the best.

The first blocks are hashed one by one, as Python hashes bytes, those after them all at once, each to a sum of products
with random factors: of a long prompt that takes half as long. A short one takes less the other way, most of all where
calls are rare, and what numpy runs through has left the processor's caches.
"""

import secrets
from array import array

import numpy as np

DIGEST_BYTES = 4
_NUM_SINGLE = 64
"""Blocks that are hashed one by one. Which way a block goes is a matter of its place alone, whatever comes after it."""
_MASK = 0xFFFFFFFF
_WORD = np.dtype("<u4")


class Blocks:
    """Digests of blocks of one size."""

    def __init__(self, block_bytes: int) -> None:
        """`block_bytes` is a multiple of 4."""
        self._block_bytes = block_bytes
        self._num_words = block_bytes // _WORD.itemsize
        # Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast"): words of 32 bits, random
        # factors of 64, and of the sum the upper half.
        self._factors = np.frombuffer(secrets.token_bytes(8 * self._num_words), dtype=np.uint64)

    @property
    def scale(self) -> int:
        """Bytes of a prompt for which a byte of digests stands."""
        return self._block_bytes // DIGEST_BYTES

    def digest(self, prompt: bytes) -> bytes:
        """Return the digests of the blocks of `prompt`."""
        num_blocks = len(prompt) // self._block_bytes
        if num_blocks == 0:
            prompt, num_blocks = prompt.ljust(self._block_bytes, b"\0"), 1
        size, num_single = self._block_bytes, min(num_blocks, _NUM_SINGLE)
        starts = range(0, num_single * size, size)
        singly = array("I", [hash(prompt[start : start + size]) & _MASK for start in starts]).tobytes()
        num_left = num_blocks - num_single
        return singly + self._digest_together(prompt, num_single * size, num_left) if num_left else singly

    def _digest_together(self, prompt: bytes, start: int, num_blocks: int) -> bytes:
        words = np.frombuffer(prompt, _WORD, num_blocks * self._num_words, start).reshape(num_blocks, self._num_words)
        return ((words @ self._factors) >> np.uint64(32)).astype(_WORD).tobytes()

    def covered(self, num_bytes: int) -> int:
        """Return how many bytes of a prompt of `num_bytes` its digests stand for."""
        return num_bytes if num_bytes < self._block_bytes else num_bytes - num_bytes % self._block_bytes
