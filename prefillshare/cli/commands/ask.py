"""`prefillshare ask`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli.completion import complete_model
from prefillshare.cli.output import put_json, say
from prefillshare.cli.server_options import ApiKey, MaxTokens, System, Temperature, Url, server_url
from prefillshare.cli.text import read_stdin, text_option

if TYPE_CHECKING:
    from prefillshare.serving.client import Message, Usage


def ask(
    module: Annotated[
        str,
        typer.Argument(
            help="Name of a decode module, or of the prefill module.",
            callback=text_option,
            autocompletion=complete_model,
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; `-` or nothing reads it from stdin.", callback=text_option)
    ] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer and usage as one line of JSON.")] = False,
) -> None:
    """Ask one module of a running server one question."""
    from prefillshare.serving.client import Client

    messages = _messages(system, prompt)
    parts: list[str] = []
    usage: Usage | None = None
    with Client(server_url(url), api_key) as client:
        for piece in client.chat(module, messages, max_tokens=max_tokens, temperature=temperature):
            parts.append(piece.text)
            usage = piece.usage or usage
            if not as_json:
                print(piece.text, end="", flush=True)
    if as_json:
        put_json({"model": module, "answer": "".join(parts), "usage": _usage_dict(usage)})
        return
    print(flush=True)
    if usage:
        say(usage_line(usage))


def usage_line(usage: "Usage") -> str:
    """Return the tokens of one answer for a person."""
    return (
        f"prompt {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached; generated {usage.generated_tokens}"
    )


def _messages(system: str | None, prompt: str | None) -> "list[Message]":
    from prefillshare.errors import ConfigError

    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            say("type the question, end with Ctrl-D:")
        prompt = read_stdin("the question on stdin").strip()
    if not prompt.strip():
        raise ConfigError('the question is empty: write it as the last argument, such as ask math "2 + 2 = ?"')
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": prompt}]


def _usage_dict(usage: "Usage | None") -> dict[str, int] | None:
    from dataclasses import asdict

    return asdict(usage) if usage else None
