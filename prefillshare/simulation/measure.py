"""What the fit of a worker model asks of a deployment that runs, and what it sees.

Some prompts of each length are asked three times, one token each, one call at a time, so nothing waits:

    cold, module a         overhead + prefill of all + hand-off of all + a decode step
    again, module b        overhead + prefill of x_n + hand-off of all + a decode step
    again, module b        overhead + prefill of x_n + a decode step

Then one module decodes, some sequences at a time. And a long answer of one module is held up by short calls: of the
same module, which join its batch, and of another one, which take the same from the machine and join no batch of its.
"""

import asyncio
import random
import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import aiohttp

from prefillshare.bench.drivers.client import CallClient, Reply
from prefillshare.bench.systems.base import Target
from prefillshare.bench.workloads.base import FIRST_TOKEN
from prefillshare.simulation.core_clock import CoreClock, CoreSeconds, median_core_seconds

T = TypeVar("T")

_LENGTHS = (32, 64, 128, 256, 384, 512, 768, 1024, 1536)
_PROMPTS = 6
_BATCHES = ((1, 32), (1, 1024), (2, 256), (4, 32), (4, 512), (8, 256))
"""Calls at a time, and tokens of their prompts."""
_DECODED = 24
_MOST_STAGGERED = 1.5
"""Calls of a batch that are sent together are decoded together for most of their tokens."""
_JOINED = 96
"""Tokens of an answer that others join."""
_JOINED_LENGTH = 256
_JOINS = 3
"""How often that is done."""
_SETTLE_S = 0.02
"""After an answer, engines tidy up: that belongs to it."""
_VOCABULARY = 300
"""Made-up tokens lie below: every vocabulary has them."""
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one call of a kind took, one at a time."""

    first_s: float
    """Seconds to the first token, the median."""
    cores: CoreSeconds
    """Core seconds, the median; none where they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Prompts of one length, each asked three times."""

    length: int
    """Tokens of a prompt."""
    cold: Asked
    """Nothing was held."""
    moved: Asked
    """The prefill worker held it, the decode worker did not."""
    held: Asked
    """Both held it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Decode steps of one batch."""

    batch: int
    """Sequences."""
    length: int
    """Tokens of each prompt."""
    num_tokens: int
    """Tokens of each answer."""
    num_steps: float
    """Steps that it took to decode all of them."""
    seconds: float
    """Time of a step, the median."""
    cores: CoreSeconds
    """Core seconds of all the calls together."""

    @property
    def context(self) -> float:
        """Tokens of KV that a step reads, on average."""
        return self.batch * (self.length + self.num_tokens / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that was measured."""

    probes: Sequence[Probe]
    """Prompts."""
    steps: Sequence[Step]
    """Batches."""
    kv_token_bytes: int
    """KV of a token."""
    has_cores: bool
    """Whether core seconds are known."""
    join_s: float
    """How long a sequence is held up by one that joins its batch, the median."""


async def measure(targets: Sequence[Target], clock: CoreClock | None, tell: Callable[[str], None]) -> Found:
    """Ask the deployment's modules.

    Raises: BenchError when a call fails.
    """
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 24) as http:
        asker = _Asker(CallClient(http), targets, clock)
        for _ in range(2):  # the first calls of a deployment are slower
            await asker.probe(_LENGTHS[1])
        probes, steps = [], []
        for length in _LENGTHS:
            probes.append(await asker.probe(length))
            tell(f"prompts of {length} tokens: {_describe(probes[-1].cold, clock)}")
        for batch, length in _BATCHES:
            steps.append(await asker.decode(batch, length))
            tell(f"{batch} at a time of {length} tokens: {steps[-1].seconds * 1e3:.2f} ms per step")
        join_s = statistics.median([await asker.measure_join() for _ in range(_JOINS)])
        tell(f"a sequence that joins a batch: {join_s * 1e3:.2f} ms")
        return Found(
            probes=probes,
            steps=steps,
            kv_token_bytes=asker.kv_token_bytes,
            has_cores=clock is not None,
            join_s=join_s,
        )


def _describe(asked: Asked, clock: CoreClock | None) -> str:
    cores = f", {asked.cores.total * 1e3:.1f} ms of a core" if clock else ""
    return f"{asked.first_s * 1e3:.1f} ms to the first token{cores}"


