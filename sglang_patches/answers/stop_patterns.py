"""Stop patterns are matched in linear time.

A pattern is parsed by Python's parser, whose syntax is the documented one, and written again for RE2, which never tries
twice. What RE2 cannot do (looking around, references to groups) is refused when the call arrives. Two things differ
from Python: ``\\b`` knows the letters of ASCII only, and a newline that ``$`` allows at the very end is not matched by
what follows the ``$``. ``patches/stop_search`` puts ``search`` where the scheduler looks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from prefillshare.linear_patterns import PatternError, compile_linear

MAX_PATTERN_CHARACTERS = 1024
MAX_PROGRAM_SIZE = 4_000
"""Instructions of RE2; a Unicode class such as \\w takes some hundred."""

_MAX_MEMORY = 1 << 20
_SPACES = r"\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_NO_SPACES = (
    r"\x{0}-\x{8}\x{e}-\x{1b}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}"
)
_UNICODE = {
    op.CATEGORY_DIGIT: r"\p{Nd}",
    op.CATEGORY_NOT_DIGIT: r"\P{Nd}",
    op.CATEGORY_SPACE: _SPACES,
    op.CATEGORY_NOT_SPACE: _NO_SPACES,
    op.CATEGORY_WORD: r"\p{L}\p{N}_",
}
_ASCII = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\t-\r ",
    op.CATEGORY_NOT_SPACE: r"\x{0}-\x{8}\x{e}-\x{1f}!-\x{10ffff}",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
_UNSUPPORTED = {
    op.ASSERT: "a look-around",
    op.ASSERT_NOT: "a look-around",
    op.GROUPREF: "a reference to a group",
    op.GROUPREF_EXISTS: "a condition on a group",
    op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repetition",
}


def search(pattern: str, text: str) -> Any:
    """As ``re.search``.

    Raises: re.error when the pattern is not supported.
    """
    # A lone surrogate, as half a character decodes to, cannot be written in UTF-8.
    return compile_pattern(pattern).search(text.encode("utf-8", errors="replace").decode())


@functools.lru_cache(maxsize=128)
def compile_pattern(pattern: str) -> Any:
    """The pattern for RE2.

    Raises: re.error saying what is not supported.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise re.error(f"it has {len(pattern)} characters, more than {MAX_PATTERN_CHARACTERS}: shorten it")
    try:
        tree = sre_parser.parse(pattern)
        written = _Writer(tree.state.flags).sequence(tree)
    except (RecursionError, OverflowError):
        raise re.error("it is nested too deeply: make it flatter") from None
    return _compile(written)


def _compile(written: str) -> Any:
    try:
        compiled = compile_linear(written, _MAX_MEMORY)
    except PatternError as error:
        raise re.error(f"{error}; repetitions within each other may come to 1000 at most") from None
    if compiled.programsize > MAX_PROGRAM_SIZE:
        raise re.error(f"it takes {compiled.programsize} steps, more than {MAX_PROGRAM_SIZE}: make it smaller")
    return compiled


class _Writer:
    """Writes what Python's parser understood in RE2's syntax; groups and greed do not matter to a search."""

    def __init__(self, flags: int) -> None:
        self._flags = flags

    def sequence(self, items: Iterable[tuple[Any, Any]]) -> str:
        body = "".join(self._item(code, value) for code, value in items)
        return f"(?i:{body})" if self._flags & re.IGNORECASE else f"(?:{body})"

    def _item(self, code: Any, value: Any) -> str:
        if code in _UNSUPPORTED:
            raise re.error(f"{_UNSUPPORTED[code]} cannot be matched in linear time: write it without")
        writers: dict[Any, Callable[[Any], str]] = {
            op.LITERAL: _character,
            op.NOT_LITERAL: lambda value: f"[^{_character(value)}]",
            op.ANY: lambda _: "(?s:.)" if self._flags & re.DOTALL else r"[^\n]",
            op.IN: self._set,
            op.BRANCH: lambda value: "(?:" + "|".join(self.sequence(way) for way in value[1]) + ")",
            op.SUBPATTERN: self._group,
            op.MAX_REPEAT: self._repetition,
            op.MIN_REPEAT: self._repetition,
            op.AT: self._place,
        }
        if code not in writers:
            raise re.error(f"{str(code).lower()} is not supported: write it without")
        return writers[code](value)

    def _group(self, value: Any) -> str:
        _, added, removed, items = value
        return _Writer((self._flags | added) & ~removed).sequence(items)

    def _repetition(self, value: Any) -> str:
        least, most, items = value
        return f"{self.sequence(items)}{{{least},{'' if most == op.MAXREPEAT else most}}}"

    def _place(self, place: Any) -> str:
        is_multiline = self._flags & re.MULTILINE
        places = {
            op.AT_BEGINNING: "(?m:^)" if is_multiline else r"\A",
            op.AT_BEGINNING_STRING: r"\A",
            op.AT_END: "(?m:$)" if is_multiline else r"(?:\n?\z)",
            op.AT_END_STRING: r"\z",
            op.AT_BOUNDARY: r"\b",
            op.AT_NON_BOUNDARY: r"\B",
        }
        return places[place]

    def _set(self, members: Any) -> str:
        is_negated = members[0][0] is op.NEGATE
        rest = members[1:] if is_negated else members
        no_word = (op.CATEGORY, op.CATEGORY_NOT_WORD)
        if no_word in rest and not self._flags & re.ASCII:
            others = [member for member in rest if member != no_word]
            if is_negated and others:
                return _word_without(others)
            word = rf"[{'' if is_negated else '^'}{_UNICODE[op.CATEGORY_WORD]}]"
            return f"(?:{word}|{self._set(others)})" if others else word
        return f"[{'^' if is_negated else ''}{''.join(self._member(*member) for member in rest)}]"

    def _member(self, code: Any, value: Any) -> str:
        if code is op.RANGE:
            return f"{_character(value[0])}-{_character(value[1])}"
        if code is op.CATEGORY:
            return (_ASCII if self._flags & re.ASCII else _UNICODE)[value]
        return _character(value)


def _word_without(others: list[Any]) -> str:
    """What ``[^\\W...]`` means: characters of words without ``others``, of which RE2 can take two away."""
    underscore, digit = (op.LITERAL, ord("_")), (op.CATEGORY, op.CATEGORY_DIGIT)
    if not all(other in (underscore, digit) for other in others):
        raise re.error(r"\W in a negated set goes with _ and \d only: write it without")
    numbers = r"\p{Nl}\p{No}" if digit in others else r"\p{N}"
    return rf"[\p{{L}}{numbers}{'' if underscore in others else '_'}]"


def _character(number: int) -> str:
    return rf"\x{{{number:x}}}"
