"""A worker model of a deployment that runs, out of what `measure` saw.

With GPUs, or where the deployment's processes are not to be seen, parts of a call are what the time to its first token
differs by. On a machine without GPUs everybody shares the cores, and how long a step takes depends on what else runs;
so there, all parts but the hand-off and the wait around engines come from core seconds, which do not.
"""

import asyncio
import itertools
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from prefillshare.accelerators import gpus
from prefillshare.bench.drivers.client import CallFailedError
from prefillshare.bench.systems.base import Target
from prefillshare.config.schema import Deployment
from prefillshare.direct import parse_server
from prefillshare.errors import SimulationError
from prefillshare.serving.machine.host import num_cores
from prefillshare.serving.plan.cpu import CHUNKED_PREFILL_TOKENS, MAX_KV_TOKENS, MAX_RUNNING_REQUESTS
from prefillshare.simulation.core_clock import CoreClock, find_core_clock
from prefillshare.simulation.measure import Found, Probe, Step, measure
from prefillshare.simulation.model import DecodeModel, HandoffModel, MachineModel, PrefillModel, WorkerModel

_GPU_CHUNK_TOKENS = 8192


def fit_deployment(
    deployment: Deployment, url: str, api_key: str | None, tell: Callable[[str], None], clock: CoreClock | None = None
) -> WorkerModel:
    """Return the worker model of the deployment that answers at `url`.

    `clock` reads the cores of its processes; by default, they are looked for on this machine.

    Effects: asks it some hundred calls; nothing else should.
    Raises: SimulationError when it has fewer than two modules, or a call fails.
    """
    modules = [module.name for module in deployment.decode]
    if len(modules) < 2:
        raise SimulationError(
            f"{deployment.name} has one decode module, and hand-offs are measured between two: add one"
        )
    targets = [Target(url=url.rstrip("/"), model=name, api_key=api_key) for name in modules]
    if parse_server(url) is None:
        raise SimulationError(f"{url!r} is no address of a server: write one such as http://127.0.0.1:30000")
    clock = clock or find_core_clock(url)
    if clock is None and not gpus():
        tell(f"`prefillshare ps` knows no deployment at {url}: the model will have a processor for each worker")
    try:
        return make_model(deployment, asyncio.run(measure(targets, clock, tell)))
    except CallFailedError as error:
        raise SimulationError(
            f"{url} did not answer a call ({error}): give the address of a deployment that `prefillshare ask` gets "
            "answers of all modules from"
        ) from None


def make_model(deployment: Deployment, found: Found) -> WorkerModel:
    """Return the model that gives the measured values back best."""
    prefill_engine, decode_engine, on_cpu = deployment.engine_of("prefill"), deployment.engine_of("decode"), not gpus()
    chunk = prefill_engine.chunked_prefill_size or (CHUNKED_PREFILL_TOKENS if on_cpu else _GPU_CHUNK_TOKENS)
    pool = prefill_engine.max_total_tokens or (MAX_KV_TOKENS if on_cpu else 0)
    max_running = decode_engine.max_running_requests or (MAX_RUNNING_REQUESTS if on_cpu else 256)
    parts = _fit_cores if found.has_cores else _fit_times
    prefill, decode, machine = parts(found, chunk, pool, max_running)
    return WorkerModel(
        name=f"{deployment.name}, fitted",
        source=f"{len(found.probes)} lengths of prompts and {len(found.steps)} batches, measured one after the other",
        prefill=prefill,
        decode=decode,
        handoff=_fit_link(found),
        overhead_s=_fit_overhead(found.probes, prefill, decode, machine),
        page_size=deployment.engine.page_size or (1 if on_cpu else 16),
        machine=machine,
    )


def _fit_times(found: Found, chunk: int, pool: int, max_running: int) -> tuple[PrefillModel, DecodeModel, MachineModel]:
    """Every worker has a processor of its own."""
    step_s, token_s, pair_s = fit_prefill(
        found.probes, chunk, [probe.cold.first_s - probe.moved.first_s for probe in found.probes]
    )
    rows = [(1, step.batch, step.context) for step in found.steps]
    decode = _fit(rows, [step.seconds for step in found.steps])
    return (
        PrefillModel(step_s=step_s, token_s=token_s, pair_s=pair_s, chunk_tokens=chunk, pool_tokens=pool),
        DecodeModel(
            step_s=decode[0],
            sequence_s=decode[1],
            context_token_s=decode[2],
            max_running=max_running,
            pool_tokens=pool,
        ),
        MachineModel(),
    )


