"""Asks a suite of an OpenAI-compatible server, several questions at a time, and judges the answers."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Question, Suite, Verdict
from prefillshare.evaluation.statistics import wilson_interval
from prefillshare.serving.options import auth_header

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question, the answer, and the verdict."""

    question: str
    """The user's last turn."""
    reference: str
    """The reference answer."""
    answer: str
    """What the model said."""
    is_right: bool
    """The judge's verdict."""
    reason: str
    """Why it is wrong."""
    prompt_tokens: int = 0
    """Tokens of the prompt as the server counts them."""
    cached_tokens: int = 0
    """Prompt tokens that the server took from its prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Result of one model on one suite."""

    suite: str
    """Name of the suite."""
    model: str
    """Name under which the model was asked."""
    samples: tuple[Sample, ...]
    """Every question and answer."""

    @property
    def num_right(self) -> int:
        return sum(sample.is_right for sample in self.samples)

    @property
    def accuracy(self) -> float:
        return self.num_right / max(1, len(self.samples))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.num_right, len(self.samples))

    def as_dict(self) -> dict[str, Any]:
        figures = {"accuracy": self.accuracy, "num_right": self.num_right, "interval_95": list(self.interval)}
        return {**asdict(self), **figures}


def score_answers(suite: Suite, model: str, answers: list[str]) -> Score:
    """Judge answers that were made elsewhere, in the order of the suite's questions."""
    samples = [judge_answer(question, answer) for question, answer in zip(suite.questions, answers, strict=True)]
    return Score(suite=suite.name, model=model, samples=tuple(samples))


def score_served(
    suite: Suite,
    model: str,
    url: str,
    *,
    api_key: str | None = None,
    concurrency: int = 16,
    on_answer: Callable[[], None] | None = None,
) -> Score:
    """Ask every question of the suite over HTTP, greedily.

    Raises: EvaluationError when the server cannot be reached or refuses a question.
    """
    samples = asyncio.run(_ask_all(suite, model, url.rstrip("/"), api_key, concurrency, on_answer or (lambda: None)))
    return Score(suite=suite.name, model=model, samples=tuple(samples))


async def _ask_all(
    suite: Suite, model: str, url: str, api_key: str | None, concurrency: int, on_answer: Callable[[], None]
) -> list[Sample]:
    import httpx

    slots = asyncio.Semaphore(concurrency)
    try:
        http = httpx.AsyncClient(base_url=url, headers=auth_header(api_key), timeout=TIMEOUT_S, trust_env=False)
    except httpx.InvalidURL as error:
        raise EvaluationError(f"url {url!r} is not an address ({error}): correct --url") from None
    async with http as client:

        async def ask(question: Question) -> Sample:
            async with slots:
                answer, usage = await _ask(client, model, question, suite.max_new_tokens)
            sample = await asyncio.to_thread(judge_answer, question, answer, usage)
            on_answer()
            return sample

        return list(await asyncio.gather(*(ask(question) for question in suite.questions)))


async def _ask(
    client: "httpx.AsyncClient", model: str, question: Question, max_tokens: int
) -> tuple[str, dict[str, Any]]:
    import httpx

    body = {"model": model, "messages": list(question.messages), "temperature": 0, "max_tokens": max_tokens}
    if question.tools:
        body["tools"] = list(question.tools)
    try:
        response = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        raise EvaluationError(f"no answer from {client.base_url}: {error or type(error).__name__}") from error
    if response.status_code != 200:
        raise EvaluationError(f"{client.base_url} answered {response.status_code}: {response.text[:300]}")
    try:
        reply = response.json()
        return _text(reply["choices"][0]["message"]), reply.get("usage") or {}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise EvaluationError(
            f"{client.base_url} answered what is no chat completion ({response.text[:100]!r}): correct --url"
        ) from None


def _text(message: dict[str, Any]) -> str:
    """What the model said; calls that the server took out of it as a JSON list."""
    calls = [call["function"] for call in message.get("tool_calls") or []]
    if not calls:
        return message.get("content") or ""
    return (
        "["
        + ", ".join(f'{{"name": {json.dumps(call["name"])}, "arguments": {call["arguments"]}}}' for call in calls)
        + "]"
    )


def judge_answer(question: Question, answer: str, usage: dict[str, Any] | None = None) -> Sample:
    """Judge an answer; `usage` as in the chat API."""
    try:
        verdict = question.judge(answer)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        # Models write what no parser foresees, nested or counted without an end: one answer ends no evaluation.
        verdict = Verdict(is_right=False, reason=f"cannot be read ({type(error).__name__})")
    usage = usage or {}
    return Sample(
        question=question.asked,
        reference=question.reference,
        answer=answer,
        is_right=verdict.is_right,
        reason=verdict.reason,
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) or 0,
    )
