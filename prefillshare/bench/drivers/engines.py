"""What engines say of themselves: KV in use, tokens prefilled; and how to empty their caches."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from prefillshare.bench.records import KvSample
from prefillshare.bench.systems.base import Engine
from prefillshare.errors import BenchError
from prefillshare.serving.options import auth_header

SAMPLE_S = 0.25
PREFILLED = "sglang:realtime_tokens_total"
EAGER = "prefillshare_eager_tokens_total"
EAGER_WAITING = "prefillshare_eager_waiting"
EAGER_JOBS_WAITING = "prefillshare_eager_jobs_waiting"
_MEMORY_PARTS = ("weight_gb", "kv_cache_gb", "graph_gb")
_SETTLE_S = 0.1
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """All engines of a system at one moment."""

    used_tokens: int
    """Tokens of KV that requests hold."""
    num_requests: int
    """Requests that run or wait."""
    memory_gb: float
    """Weights, KV pools and graphs of all engines, as they report them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """Prompt tokens computed since the engines started."""

    tokens: int
    """All of them."""
    eager_tokens: int | None
    """Of these, tokens that no call had asked for yet; None where no engine says."""


class Watcher:
    """Asks the engines of a system."""

    def __init__(self, http: aiohttp.ClientSession, engines: Sequence[Engine], router: Engine | None = None) -> None:
        """`router`: where jobs for answers wait before an engine hears of them."""
        self._http = http
        self._engines = engines
        self._router = router

    async def read_level(self) -> Level:
        """How full the engines are now."""
        answers = await asyncio.gather(*map(self._loads, self._engines))
        loads = [load for its in answers for load in its]
        return Level(
            used_tokens=sum(int(load["num_used_tokens"]) for load in loads),
            num_requests=sum(int(load["num_running_reqs"]) + int(load["num_waiting_reqs"]) for load in loads),
            memory_gb=sum(sum(load["memory"][part] for part in _MEMORY_PARTS) for load in loads),
        )

    async def wait_until_settled(self) -> Level:
        """The level once all requests have ended, what follows them is computed, and the engines' words stay the same.

        Raises: BenchError when that takes too long.
        """
        before = await self.read_level()
        for _ in range(int(_WAIT_S / _SETTLE_S)):
            await asyncio.sleep(_SETTLE_S)
            now = await self.read_level()
            if now == before and now.num_requests == 0 and not await self._is_computing_ahead():
                return now
            before = now
        raise BenchError(
            f"{before.num_requests} requests did not end within {_WAIT_S:.0f} s: look at the engines' logs"
        )

    async def read_prefilled(self) -> Prefilled:
        """What all engines computed.

        Not `total_prefill_uncached_tokens` of /v1/loads, which also counts the tokens that running requests decode in
        a batch that is mixed with a prompt's chunk.
        """
        prefilling = [engine for engine in self._engines if engine.prefills]
        told = await asyncio.gather(*map(self._prefilled, prefilling))
        eager = [each.eager_tokens for each in told if each.eager_tokens is not None]
        return Prefilled(tokens=sum(each.tokens for each in told), eager_tokens=sum(eager) if eager else None)

    async def watch(self, now_s: Callable[[], float], samples: list[KvSample]) -> None:
        """Add samples until cancelled."""
        while self._engines:
            # One that is too busy to answer leaves a gap; one that has died fails when the run is done.
            with contextlib.suppress(BenchError):
                samples.append(KvSample(at_s=now_s(), tokens=(await self.read_level()).used_tokens))
            await asyncio.sleep(SAMPLE_S)

    async def flush(self) -> None:
        """Empty the prefix caches.

        Raises: BenchError when an engine does not become idle enough for it, or is gone.
        """
        for engine in self._engines:
            for _ in range(int(_WAIT_S / _SETTLE_S)):
                if await self._is_flushed(engine):
                    break
                await asyncio.sleep(_SETTLE_S)
            else:
                raise BenchError(f"the cache of {engine.url} could not be emptied: look at the engine's log")

    async def _is_flushed(self, engine: Engine) -> bool:
        try:
            async with self._http.post(f"{engine.url}/flush_cache", headers=auth_header(engine.api_key)) as reply:
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchError(
                f"the cache of {engine.url} could not be emptied ({str(error) or type(error).__name__}): look at the "
                "engine's log"
            ) from None

    async def _prefilled(self, engine: Engine) -> Prefilled:
        tokens, eager = 0.0, None
        for sample in await self._metrics(engine, {PREFILLED, EAGER}):
            if sample.name == EAGER:
                eager = (eager or 0) + int(sample.value)
            elif sample.labels["mode"] == "prefill_compute":
                tokens += sample.value
        return Prefilled(tokens=int(tokens), eager_tokens=eager)

    async def _is_computing_ahead(self) -> bool:
        """Whether there are answers to compute ahead: what engines count of them is not all of it yet."""
        # The router first: a job that leaves it meanwhile is then seen at its engine.
        if self._router is not None and _has_any(await self._metrics(self._router, {EAGER_JOBS_WAITING})):
            return True
        prefilling = [engine for engine in self._engines if engine.prefills]
        told = await asyncio.gather(*(self._metrics(engine, {EAGER_WAITING}) for engine in prefilling))
        return any(map(_has_any, told))

    async def _metrics(self, engine: Engine, names: Collection[str]) -> list[Sample]:
        families = text_string_to_metric_families(await self._get(engine, "/metrics"))
        return [sample for family in families for sample in family.samples if sample.name in names]

    async def _loads(self, engine: Engine) -> list[dict[str, Any]]:
        loads: list[dict[str, Any]] = json.loads(await self._get(engine, "/v1/loads"))["loads"]
        return loads

    async def _get(self, engine: Engine, path: str) -> str:
        try:
            async with self._http.get(engine.url + path, headers=auth_header(engine.api_key)) as reply:
                if reply.status == 200:
                    return await reply.text()
                reason = f"HTTP {reply.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        raise BenchError(f"the engine at {engine.url} does not say how full it is ({reason}): look at its log")


def _has_any(gauges: Sequence[Sample]) -> bool:
    return any(sample.value for sample in gauges)