def _fit_cores(found: Found, chunk: int, pool: int, max_running: int) -> tuple[PrefillModel, DecodeModel, MachineModel]:
    """All processes share the machine's cores."""
    probes = found.probes
    step_s, token_s, pair_s = fit_prefill(
        probes, chunk, [probe.cold.cores.prefill - probe.held.cores.prefill for probe in probes]
    )
    own_s, *decode = fit_decode_cores(probes, found.steps)
    call_s, send_s, piece_s = fit_sending(probes, found.steps)
    prompt_s = statistics.median(probe.held.cores.prefill for probe in probes) - step_s - token_s
    return (
        PrefillModel(
            step_s=step_s,
            token_s=token_s,
            pair_s=pair_s,
            prompt_s=max(0.0, prompt_s),
            chunk_tokens=chunk,
            pool_tokens=pool,
        ),
        DecodeModel(
            step_s=decode[0],
            sequence_s=decode[1],
            context_token_s=decode[2],
            # What joining takes is what a running sequence is held up for; the rest of it, nobody waits for.
            join_s=min(own_s, found.join_s),
            beside_s=max(0.0, own_s - found.join_s),
            max_running=max_running,
            pool_tokens=pool,
        ),
        MachineModel(
            cores=num_cores(),
            call_s=call_s,
            send_s=send_s,
            piece_s=piece_s,
            wait_share=_fit_wait(probes),
        ),
    )


def fit_prefill(probes: Sequence[Probe], chunk: int, seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return seconds per step, per token and per pair, from what cold prompts take beyond one token of a held one.

    Only what further chunks add tells of the step itself; without a chunked prompt it is 0, and part of the overhead.
    """
    rows = [
        (-(-probe.length // chunk) - 1, probe.length - 1, probe.length * (probe.length - 2) / 2) for probe in probes
    ]
    step_s, token_s, pair_s = _fit(rows, seconds)
    return step_s, token_s, pair_s


def fit_decode_cores(probes: Sequence[Probe], steps: Sequence[Step]) -> tuple[float, float, float, float]:
    """Return seconds per call, per step, per sequence of a step and per token of KV that a step reads.

    A call of one token by itself is a batch like the others. What it takes cannot be taken off theirs beforehand: calls
    that come together wake each process once, and the little that remained would be the difference of large numbers.
    """
    length = statistics.median(probe.length for probe in probes)
    rows = [(1, 1, 1, length), *((*_counts(step), step.context * step.num_tokens) for step in steps)]
    held = statistics.median(probe.held.cores.decode for probe in probes)
    own_s, step_s, sequence_s, token_s = _fit(rows, [held, *(step.cores.decode for step in steps)])
    return own_s, step_s, sequence_s, token_s


def fit_handoff(probes: Sequence[Probe]) -> tuple[float, float]:
    """Return seconds per hand-off and per token."""
    rows = [(1, probe.length - 1) for probe in probes]
    latency_s, token_s = _fit(rows, [probe.moved.first_s - probe.held.first_s for probe in probes])
    return latency_s, token_s


def _fit_link(found: Found) -> HandoffModel:
    latency_s, token_s = fit_handoff(found.probes)
    return HandoffModel(
        bytes_per_s=found.kv_token_bytes / max(token_s, 1e-9), kv_token_bytes=found.kv_token_bytes, latency_s=latency_s
    )


def fit_sending(probes: Sequence[Probe], steps: Sequence[Step]) -> tuple[float, float, float]:
    """Return what a call takes beside engines, and what sending takes, each time and for each piece."""
    held = statistics.median(probe.held.cores.rest for probe in probes)
    call_s, send_s, piece_s = _fit(
        [(1, 1, 1), *(_counts(step) for step in steps)], [held, *(step.cores.rest for step in steps)]
    )
    return call_s, send_s, piece_s


def _counts(step: Step) -> tuple[float, float, float]:
    """Calls, steps and tokens of a batch."""
    return step.batch, step.num_steps, step.batch * step.num_tokens


def _fit_wait(probes: Sequence[Probe]) -> float:
    """Return the share of a core that decode workers take while prompts are computed."""
    asked_s = sum(probe.cold.cores.decode - probe.moved.cores.decode for probe in probes)
    waited_s = sum(probe.cold.first_s - probe.moved.first_s for probe in probes)
    return min(1.0, max(0.0, asked_s / waited_s)) if waited_s > 0 else 0.0


def _fit_overhead(probes: Sequence[Probe], prefill: PrefillModel, decode: DecodeModel, machine: MachineModel) -> float:
    """Return what the first token of a held prompt takes beside engines."""
    prefill_s = prefill.prompt_s + prefill.step_s + prefill.token_s
    decode_s = decode.join_s + decode.step_s + decode.sequence_s + machine.send_s + machine.piece_s
    rest = [probe.held.first_s - prefill_s - decode_s - decode.context_token_s * probe.length for probe in probes]
    return max(0.0, statistics.median(rest))


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return the coefficients of least relative error of which none is negative: zeros, if nothing took any time."""
    wanted = np.array(seconds, dtype=float)
    # What is too small to be measured well must not outweigh all else.
    weights = 1 / np.maximum(wanted, max(1e-9, float(np.median(wanted)) / 5))
    matrix, wanted = np.array(rows, dtype=float) * weights[:, None], wanted * weights
    num_columns = matrix.shape[1]
    best, least = np.zeros(num_columns), np.inf
    # There are so few of them that the best of all subsets is found by trying each.
    for number in range(1, num_columns + 1):
        for kept in map(list, itertools.combinations(range(num_columns), number)):
            found = np.linalg.lstsq(matrix[:, kept], wanted, rcond=None)[0]
            error = float(((matrix[:, kept] @ found - wanted) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(num_columns), error
                best[kept] = found
    return [float(value) for value in best]
