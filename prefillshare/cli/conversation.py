"""The interactive part of `prefillshare chat`: reading lines, commands, and answers that can be stopped."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from prefillshare.cli.ask import usage_line
from prefillshare.cli.output import paint, put, say
from prefillshare.config.tables import nearest
from prefillshare.errors import ConfigError, PrefillShareError, ServerError
from prefillshare.serving.client import Client, Message, Usage

_HELP = """\
/model NAME   let another module answer from here on, over the same conversation
/models       list the modules
/reset        forget the conversation
/help         this list
/quit         leave (or Ctrl-D)
Ctrl-C stops an answer without leaving."""
_HISTORY_LINES = 1000


class Conversation:
    """Messages so far, and the module that answers next."""

    def __init__(
        self, *, client: Client, module: str | None, system: str | None, max_tokens: int | None, temperature: float
    ) -> None:
        self.names = client.models()
        self.module = self._known(module) if module else self.names[0]
        self.messages: list[Message] = []
        self._client, self._system = client, system
        self._max_tokens, self._temperature = max_tokens, temperature
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages[:] = [{"role": "system", "content": self._system}] if self._system else []

    def switch(self, name: str) -> None:
        """Let module `name` answer from here on.

        Raises: ConfigError when the server has no such module.
        """
        self.module = self._known(name)

    def answer(self, question: str, show: Callable[[str], None]) -> Usage | None:
        """Ask the current module; `show` gets the answer piece by piece.

        Effects: question and answer join the conversation; after Ctrl-C, what was said of the answer does. When the
        server refuses, the conversation is as before.
        Raises: ServerError when the server refuses or cannot be reached.
        """
        asked: list[Message] = [*self.messages, {"role": "user", "content": question}]
        parts: list[str] = []
        usage: Usage | None = None
        pieces = self._client.chat(self.module, asked, max_tokens=self._max_tokens, temperature=self._temperature)
        try:
            for piece in pieces:
                parts.append(piece.text)
                usage = piece.usage or usage
                show(piece.text)
        except KeyboardInterrupt:
            show(" ...")
        finally:
            pieces.close()
        self.messages[:] = [*asked, {"role": "assistant", "content": "".join(parts)}]
        return usage

    def _known(self, name: str) -> str:
        if name not in self.names:
            raise ConfigError(f"the server has no module {name!r}: {nearest(name, self.names)}")
        return name


def talk(conversation: Conversation) -> None:
    """Read lines until the end; answer them or obey them."""
    is_terminal = sys.stdin.isatty()
    with _history() if is_terminal else contextlib.nullcontext():
        if is_terminal:
            say(f"modules: {', '.join(conversation.names)}; /help lists the commands")
        while (line := _read_line(conversation.module, is_terminal)) is not None:
            try:
                if not _handle(conversation, line.strip()):
                    return
            except PrefillShareError as error:
                if not is_terminal:
                    raise
                say(f"error: {error}")


def _handle(conversation: Conversation, line: str) -> bool:
    """Return whether to go on."""
    command, _, argument = line.partition(" ")
    if not line:
        return True
    if not line.startswith("/"):
        _answer(conversation, line)
    elif command == "/model" and argument.strip():
        conversation.switch(argument.strip())
        say(f"{conversation.module} answers from here on")
    elif command in ("/model", "/models"):
        for name in conversation.names:
            put(f"{'*' if name == conversation.module else ' '} {name}")
    elif command == "/reset":
        conversation.reset()
        say("the conversation is forgotten")
    elif command == "/help":
        put(_HELP)
    else:
        if command not in ("/quit", "/exit"):
            raise ConfigError(f"there is no command {command}: /help lists them")
        return False
    return True


def _answer(conversation: Conversation, question: str) -> None:
    def show(text: str) -> None:
        print(text, end="", flush=True)

    try:
        usage = conversation.answer(question, show)
    except ServerError:
        print(flush=True)
        raise
    print(flush=True)
    text = usage_line(usage) if usage else "stopped; what was said stays in the conversation"
    say(paint(f"[{conversation.module}] {text}", "dim", sys.stderr))


def _read_line(module: str, is_terminal: bool) -> str | None:
    """Return the next line, or None at the end of the input."""
    while True:
        try:
            return input(f"{module}> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                say()
            return None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            say("\n/quit or Ctrl-D leaves")


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing with a history that is kept between conversations."""
    import readline

    root = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "prefillshare"
    file = root / "chat_history"
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        readline.read_history_file(file)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
            file.chmod(0o600)