class _Asker:
    """Asks prompts that nobody has seen."""

    def __init__(self, client: CallClient, targets: Sequence[Target], clock: CoreClock | None) -> None:
        self._client = client
        self._targets = targets
        self._clock = clock
        self._random = random.Random(uuid.uuid4().int)
        self.kv_token_bytes = 0

    async def probe(self, length: int) -> Probe:
        """Ask prompts of so many tokens, each three times."""
        prompts = [self._make_up(length) for _ in range(_PROMPTS)]
        pairs = [self._random.sample(self._targets, 2) for _ in prompts]
        first = [(pair[0], prompt) for pair, prompt in zip(pairs, prompts, strict=True)]
        second = [(pair[1], prompt) for pair, prompt in zip(pairs, prompts, strict=True)]
        cold, moved, held = [await self._ask_each(calls) for calls in (first, second, second)]
        return Probe(length=length, cold=cold, moved=moved, held=held)

    async def decode(self, batch: int, length: int) -> Step:
        """Decode so many sequences at a time, by each module in turn."""
        runs = [await self._decode_by(target, batch, length) for target in self._targets]
        # The median run, by what its engine took: others of the machine's work may have come between.
        return sorted(runs, key=lambda step: step.cores.decode / step.num_steps)[len(runs) // 2]

    async def _decode_by(self, target: Target, batch: int, length: int) -> Step:
        prompts = [self._make_up(length) for _ in range(batch)]
        # Known to all: so their KV comes at once, and nothing but decode steps is measured.
        for prompt in prompts:
            await self._ask(target, prompt, 1)

        async def decode_all() -> list[Reply]:
            calls = (self._ask(target, prompt, _DECODED) for prompt in prompts)
            return [reply for _, reply in await asyncio.gather(*calls)]

        replies, cores = await self._watch(decode_all)
        return Step(
            batch=batch,
            length=length,
            num_tokens=_DECODED,
            num_steps=_count_steps(replies),
            seconds=statistics.median(_step_s(reply) for reply in replies),
            cores=cores,
        )

    async def measure_join(self) -> float:
        """Return by how much longer a sequence takes for each that joins its batch."""
        own, other = self._random.sample(self._targets, 2)
        long, short = self._make_up(_JOINED_LENGTH), self._make_up(_JOINED_LENGTH)
        for target, prompt in ((own, long), (own, short), (other, short)):
            await self._ask(target, prompt, 1)  # so that their KV comes at once
        alone_s, _ = await self._decode_beside(own, long, None, short)
        held_up_s = []
        for joining in (own, other):
            seconds, number = await self._decode_beside(own, long, joining, short)
            held_up_s.append((seconds - alone_s) / number)
        return max(0.0, held_up_s[0] - held_up_s[1])

    async def _decode_beside(
        self, target: Target, prompt: list[int], joining: Target | None, short: list[int]
    ) -> tuple[float, int]:
        """Return the time from the first to the last token of a long answer, and how many calls were made beside."""
        answering = asyncio.create_task(self._ask(target, prompt, _JOINED))
        number = 0
        while joining is not None and not answering.done():
            await self._ask(joining, short, 1)
            number += 1
        _, reply = await answering
        return reply.times[-1] - reply.times[0], number

    async def _ask_each(self, calls: Sequence[tuple[Target, list[int]]]) -> Asked:
        asked = [await self._watch(partial(self._ask, target, prompt, 1)) for target, prompt in calls]
        return Asked(
            first_s=statistics.median(first_s for (first_s, _), _ in asked),
            cores=median_core_seconds([cores for _, cores in asked]),
        )

    async def _watch(self, work: Callable[[], Awaitable[T]]) -> tuple[T, CoreSeconds]:
        """Return what `work` returns, and what it took of the cores."""
        if self._clock is None:
            return await work(), CoreSeconds()
        await asyncio.sleep(_SETTLE_S)
        before = self._clock.read()
        result = await work()
        await asyncio.sleep(_SETTLE_S)
        return result, self._clock.read() - before

    async def _ask(self, target: Target, prompt: list[int], num_tokens: int) -> tuple[float, Reply]:
        """Return seconds to the first token, and the reply."""
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        reply = await self._client.ask(target, prompt, num_tokens, f"fit-{uuid.uuid4()}")
        if reply.handoff_tokens and reply.handoff_bytes:
            self.kv_token_bytes = reply.handoff_bytes // reply.handoff_tokens
        return reply.times[0] - begin_s, reply

    def _make_up(self, length: int) -> list[int]:
        return self._random.choices(range(FIRST_TOKEN, _VOCABULARY), k=length)


def _step_s(reply: Reply) -> float:
    # From the first token to the last: on a busy machine, tokens come several at once.
    return (reply.times[-1] - reply.times[0]) / (len(reply.times) - 1)


def _count_steps(replies: Sequence[Reply]) -> float:
    """Sequences do not begin together: there are as many more steps as all of them take longer than each of them.

    On a busy machine tokens come several at once, and this says little: it is kept to what is possible.
    """
    own_s = statistics.mean(reply.times[-1] - reply.times[0] for reply in replies)
    all_s = max(reply.times[-1] for reply in replies) - min(reply.times[0] for reply in replies)
    most = _MOST_STAGGERED if len(replies) > 1 else 1.0
    return 1 + (_DECODED - 1) * min(most, all_s / own_s if own_s > 0 else most)
