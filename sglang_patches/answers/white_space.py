"""White space between the parts of a JSON answer comes to an end.

JSON allows any amount of it, so does the grammar, and a small model may go on with it until the answer is cut off.
(The grammar library can bound it as well; a schema of fifty members then takes hundreds of megabytes.) What stands
inside of a text is its writer's: in a JSON string no line break may follow, and in free text around the call of a tool
any letter may; between the parts of JSON it is the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_RUN = 16
"""Tokens of white space in a row; most vocabularies write any indentation with one or two."""
LONGEST_RUN_AFTER = 1
"""The same in the rest of an answer that has once reached the limit."""
_BITS = 32


class WhiteSpace:
    """The tokens of a vocabulary that are nothing but white space."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        import torch

        found = [token for token, text in enumerate(vocabulary) if text and not text.strip(b" \t\r\n")]
        self._tokens = frozenset(found)
        self._line_breaks = [token for token in found if vocabulary[token] == b"\n"]
        self._letters = [token for token, text in enumerate(vocabulary) if text == b"Z"]  # JSON has no word with it
        others = np.ones(-(-len(vocabulary) // _BITS) * _BITS, dtype=np.uint8)
        others[found] = 0
        self._others = torch.from_numpy(np.packbits(others, bitorder="little").view(np.int32).copy())

    def has_run(self, tokens: Sequence[int], length: int) -> bool:
        """Whether `tokens` end with so many of them."""
        return len(tokens) >= length and all(token in self._tokens for token in tokens[-length:])

    def take_out(self, row: Tensor) -> None:
        """Forbid them in `row`, the bits of what may follow, unless they stand in a text or are all there is.

        Effects: changes ``row``.
        """
        if not _allows(row, self._line_breaks) or _allows(row, self._letters):
            return
        num_words = min(len(row), len(self._others))
        rest = row[:num_words] & self._others[:num_words]
        if rest.any():
            row[:num_words] = rest


def _allows(row: Tensor, tokens: Sequence[int]) -> bool:
    return any(int(row[token // _BITS]) >> token % _BITS & 1 for token in tokens)
