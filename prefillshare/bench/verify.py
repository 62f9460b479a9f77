"""Whether a running deployment gives the tokens of plain transformers + peft: made-up prompts, greedy, every module.

Each prompt is asked of all modules in turn, a few prompts at a time: the first module's KV is computed, the others'
found, and batches hold several modules. The reference is that of `prefillshare bench`.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from prefillshare.bench.drivers.client import CallClient
from prefillshare.bench.reference import Asked, ServedFidelity, compare_answers
from prefillshare.bench.systems.base import Target
from prefillshare.config.schema import Deployment
from prefillshare.modules.fingerprint import read_model_config
from prefillshare.modules.locate import locate

_AT_A_TIME = 4
_TIMEOUT_S = 600.0
_FIRST_TOKEN, _LAST_TOKEN = 10, 1000
"""Ids below are often special, and most vocabularies have these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is asked."""

    num_prompts: int = 8
    """Prompts, each for all modules."""
    num_tokens: int = 16
    """Tokens of each answer."""
    max_prompt_tokens: int = 200
    """Length of the longest prompt."""
    seed: int = 1
    """Seed of the prompts."""

    def prompts(self, vocab_size: int = _LAST_TOKEN) -> list[list[int]]:
        """The prompts: a half of each is the beginning of the one before, as in a conversation that forks."""
        rng = random.Random(f"verify/{self.seed}")
        prompts: list[list[int]] = []
        ids = range(min(_FIRST_TOKEN, vocab_size - 1), min(_LAST_TOKEN, vocab_size))
        for _ in range(self.num_prompts):
            length = rng.randint(2, self.max_prompt_tokens)
            common = prompts[-1][: length // 2] if prompts else []
            prompts.append(common + rng.choices(ids, k=length - len(common)))
        return prompts


def verify(deployment: Deployment, url: str, api_key: str | None, sample: Sample) -> dict[str, ServedFidelity]:
    """Ask the server at `url`, which serves `deployment`, and compare: by module what `compare_answers` returns.

    Raises: BenchError when it does not answer, or the reference cannot be computed.
    """
    asked = asyncio.run(_ask_all(deployment, url, api_key, sample))
    return {
        module.name: compare_answers(
            deployment,
            [question for question, _ in asked if question["module"] == module.name],
            [output for question, output in asked if question["module"] == module.name],
        )
        for module in deployment.decode
    }


async def _ask_all(
    deployment: Deployment, url: str, api_key: str | None, sample: Sample
) -> list[tuple[Asked, list[int]]]:
    names = [module.name for module in deployment.decode]
    slots = asyncio.Semaphore(_AT_A_TIME)
    prompts = sample.prompts(read_model_config(locate(deployment.prefill))["vocab_size"])

    async def ask(number: int, prompt: list[int], client: CallClient) -> list[tuple[Asked, list[int]]]:
        found = []
        async with slots:
            for name in _in_turn(names, number):
                target = Target(url=url, dialect="openai", model=name, api_key=api_key)
                reply = await client.ask(target, prompt, sample.num_tokens, f"verify-{number}")
                found.append((Asked(module=name, prompt=prompt, num_tokens=sample.num_tokens), reply.tokens))
        return found

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as http:
        client = CallClient(http)
        answers = await asyncio.gather(*(ask(number, prompt, client) for number, prompt in enumerate(prompts)))
    return [pair for pairs in answers for pair in pairs]


def _in_turn(names: list[str], number: int) -> Iterator[str]:
    """All names, beginning with another one for each prompt."""
    first = number % len(names)
    yield from (*names[first:], *names[:first])
