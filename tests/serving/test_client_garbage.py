"""The clients of the command line before servers that answer 200 with something else than what was asked for."""

import json
from typing import Any

import pytest

from prefillshare.cli.errors import EXIT_CODES
from prefillshare.errors import ServerError
from prefillshare.serving.change_client import ChangeClient
from prefillshare.serving.client import Client, Piece, Usage
from tests.support.commands import run_prefillshare
from tests.support.http import answering, serving

SERVER_ERROR = dict(EXIT_CODES)[ServerError]
LINE_ENDS = "a\u2028b\u2029c\x85d\x1ce\x0bf"
"""What Python takes for ends of lines beside the one that a stream has."""


def stream(*events: Any) -> bytes:
    """Events as SGLang writes them: UTF-8, and only what JSON must escape is escaped."""
    texts = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def pieces_of(content: bytes) -> list[Piece]:
    with serving(answering(content, "text/event-stream")) as url, Client(url) as client:
        return list(client.chat("math", [{"role": "user", "content": "a"}], max_tokens=None, temperature=0))


def delta(content: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content}}]}


def test_an_answer_may_hold_every_letter() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}
    found = pieces_of(stream(delta(None), delta(LINE_ENDS), {"choices": [], "usage": usage}, "[DONE]"))
    assert found == [Piece(text=LINE_ENDS), Piece(usage=Usage(prompt_tokens=3, cached_tokens=0, generated_tokens=2))]


@pytest.mark.parametrize(
    "event",
    ["<html>", '{"choices": [{"delta"', "[1]", '{"choices": 3}', '{"choices": ["a"]}', delta(3), {"usage": "much"}],
)
def test_an_event_that_is_none_is_told(event: Any) -> None:
    with pytest.raises(ServerError, match="sent what is no event of a chat") as caught:
        pieces_of(stream(delta("a"), event))
    assert (event if isinstance(event, str) else json.dumps(event)) in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>It works!</html>", b"", b'{"choices": []}', b"\xff\n\xfe"])
def test_what_is_no_stream_is_no_empty_answer(content: bytes) -> None:
    with pytest.raises(ServerError, match="correct --url"):
        pieces_of(content)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ask_says_what_came(options: tuple[str, ...]) -> None:
    with serving(answering(stream(delta("a"), "{"), "text/event-stream")) as url:
        done = run_prefillshare("ask", "math", "a", "--url", url, *options)
    assert done.returncode == SERVER_ERROR
    assert "error: the server at http" in done.stderr
    assert "b'data: {'" in done.stderr
    assert "internal error" not in done.stderr


def aliases_of(content: bytes) -> dict[str, Any]:
    with serving(answering(content)) as url, ChangeClient(url, admin_key=None, api_key=None) as client:
        return client.aliases()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"aliases": ["a"]}'])
def test_aliases_of_another_server_are_none(content: bytes) -> None:
    with pytest.raises(ServerError, match="correct --url"):
        aliases_of(content)
