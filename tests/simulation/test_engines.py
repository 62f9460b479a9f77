"""Prefill and decode workers beside computations by hand."""

import asyncio
import random
import statistics
from dataclasses import replace

import pytest

from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.workloads.base import Shape
from prefillshare.simulation.clock import now_s, run_simulated
from prefillshare.simulation.engine.cores import Cores
from prefillshare.simulation.engine.decode import DecodeWorker
from prefillshare.simulation.engine.link import Link, hand_off
from prefillshare.simulation.engine.prefill import PrefillWorker
from prefillshare.simulation.model import DecodeModel, MachineModel
from prefillshare.simulation.prompts import encode
from tests.simulation.cases import MODEL, run_one

_PROMPT = 50


def test_one_prefill_worker_is_a_queue_with_one_server_and_equal_service_times() -> None:
    """M/D/1: Poisson arrivals, one prompt per step, first come first served; each time by Lindley's recursion."""
    arrivals = poisson_arrivals(200, 12.0, seed=1)
    service_s = MODEL.prefill.step_s + _PROMPT * MODEL.prefill.token_s
    free_s, ends = 0.0, []
    for arrival_s in arrivals:
        free_s = max(free_s, arrival_s) + service_s
        ends.append(free_s)
    assert max(end - arrival for end, arrival in zip(ends, arrivals, strict=True)) > 4 * service_s  # it is a queue
    assert run_simulated(_prefill(arrivals)) == pytest.approx(ends)


async def _prefill(arrivals: list[float]) -> list[float]:
    worker = PrefillWorker(replace(MODEL, prefill=replace(MODEL.prefill, chunk_tokens=_PROMPT)), Cores(0))

    async def ask(number: int, arrival_s: float) -> float:
        await asyncio.sleep(arrival_s)
        worker.release(await worker.prefill(encode([100 + number] * _PROMPT)))
        return now_s()

    ends = await asyncio.gather(*(ask(*arrival) for arrival in enumerate(arrivals)))
    assert worker.num_computed == _PROMPT * len(arrivals)
    assert worker.pool.num_private == worker.pool.num_locked == 0
    return ends


def test_a_call_takes_what_its_parts_take() -> None:
    """Alone: overhead, prefill in two chunks, hand-off of all tokens but x_n, decode steps."""
    model = replace(MODEL, overhead_s=0.5, prefill=replace(MODEL.prefill, chunk_tokens=40, pair_s=1e-6))
    shape = Shape(num_sessions=1, start_tokens=_PROMPT, output_tokens=(3,), turns=1)
    case = run_one(shape=shape, model=model, loads=(Load(kind="closed", value=1),))
    prefill_s = 2 * 0.01 + _PROMPT * 0.001 + _PROMPT**2 / 2 * 1e-6
    handoff_s = (_PROMPT - 1) * 100 / 1e6 + 0.001
    steps = [0.02 + 0.001 + 1e-5 * (_PROMPT + number) for number in range(3)]
    call = case.run.calls[0]
    assert call.ttft_s == pytest.approx(0.5 + prefill_s + handoff_s + steps[0])
    assert call.latency_s == pytest.approx(0.5 + prefill_s + handoff_s + sum(steps))


def test_batches_decode_as_step_by_step() -> None:
    model = DecodeModel(step_s=0.02, sequence_s=0.003, context_token_s=1e-4, max_running=3)
    arrivals = [(0.0, 10, 7), (0.031, 40, 5), (0.05, 5, 20), (0.051, 8, 3), (0.9, 30, 4)]
    assert run_simulated(_decode(model, arrivals)) == pytest.approx(_decode_by_hand(model, arrivals))


async def _decode(model: DecodeModel, arrivals: list[tuple[float, int, int]]) -> list[float]:
    worker = DecodeWorker(replace(MODEL, decode=model), Cores(0))

    async def ask(number: int, arrival_s: float, num_prompt: int, num_output: int) -> list[float]:
        await asyncio.sleep(arrival_s)
        place = await worker.enter(encode([100 + number] * num_prompt), num_output)
        times = await worker.decode(place)
        assert times[-1] == pytest.approx(now_s())
        worker.leave(place)
        return times

    answers = await asyncio.gather(*(ask(number, *arrival) for number, arrival in enumerate(arrivals)))
    assert worker.pool.num_private == worker.pool.num_locked == 0
    return [moment for times in answers for moment in times]


