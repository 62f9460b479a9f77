"""A worker model of a deployment that runs: single calls for prefill and hand-off, some at a time for decode steps.

Every prompt is asked three times, one token each. What differs between the times is what one part takes:

    cold, module a         overhead + prefill of all + hand-off of all + a decode step
    again, module b        overhead + prefill of x_n + hand-off of all + a decode step
    again, module b        overhead + prefill of x_n + a decode step

Calls come one at a time, so nothing waits. On a machine without GPUs the workers share its cores: what the machine was
busy for during calls of one and of many tokens, less the steps, is what calls and tokens take of the cores beside.
"""

import asyncio
import random
import statistics
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
import psutil

from prefillshare.accelerators import gpus
from prefillshare.bench.drivers.client import CallClient, Reply
from prefillshare.bench.systems.base import Target
from prefillshare.bench.workloads.base import FIRST_TOKEN
from prefillshare.config.schema import Deployment
from prefillshare.errors import SimulationError
from prefillshare.serving.machine.host import num_cores
from prefillshare.serving.plan.cpu import CHUNKED_PREFILL_TOKENS, MAX_KV_TOKENS, MAX_RUNNING_REQUESTS
from prefillshare.simulation.model import DecodeModel, HandoffModel, PrefillModel, WorkerModel

_LENGTHS = (32, 64, 128, 256, 384, 512, 768, 1024, 1536)
_BATCHES = ((1, 32), (1, 1024), (2, 256), (4, 32), (4, 512), (8, 256))
"""Calls at a time, and tokens of their prompts."""
_DECODED = 24
_REPEATS = 5
_CORE_LENGTH = 64
_CORE_CALLS = 60
_VOCABULARY = 300
"""Made-up tokens lie below: every vocabulary has them."""
_TIMEOUT_S = 120.0
_GPU_CHUNK_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One prompt asked three times: seconds to the first token, medians over the repeats."""

    length: int
    """Tokens of the prompt."""
    cold_s: float
    """Nothing was held."""
    moved_s: float
    """The prefill worker held it, the decode worker did not."""
    held_s: float
    """Both held it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """What the machine's cores were busy for during calls of one length, one at a time."""

    length: int
    """Tokens of the prompt, which all workers hold."""
    call_s: float
    """Core seconds of a call with one token."""
    token_s: float
    """Core seconds of each further token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Decode steps of one batch."""

    batch: int
    """Sequences."""
    context: float
    """Tokens of KV of all of them."""
    seconds: float
    """Median time of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that was measured."""

    probes: Sequence[Probe]
    """Prompts."""
    steps: Sequence[Step]
    """Batches."""
    busy: Busy
    """Cores."""
    kv_token_bytes: int
    """KV of a token."""


def read_busy_s() -> float:
    """Return the core seconds for which this machine has been busy."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def fit_deployment(
    deployment: Deployment,
    url: str,
    api_key: str | None,
    tell: Callable[[str], None],
    read_busy_s: Callable[[], float] = read_busy_s,
) -> WorkerModel:
    """Return the worker model of the deployment that answers at `url`.

    `read_busy_s` says how long cores have been busy for it and its callers; by default, all of the machine is.

    Effects: asks it some hundred calls; nothing else should.
    Raises: SimulationError when it has fewer than two modules, BenchError when a call fails.
    """
    modules = [module.name for module in deployment.decode]
    if len(modules) < 2:
        raise SimulationError(
            f"{deployment.name} has one decode module, and hand-offs are measured between two: add one"
        )
    targets = [Target(url=url.rstrip("/"), model=name, api_key=api_key) for name in modules]
    found = asyncio.run(_measure(targets, tell, read_busy_s))
    return make_model(deployment, found)


def make_model(deployment: Deployment, found: Found) -> WorkerModel:
    """Return the model that gives the measured times back best."""
    probes, steps, kv_token_bytes = found.probes, found.steps, found.kv_token_bytes
    engine, on_cpu = deployment.engine, not gpus()
    chunk = engine.chunked_prefill_size or (CHUNKED_PREFILL_TOKENS if on_cpu else _GPU_CHUNK_TOKENS)
    pool = engine.max_total_tokens or (MAX_KV_TOKENS if on_cpu else 0)
    step_s, sequence_s, context_token_s = fit_decode(steps)
    prefill_step_s, token_s, pair_s = fit_prefill(probes, chunk)
    latency_s, moved_token_s = fit_handoff(probes)
    decode_s = [step_s + sequence_s + context_token_s * probe.length for probe in probes]
    decode_step_s = step_s + sequence_s + context_token_s * found.busy.length
    rest = statistics.median(probe.held_s - seconds for probe, seconds in zip(probes, decode_s, strict=True))
    return WorkerModel(
        name=f"{deployment.name}, fitted",
        source=f"{len(probes)} prompts and {len(steps)} batches, measured one after the other",
        prefill=PrefillModel(
            step_s=prefill_step_s, token_s=token_s, pair_s=pair_s, chunk_tokens=chunk, pool_tokens=pool
        ),
        decode=DecodeModel(
            step_s=step_s,
            sequence_s=sequence_s,
            context_token_s=context_token_s,
            max_running=engine.max_running_requests or (MAX_RUNNING_REQUESTS if on_cpu else 256),
            pool_tokens=pool,
        ),
        handoff=HandoffModel(
            bytes_per_s=kv_token_bytes / max(moved_token_s, 1e-9), kv_token_bytes=kv_token_bytes, latency_s=latency_s
        ),
        overhead_s=max(0.0, rest - prefill_step_s - token_s),
        page_size=engine.page_size or (1 if on_cpu else 16),
        shared_cores=num_cores() if on_cpu else 0,
        call_core_s=max(0.0, found.busy.call_s - prefill_step_s - token_s - decode_step_s) if on_cpu else 0.0,
        token_core_s=max(0.0, found.busy.token_s - decode_step_s) if on_cpu else 0.0,
    )


def fit_prefill(probes: Sequence[Probe], chunk: int) -> tuple[float, float, float]:
    """Return seconds per step, per token and per pair, from what cold prompts take beyond one token of a held one.

    Only what further chunks add tells of the step itself; without a chunked prompt it is 0, and part of the overhead.
    """
    rows = [
        (-(-probe.length // chunk) - 1, probe.length - 1, probe.length * (probe.length - 2) / 2) for probe in probes
    ]
    return _fit(rows, [probe.cold_s - probe.moved_s for probe in probes])


def fit_handoff(probes: Sequence[Probe]) -> tuple[float, float]:
    """Return seconds per hand-off and per token."""
    rows = [(1, probe.length - 1, 0) for probe in probes]
    latency_s, token_s, _ = _fit(rows, [probe.moved_s - probe.held_s for probe in probes])
    return latency_s, token_s


def fit_decode(steps: Sequence[Step]) -> tuple[float, float, float]:
    """Return seconds per step, per sequence and per token of KV."""
    return _fit([(1, step.batch, step.context) for step in steps], [step.seconds for step in steps])


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return the coefficients of least relative error, none of them negative: those that would be are left out."""
    matrix, wanted = np.array(rows, dtype=float), np.maximum(np.array(seconds, dtype=float), 1e-6)
    matrix /= wanted[:, None]
    kept = [column for column in range(3) if matrix[:, column].any()]
    while kept:
        found = np.linalg.lstsq(matrix[:, kept], np.ones(len(wanted)), rcond=None)[0]
        if (found >= 0).all():
            break
        kept.remove(kept[int(found.argmin())])
    values = dict(zip(kept, (float(value) for value in found), strict=True)) if kept else {}
    return values.get(0, 0.0), values.get(1, 0.0), values.get(2, 0.0)


