"""Where `chat` reads: at a terminal, with editing, pastes and a history, or lines from a pipe.

A question may have several lines: pasted, made with Alt-Enter, or between two lines of three quotation marks.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from prefillshare.cli.output import say
from prefillshare.cli.text import check_text, stdin_lines

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

QUOTES = '"""'


class Questions(Protocol):
    """Where questions come from."""

    is_terminal: bool
    """Whether somebody sits there who can try again."""

    def next(self, module: str) -> str | None:
        """Return the next question or command, or None at the end; `module` answers it.

        Raises: ConfigError when what was given is no text.
        """
        ...


def open_questions() -> Questions:
    """Those of this process's stdin."""
    return Typed() if sys.stdin.isatty() and sys.stdout.isatty() else Piped(stdin_lines("stdin"))


class Piped:
    """One question a line."""

    is_terminal = False

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def next(self, module: str) -> str | None:
        """See `Questions`."""
        text = next(self._lines, None)
        while text is not None and _is_open(text) and (line := next(self._lines, None)) is not None:
            text = f"{text}\n{line}"
        return text if text is None else _strip_quotes(text)


class Typed:
    """Somebody at a terminal."""

    is_terminal = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession

        from prefillshare.cli.chat_history import open_history

        self._session: PromptSession[str] = PromptSession(
            history=open_history(),
            multiline=True,
            key_bindings=_make_keys(),
            enable_suspend=True,
            prompt_continuation=lambda width, number, wraps: " " * width,
        )

    def next(self, module: str) -> str | None:
        """See `Questions`."""
        while True:
            try:
                return _strip_quotes(check_text(self._session.prompt(f"{module}> "), "the question"))
            except EOFError:
                return None
            except KeyboardInterrupt:
                say("/quit or Ctrl-D leaves")


def _make_keys() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: "KeyPressEvent") -> None:
        if _is_open(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def alt_enter(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _is_open(text: str) -> bool:
    text = text.strip()
    return text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES))


def _strip_quotes(text: str) -> str:
    text = text.strip()
    return text.removeprefix(QUOTES).removesuffix(QUOTES).strip() if text.startswith(QUOTES) else text