def _decode_by_hand(model: DecodeModel, arrivals: list[tuple[float, int, int]]) -> list[float]:
    times: list[list[float]] = [[] for _ in arrivals]
    now, batch, waiting = 0.0, list[int](), list(range(len(arrivals)))
    while waiting or batch:
        while waiting and len(batch) < model.max_running and arrivals[waiting[0]][0] <= now:
            batch.append(waiting.pop(0))
        if not batch:
            now = arrivals[waiting[0]][0]
            continue
        context = sum(arrivals[number][1] + len(times[number]) for number in batch)
        now += model.step_s + model.sequence_s * len(batch) + model.context_token_s * context
        for number in batch:
            times[number].append(now)
        batch = [number for number in batch if len(times[number]) < arrivals[number][2]]
    return [moment for some in times for moment in some]


def test_shared_cores_are_dealt_in_equal_parts() -> None:
    """Of two cores, three get two thirds each; who comes when two are at work slows them, and who is alone has one."""

    async def work() -> list[float]:
        cores, ends = Cores(2), [0.0] * 3

        async def take(number: int, after_s: float, seconds: float) -> None:
            await asyncio.sleep(after_s)
            await cores.run(seconds)
            ends[number] = now_s()

        await asyncio.gather(take(0, 0.0, 2.0), take(1, 0.0, 4.0), take(2, 1.0, 1.0))
        assert cores.busy_s == pytest.approx(7.0)
        return ends

    # From 1 s on, three share: the first and the third have 1 s left, which takes 1.5 s; then one has 2 s to go.
    assert run_simulated(work()) == pytest.approx([2.5, 4.5, 2.5])


def test_what_is_spent_beside_takes_cores_from_others_only() -> None:
    async def work() -> float:
        cores = Cores(1)
        cores.spend(2.0)
        assert now_s() == 0
        await asyncio.sleep(0)
        await cores.run(1.0)
        return now_s()

    assert run_simulated(work()) == pytest.approx(2.0)  # half of the core each


def test_where_cores_are_short_tokens_come_several_at_once() -> None:
    """Alone, every step's token is sent by itself; beside others, a piece has all tokens since the last one."""
    machine = MachineModel(cores=1, send_s=0.02, piece_s=0.01)
    model = replace(MODEL, decode=DecodeModel(step_s=0.01), machine=machine)

    async def decode(num_others: int) -> tuple[list[float], float]:
        cores = Cores(machine.cores)
        worker = DecodeWorker(model, cores)
        place = await worker.enter(encode([1] * _PROMPT), 6)
        for _ in range(num_others):
            cores.spend(0.05)
        times = await worker.decode(place)
        worker.leave(place)
        return times, cores.busy_s

    roomy, busy_s = run_simulated(decode(0))
    assert len(roomy) == 6
    # Steps and pieces share the core, so two steps pass while a piece is sent: 6 tokens in 4 pieces, not in 6.
    assert len(set(roomy)) < 6
    crowded, crowded_s = run_simulated(decode(4))
    assert len(crowded) == 6
    assert len(set(crowded)) <= len(set(roomy))
    assert busy_s == pytest.approx(6 * 0.01 + len(set(roomy)) * 0.03)
    assert crowded_s == pytest.approx(6 * 0.01 + len(set(crowded)) * 0.03 + 4 * 0.05)


def test_a_decode_worker_without_work_takes_cores_while_it_waits() -> None:
    model = replace(MODEL, machine=MachineModel(cores=4, wait_share=0.5))

    async def wait_and_decode(seconds: float) -> float:
        cores = Cores(model.machine.cores)
        worker = DecodeWorker(model, cores)
        place = await worker.enter(encode([1] * _PROMPT), 1)
        await asyncio.sleep(seconds)
        await worker.decode(place)
        return cores.busy_s

    assert run_simulated(wait_and_decode(2.0)) - run_simulated(wait_and_decode(0.0)) == pytest.approx(1.0)


def test_prompts_and_joining_sequences_take_their_time_once() -> None:
    model = replace(
        MODEL,
        prefill=replace(MODEL.prefill, chunk_tokens=40, prompt_s=0.3),
        decode=replace(MODEL.decode, join_s=0.7),
    )
    shape = Shape(num_sessions=1, start_tokens=_PROMPT, output_tokens=(3,), turns=1)
    load = (Load(kind="closed", value=1),)
    before, after = (run_one(shape=shape, model=some, loads=load).run.calls[0] for some in (MODEL, model))
    assert before.latency_s is not None
    assert after.latency_s == pytest.approx(before.latency_s + 0.3 + 0.7 + 0.01)  # and the second chunk's step


