"""Tones into the colours of the theme."""

from collections.abc import Iterable

from textual.content import Content

from prefillshare_tui.parts import Line, Tone

STYLES: dict[Tone, str] = {
    "plain": "",
    "strong": "$tone-strong bold",
    "dim": "$tone-dim",
    "own": "$tone-own",
    "cross": "$tone-cross",
    "missed": "$tone-missed",
    "good": "$success bold",
    "warn": "$warning",
    "bad": "$error bold",
}
"""Styles of Textual's content; the names are variables of the themes."""


def painted(lines: Iterable[Line]) -> Content:
    """Return the lines in colour."""
    return Content("\n").join(Content.assemble(*((part.text, STYLES[part.tone]) for part in parts)) for parts in lines)
