"""A call with a seed gets the same answer again: alone or in company, cold or warm, and for each of its samples."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment
from tests.support.engines import flush


def ask(server: RunningDeployment, seed: int | None, model: str = "math", **fields: Any) -> list[str]:
    """The answers to one question, with much left to chance."""
    body = {"model": model, "prompt": "hello there", "temperature": 1.5, "max_tokens": 24, "seed": seed, **fields}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return [choice["text"] for choice in reply.json()["choices"]]


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9, "top_k": 40, "min_p": 0.01}, {"logit_bias": {"40": 5}}], ids=str)
def test_a_seed_decides_whatever_else_runs(random_server: RunningDeployment, fields: dict[str, Any]) -> None:
    first = ask(random_server, 5, **fields)
    assert ask(random_server, 6, **fields) != first
    others: list[tuple[int | None, str]] = [
        (None, "code"),
        (7, "math"),
        (None, "math"),
        (5, "tool"),
        (5, "random-base"),
    ]
    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(ask, random_server, seed, model) for seed, model in others]
        again = [pool.submit(ask, random_server, 5, **fields) for _ in range(6)]
        answers = [call.result() for call in again]
        for call in running:
            call.result()
    assert answers == [first] * 6
    with httpx.Client(base_url=random_server.url, timeout=120) as http:
        flush(http)
    assert ask(random_server, 5, **fields) == first


def test_the_samples_of_a_call_differ_and_come_again(random_server: RunningDeployment) -> None:
    samples = ask(random_server, 5, n=3)
    assert len(set(samples)) == 3
    assert samples[0] == ask(random_server, 5)[0]
    assert ask(random_server, 5, n=3) == samples


def test_without_a_seed_answers_differ(random_server: RunningDeployment) -> None:
    assert len({ask(random_server, None)[0] for _ in range(3)}) > 1