@pytest.mark.parametrize(("join_s", "beside_s", "held_up_s"), [(0.5, 0.0, 0.5), (0.0, 0.5, 0.0), (0.2, 0.3, 0.2)])
def test_only_joining_holds_up_who_decodes_already(join_s: float, beside_s: float, held_up_s: float) -> None:
    machine = MachineModel(cores=4)

    async def decode_two(decode: DecodeModel) -> tuple[float, float]:
        cores = Cores(machine.cores)
        worker = DecodeWorker(replace(MODEL, machine=machine, decode=decode), cores)
        places = [await worker.enter(encode([number] * _PROMPT), 40) for number in range(2)]
        first = asyncio.create_task(worker.decode(places[0]))
        await asyncio.sleep(decode.join_s + 5 * decode.step_s)
        second = asyncio.create_task(worker.decode(places[1]))
        times = await first
        await second
        return times[-1] - times[0], cores.busy_s

    plain, own = replace(MODEL.decode, join_s=0.0), replace(MODEL.decode, join_s=join_s, beside_s=beside_s)
    (alone_s, alone_busy_s), (span_s, busy_s) = run_simulated(decode_two(plain)), run_simulated(decode_two(own))
    assert span_s - alone_s == pytest.approx(held_up_s, abs=0.05)
    assert busy_s - alone_busy_s == pytest.approx(2 * (join_s + beside_s), abs=0.05)


_Moved = tuple[float, int, int, int]
"""When it begins, sender, receiver, tokens; ten thousand take a second."""


def _move_all(moved: list[_Moved], num_links: int) -> tuple[list[float], list[float]]:
    """Return when each move ended, and how long each link was busy."""

    async def work() -> tuple[list[float], list[float]]:
        links = [Link() for _ in range(num_links)]

        async def move(begin_s: float, sender: int, receiver: int, num_tokens: int) -> float:
            await asyncio.sleep(begin_s)
            await hand_off(MODEL.handoff, links[sender], links[receiver], num_tokens)
            return now_s()

        ends = await asyncio.gather(*(move(*one) for one in moved))
        assert not any(link.moves for link in links)
        return ends, [link.busy_s for link in links]

    return run_simulated(work())


def test_hand_offs_share_the_links_of_both_ends() -> None:
    """By hand. All begin at half speed: each has an end that carries two. The third ends at 0.5 s, which helps nobody:
    the sender of the second carries two still. That ends at 1 s, and the first has its sender alone from then on."""
    ends, busy_s = _move_all([(0, 0, 2, 10_000), (0, 0, 3, 5_000), (0, 1, 3, 2_500)], num_links=4)
    assert ends == pytest.approx([1.501, 1.001, 0.501])  # and a millisecond of latency each
    assert busy_s == pytest.approx([1.5, 0.5, 1.5, 1.0])


def test_who_comes_later_gets_an_equal_part_from_then_on() -> None:
    ends, busy_s = _move_all([(0, 0, 1, 10_000), (0.5, 0, 2, 10_000), (3, 0, 1, 10_000)], num_links=3)
    assert ends == pytest.approx([1.501, 2.001, 4.001])
    assert busy_s == pytest.approx([3.0, 2.5, 1.5])


def test_hand_offs_take_no_longer_where_there_are_more_workers() -> None:
    """Every link carries the same, 40 % of what it can, between pairs that chance has chosen."""

    def mean_s(num_pairs: int) -> float:
        source, moved = random.Random(1), []
        for arrival_s in poisson_arrivals(6400, 0.4 * num_pairs, seed=1):
            pair = source.randrange(num_pairs), num_pairs + source.randrange(num_pairs)
            moved.append((arrival_s, *pair, 10_000))
        ends, _ = _move_all(moved, 2 * num_pairs)
        return statistics.mean(end - one[0] for end, one in zip(ends, moved, strict=True))

    few_s, many_s = mean_s(4), mean_s(64)
    assert few_s > 1.2  # they do meet
    assert many_s < 1.2 * few_s
