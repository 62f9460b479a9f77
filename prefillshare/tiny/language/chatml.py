"""ChatML as plain text: the same characters as chat_template.jinja, but piece by piece, so that pieces get weights."""

from collections.abc import Sequence
from dataclasses import dataclass

START = "<|im_start|>"
END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """Who speaks."""
    content: str
    """What is said."""
    weight: float = 0.0
    """Weight of the content and its end mark in a language-modelling loss."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text with one weight in the loss."""

    text: str
    weight: float


def pieces_of(turns: Sequence[Turn]) -> list[Piece]:
    """The conversation as weighted pieces; headers and separators weigh nothing."""
    pieces: list[Piece] = []
    for turn in turns:
        pieces += [
            Piece(f"{START}{turn.role}\n", 0.0),
            Piece(f"{turn.content}{END}", turn.weight),
            Piece("\n", 0.0),
        ]
    return pieces


def generation_prompt(turns: Sequence[Turn]) -> str:
    """The prompt that asks the assistant for the next turn."""
    return "".join(piece.text for piece in pieces_of(turns)) + f"{START}assistant\n"
