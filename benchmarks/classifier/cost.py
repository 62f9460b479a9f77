"""What choosing costs a call: the same questions to `auto` and to the module that it chooses, in turns, one engine."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.classifier.deployment import serving_auto
from benchmarks.classifier.problems import conversations
from prefillshare.tiny.language.chatml import Turn
from prefillshare.tiny.language.conversations import TASKS

_WARM_UP = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one state of the cache."""

    cached: str
    """Whether the prompt was cached."""
    num_calls: int
    """Pairs of calls."""
    choice_tokens: float
    """Tokens that the choice has computed of a prompt, mean; the call that follows finds all of them."""
    prompt_tokens: float
    """Tokens of a prompt, mean."""
    named_ms: float
    """Time to the end of an answer of one token by a named module, median."""
    auto_ms: float
    """The same where the module is chosen."""
    extra_ms: float
    """Median of the differences of the pairs."""


def measure_cost(classifier: Path, num_calls: int) -> list[Cost]:
    """Ask one engine of the tiny family."""
    with serving_auto(classifier) as http:
        asked = [turns for task in TASKS for turns in conversations(task, "as asked", num_calls // len(TASKS))]
        for turns in asked[:_WARM_UP]:
            _ask(http, "auto", turns)
        return [_measure(http, asked, is_cached=is_cached) for is_cached in (False, True)]


def _measure(http: httpx.Client, asked: Sequence[list[Turn]], *, is_cached: bool) -> Cost:
    times: dict[str, list[float]] = {"auto": [], "named": []}
    num_choice, num_prompt = [], []
    for number, turns in enumerate(asked):
        module = _ask(http, "auto", turns)[0]["model"]
        order = [("auto", "auto"), ("named", module)]
        for kind, model in order if number % 2 else reversed(order):
            if not is_cached:
                http.post("/flush_cache").raise_for_status()
            reply, seconds = _ask(http, model, turns)
            times[kind].append(seconds * 1e3)
            if kind == "auto":
                num_choice.append(reply["metadata"]["prefillshare"].get("choice_tokens", 0) + 1)
                num_prompt.append(reply["usage"]["prompt_tokens"])
    extra = [auto - named for auto, named in zip(times["auto"], times["named"], strict=True)]
    return Cost(
        cached="cached" if is_cached else "not cached",
        num_calls=len(asked),
        choice_tokens=statistics.mean(num_choice),
        prompt_tokens=statistics.mean(num_prompt),
        named_ms=statistics.median(times["named"]),
        auto_ms=statistics.median(times["auto"]),
        extra_ms=statistics.median(extra),
    )


def _ask(http: httpx.Client, model: str, turns: Sequence[Turn]) -> tuple[dict[str, Any], float]:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
    started = time.perf_counter()
    reply = http.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - started
    reply.raise_for_status()
    return reply.json(), seconds
