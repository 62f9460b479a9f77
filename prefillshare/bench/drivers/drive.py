"""One run: empty caches, warm up, drive, and write down what happened."""

import asyncio
import contextlib

import aiohttp

from prefillshare.bench.drivers.client import CallClient
from prefillshare.bench.drivers.closed_loop import closed_loop
from prefillshare.bench.drivers.engines import Prefilled, Watcher
from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.drivers.open_loop import open_loop
from prefillshare.bench.drivers.session import OnCall, SessionDriver
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
        watcher = Watcher(http, running.engines, running.router)
        await closed_loop(
            SessionDriver(CallClient(http), running.targets, warm_up, lambda call: None), len(warm_up.sessions)
        )
        if running.engines:
            # An engine empties its cache only when nothing runs, and what the warm-up left must not count as a hit.
            await watcher.wait_until_settled()
            await watcher.flush()
        return await _measure(http, watcher, running, workload, load, seed, on_call, limit_s)


async def _measure(
    http: aiohttp.ClientSession,
    watcher: Watcher,
    running: Running,
    workload: Workload,
    load: Load,
    seed: int,
    on_call: OnCall,
    limit_s: float | None,
) -> RunRecord:
    # Counters of an engine run from its start: what counts is how far they get from here to the next quiet moment.
    before = await watcher.wait_until_settled() if running.engines else None
    prefilled_before = await watcher.read_prefilled()
    driver = SessionDriver(CallClient(http), running.targets, workload, on_call)
    run = RunRecord(calls=driver.calls, wall_s=0.0)
    watching = asyncio.create_task(watcher.watch(driver.now_s, run.kv))
    try:
        async with asyncio.timeout(limit_s):
            await _drive_load(driver, load, seed)
    except TimeoutError:
        run.cut_s = driver.now_s()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    run.wall_s = run.cut_s or max((call.end_s or 0.0 for call in run.calls), default=0.0)
    if before is not None:
        run.memory_gb = before.memory_gb
        await watcher.wait_until_settled()
        # Prompts of calls that were given up are in the engines' count, and in nothing else of the record.
        if run.cut_s is None:
            _note_prefilled(run, prefilled_before, await watcher.read_prefilled())
    _say_no_hits(run.calls)
    # SGLang as released says how many tokens moved, never how many bytes.
    for call in run.calls:
        if call.handoff_bytes is None and call.handoff_tokens is not None and running.kv_token_bytes:
            call.handoff_bytes = call.handoff_tokens * running.kv_token_bytes
    return run


def _note_prefilled(run: RunRecord, before: Prefilled, after: Prefilled) -> None:
    run.prefilled_tokens = after.tokens - before.tokens
    if after.eager_tokens is not None:
        run.eager_tokens = after.eager_tokens - (before.eager_tokens or 0)


def _say_no_hits(calls: list[CallRecord]) -> None:
    """A server that reports hits leaves them out where there was none."""
    if any(call.cached_tokens is not None for call in calls):
        for call in calls:
            if call.error is None:
                call.cached_tokens = call.cached_tokens or 0


async def _drive_load(driver: SessionDriver, load: Load, seed: int) -> None:
    sessions = driver.workload.sessions
    if load.kind == "closed":
        await closed_loop(driver, int(load.value))
    elif load.kind == "poisson":
        await open_loop(driver, poisson_arrivals(len(sessions), load.value, seed))
    else:
        await open_loop(driver, [_require_arrival(session.arrival_s) / load.value for session in sessions])


def _require_arrival(arrival_s: float | None) -> float:
    if arrival_s is None:
        raise BenchError("this workload has no arrival times of its own: give --rate or --concurrency")
    return arrival_s
