"""One run: empty caches, warm up, drive, and write down what happened."""

import asyncio
import contextlib

import aiohttp

from prefillshare.bench.drivers.asker import Asker
from prefillshare.bench.drivers.base import OnCall, Player
from prefillshare.bench.drivers.closed_loop import closed_loop
from prefillshare.bench.drivers.engines import Watcher
from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.drivers.open_loop import open_loop
from prefillshare.bench.records import CallRecord, RunRecord
from prefillshare.bench.systems.base import Running
from prefillshare.bench.workloads.base import Workload
from prefillshare.errors import BenchError

_MAX_LINE_BYTES = 1 << 24
"""A streamed piece carries all tokens so far."""


async def drive(
    running: Running,
    workload: Workload,
    warm_up: Workload,
    load: Load,
    *,
    seed: int,
    on_call: OnCall,
    timeout_s: float,
    limit_s: float | None = None,
) -> RunRecord:
    """Drive `running` with `workload`; `warm_up`, whose prompts are others, comes first and does not count.

    After `limit_s` seconds the run is cut: calls under way are given up and do not count.

    Effects: empties the prefix caches of the system's engines before the run.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=_MAX_LINE_BYTES) as http:
        watcher = Watcher(http, running.engines)
        await closed_loop(Player(Asker(http), running.targets, warm_up, lambda call: None), len(warm_up.sessions))
        if running.engines:
            await watcher.settled()
            await watcher.flush()
        return await _measured(http, watcher, running, workload, load, seed, on_call, limit_s)


async def _measured(
    http: aiohttp.ClientSession,
    watcher: Watcher,
    running: Running,
    workload: Workload,
    load: Load,
    seed: int,
    on_call: OnCall,
    limit_s: float | None,
) -> RunRecord:
    before = await watcher.settled() if running.engines else None
    prefilled_before = await watcher.prefilled_tokens()
    player = Player(Asker(http), running.targets, workload, on_call)
    run = RunRecord(calls=player.calls, wall_s=0.0)
    watching = asyncio.create_task(watcher.watch(player.now_s, run.kv))
    try:
        async with asyncio.timeout(limit_s):
            await _play(player, load, seed)
    except TimeoutError:
        run.cut_s = player.now_s()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    run.wall_s = run.cut_s or max((call.end_s or 0.0 for call in run.calls), default=0.0)
    if before is not None:
        run.memory_gb = before.memory_gb
        await watcher.settled()
        # Prompts of calls that were given up are in the engines' count, and in nothing else of the record.
        counted = await watcher.prefilled_tokens() - prefilled_before
        run.prefilled_tokens = counted if run.cut_s is None else None
    _say_no_hits(run.calls)
    for call in run.calls:
        if call.handoff_bytes is None and call.handoff_tokens is not None and running.kv_token_bytes:
            call.handoff_bytes = call.handoff_tokens * running.kv_token_bytes
    return run


def _say_no_hits(calls: list[CallRecord]) -> None:
    """A server that reports hits leaves them out where there was none."""
    if any(call.cached_tokens is not None for call in calls):
        for call in calls:
            if call.error is None:
                call.cached_tokens = call.cached_tokens or 0


async def _play(player: Player, load: Load, seed: int) -> None:
    sessions = player.workload.sessions
    if load.kind == "closed":
        await closed_loop(player, int(load.value))
    elif load.kind == "poisson":
        await open_loop(player, poisson_arrivals(len(sessions), load.value, seed))
    else:
        await open_loop(player, [_arrival(session.arrival_s) / load.value for session in sessions])


def _arrival(arrival_s: float | None) -> float:
    if arrival_s is None:
        raise BenchError("this workload has no arrival times of its own: give --rate or --concurrency")
    return arrival_s
