"""How many tokens of KV several contexts take together, where many of them begin alike.

A context is cut into blocks, each named by a digest of itself and of all before it: two contexts share a block if, and
only if, they are the same up to its end. A block counts once, however many hold it; what is left beyond the last whole
block counts for each.

    context A   |==1==|==2==|==3==|-tail-|
    context B   |==1==|==2==|==4==|==5==|-|        held: blocks 1 to 5, two tails
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

import xxhash

BLOCK_TOKENS = 64
"""Smaller ones would tell little more: contexts part at a handful of places, and each costs half a block."""


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens of a prompt."""

    blocks: tuple[int, ...]
    """Digests of its whole blocks."""
    tail_tokens: int
    """What is left beyond them."""

    @property
    def num_tokens(self) -> int:
        """Its length."""
        return len(self.blocks) * BLOCK_TOKENS + self.tail_tokens


def cut(tokens: array[int], namespace: str) -> Context:
    """Name the blocks of a prompt; equal tokens in two namespaces have nothing in common (I7)."""
    data, step = memoryview(tokens).cast("B"), BLOCK_TOKENS * tokens.itemsize
    digest, blocks = xxhash.xxh3_64_intdigest(namespace.encode(errors="surrogatepass")), []
    for start in range(0, len(data) - step + 1, step):
        digest = xxhash.xxh3_64_intdigest(data[start : start + step], seed=digest)
        blocks.append(digest)
    return Context(blocks=tuple(blocks), tail_tokens=len(tokens) % BLOCK_TOKENS)


class HeldTokens:
    """What all holders take together."""

    def __init__(self) -> None:
        self._holders: Counter[int] = Counter()
        self._num_tail_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of KV."""
        return len(self._holders) * BLOCK_TOKENS + self._num_tail_tokens

    def add(self, context: Context) -> None:
        """Somebody more holds it."""
        self._holders.update(context.blocks)
        self._num_tail_tokens += context.tail_tokens

    def remove(self, context: Context) -> None:
        """Somebody who held it holds it no more."""
        self._num_tail_tokens -= context.tail_tokens
        for block in context.blocks:
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]

    def count_missing(self, context: Context) -> int:
        """Tokens by which a further holder makes it more."""
        # Whoever holds a block holds all before it: the first that is missing is followed by others only.
        known = next((n for n, block in enumerate(context.blocks) if block not in self._holders), len(context.blocks))
        return context.num_tokens - known * BLOCK_TOKENS