async def _measure(targets: Sequence[Target], tell: Callable[[str], None], read_busy_s: Callable[[], float]) -> Found:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 24) as http:
        asker = _Asker(CallClient(http), targets)
        for _ in range(2):  # the first calls of a deployment are slower
            await asker.probe(_LENGTHS[1])
        probes = []
        for length in _LENGTHS:
            probes.append(await asker.probe(length))
            tell(f"prompts of {length} tokens: {probes[-1].cold_s * 1e3:.1f} ms to the first token")
        steps = []
        for batch, length in _BATCHES:
            steps.append(await asker.decode(batch, length))
            tell(f"{batch} at a time of {length} tokens: {steps[-1].seconds * 1e3:.2f} ms per step")
        busy = await asker.measure_cores(read_busy_s)
        tell(f"cores: {busy.call_s * 1e3:.1f} ms per call, {busy.token_s * 1e3:.2f} ms per token")
        return Found(probes=probes, steps=steps, busy=busy, kv_token_bytes=asker.kv_token_bytes)


class _Asker:
    """Asks prompts that nobody has seen."""

    def __init__(self, client: CallClient, targets: Sequence[Target]) -> None:
        self._client = client
        self._targets = targets
        self._random = random.Random(uuid.uuid4().int)
        self.kv_token_bytes = 0

    async def probe(self, length: int) -> Probe:
        """Ask prompts of so many tokens, each three times."""
        times = [await self._ask_thrice(length) for _ in range(_REPEATS)]
        cold_s, moved_s, held_s = (statistics.median(some) for some in zip(*times, strict=True))
        return Probe(length=length, cold_s=cold_s, moved_s=moved_s, held_s=held_s)

    async def decode(self, batch: int, length: int) -> Step:
        """Decode so many sequences at a time."""
        prompts = [self._make_up(length) for _ in range(batch)]
        # Known to all: so their KV comes at once, and nothing but decode steps is measured.
        for prompt in prompts:
            await self._ask(self._targets[0], prompt, 1)
        replies = await asyncio.gather(
            *(self._ask(self._targets[0], prompt, _DECODED) for prompt, _ in zip(prompts, range(batch), strict=True))
        )
        # From the first token to the last: on a busy machine, tokens come several at once.
        gaps = [(reply.times[-1] - reply.times[0]) / (_DECODED - 1) for _, reply in replies]
        return Step(batch=batch, context=batch * (length + _DECODED / 2), seconds=statistics.median(gaps))

    async def measure_cores(self, read_busy_s: Callable[[], float]) -> Busy:
        """Ask one prompt again and again, for one token and for many."""
        prompt = self._make_up(_CORE_LENGTH)
        await self._ask(self._targets[0], prompt, 1)
        short_s, long_s = [await self._keep_busy(prompt, num_tokens, read_busy_s) for num_tokens in (1, 1 + _DECODED)]
        return Busy(length=_CORE_LENGTH, call_s=short_s, token_s=(long_s - short_s) / _DECODED)

    async def _keep_busy(self, prompt: list[int], num_tokens: int, read_busy_s: Callable[[], float]) -> float:
        """Return the core seconds of a call."""
        before_s = read_busy_s()
        for _ in range(_CORE_CALLS):
            await self._ask(self._targets[0], prompt, num_tokens)
        return (read_busy_s() - before_s) / _CORE_CALLS

    async def _ask_thrice(self, length: int) -> tuple[float, float, float]:
        prompt = self._make_up(length)
        first, second = self._random.sample(range(len(self._targets)), 2)
        return (
            (await self._ask(self._targets[first], prompt, 1))[0],
            (await self._ask(self._targets[second], prompt, 1))[0],
            (await self._ask(self._targets[second], prompt, 1))[0],
        )

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
