"""The client of `ask` and `chat` against a real server, and against none."""

import pytest

from prefillshare.errors import ServerError
from prefillshare.serving.client import Client, Usage
from prefillshare.serving.launch import RunningDeployment
from prefillshare.serving.machine.ports import free_port

QUESTION = "apple train price number total each shop " * 4


def _ask(client: Client, model: str, prompt: str) -> tuple[str, Usage]:
    pieces = list(client.chat(model, [{"role": "user", "content": prompt}], max_tokens=8, temperature=0))
    usage = pieces[-1].usage
    assert usage is not None
    return "".join(piece.text for piece in pieces), usage


def test_decode_modules_are_listed_before_the_prefill_module(random_server: RunningDeployment) -> None:
    with Client(random_server.url) as client:
        assert client.models() == ["math", "tool", "code", "random-base"]


def test_a_prompt_first_seen_by_one_module_is_cached_for_the_others(random_server: RunningDeployment) -> None:
    with Client(random_server.url + "/v1/") as client:
        first_text, first = _ask(client, "math", QUESTION)
        second_text, second = _ask(client, "tool", QUESTION)
    assert first.cached_tokens < first.prompt_tokens // 2
    assert second.cached_tokens == second.prompt_tokens - 1
    assert first_text != second_text
    assert first.generated_tokens == 8


def test_an_unknown_module_is_answered_with_the_list(random_server: RunningDeployment) -> None:
    with Client(random_server.url) as client, pytest.raises(ServerError, match=r"'maths' .* math, tool"):
        _ask(client, "maths", "hi")


def test_a_prompt_that_is_too_long_is_refused_with_the_reason(random_server: RunningDeployment) -> None:
    with Client(random_server.url) as client, pytest.raises(ServerError, match="context length"):
        _ask(client, "math", "apple " * 6000)


def test_a_closed_answer_ends_the_generation(random_server: RunningDeployment) -> None:
    with Client(random_server.url) as client:
        pieces = client.chat("math", [{"role": "user", "content": "go"}], max_tokens=2000, temperature=0)
        next(pieces)
        pieces.close()
        text, _ = _ask(client, "math", "still there")
    assert text


def test_no_server_says_how_to_start_one() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(ServerError, match="prefillshare launch"):
        client.models()


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "foo:bar", "http://a:70000", "http://[a", "http://a b"])
def test_a_bad_address_is_named(url: str) -> None:
    with pytest.raises(ServerError, match="is not an address"):
        Client(url)
