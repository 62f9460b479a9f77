"""The interactive part of `prefillshare chat`: commands, and answers that can be stopped."""

import sys
from collections.abc import Callable

from prefillshare.cli.chat_questions import open_questions
from prefillshare.cli.commands.ask import usage_line
from prefillshare.cli.output import paint, put, say
from prefillshare.config.tables import suggest_nearest
from prefillshare.errors import ConfigError, PrefillShareError, ServerError
from prefillshare.serving.client import Client, Message, Usage

_HELP = """\
/model NAME   let another module answer from here on, over the same conversation
/models       list the modules
/reset        forget the conversation
/help         this list
/quit         leave (or Ctrl-D)
Enter asks; Alt-Enter begins another line, and so does Enter between two \"\"\"; what is pasted is one question.
Ctrl-C stops an answer without leaving."""


class Conversation:
    """Messages so far, and the module that answers next."""

    def __init__(
        self, *, client: Client, module: str | None, system: str | None, max_tokens: int | None, temperature: float
    ) -> None:
        self.names = client.models()
        self.module = self._require_known(module) if module else self.names[0]
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
        self.module = self._require_known(name)

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

    def _require_known(self, name: str) -> str:
        if name not in self.names:
            raise ConfigError(f"the server has no module {name!r}: {suggest_nearest(name, self.names)}")
        return name


def talk(conversation: Conversation) -> None:
    """Read questions and commands until the end; answer or obey them."""
    source = open_questions()
    if source.is_terminal:
        say(f"modules: {', '.join(conversation.names)}; /help lists the commands")
    while True:
        try:
            text = source.next(conversation.module)
            if text is None or not _handle(conversation, text):
                return
        except PrefillShareError as error:
            if not source.is_terminal:
                raise
            say(f"error: {error}")


def _handle(conversation: Conversation, text: str) -> bool:
    """Return whether to go on."""
    command, _, argument = text.partition(" ")
    if not text:
        return True
    if not text.startswith("/") or "\n" in text:
        _answer(conversation, text)
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
