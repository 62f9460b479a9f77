"""Prompts as strings of block digests: a sixteenth of their bytes, and what begins alike still begins alike.

    prompt    |--- 64 bytes ---|--- 64 bytes ---|--- 64 bytes ---|- rest -|
    digests   |4|4|4|                                    left out, unless it is all there is

Two prompts have as many digests in common as whole blocks. That is exact enough: a block is some 16 tokens, as much as
a page of KV often is. A digest is a sum of products with random factors, which nobody outside of the process knows; of
two unequal blocks, it is equal once in four thousand million times, and then costs a choice that is not the best.
"""

import secrets

import numpy as np

DIGEST_BYTES = 4
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
        words = np.frombuffer(prompt, _WORD, num_blocks * self._num_words).reshape(num_blocks, self._num_words)
        return ((words @ self._factors) >> np.uint64(32)).astype(_WORD).tobytes()

    def covered(self, num_bytes: int) -> int:
        """Return how many bytes of a prompt of `num_bytes` its digests stand for."""
        return num_bytes if num_bytes < self._block_bytes else num_bytes - num_bytes % self._block_bytes
