"""Whole simulations: nothing lost, the same twice, ideals reached, and the router's own code at work."""

from dataclasses import replace

import pytest

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.config.router import Router
from prefillshare.errors import SimulationError
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.chooser import Chooser
from prefillshare.routing.choice.policies.prefix_aware import PrefixAware
from prefillshare.routing.choice.prefix_index import PrefixIndex
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.workers.speed import PrefillSpeed
from prefillshare.simulation.figures import Figures, Slo
from prefillshare.simulation.model import MachineModel
from prefillshare.simulation.run import SYSTEMS
from prefillshare.simulation.system import Size
from tests.simulation.cases import MODEL, PLAN, SHAPE, run_one, run_plan

_TIGHT = replace(
    MODEL,
    page_size=4,
    prefill=replace(MODEL.prefill, pool_tokens=400),
    decode=replace(MODEL.decode, pool_tokens=400),
)
_ON_CORES = replace(MODEL, machine=MachineModel(cores=2, call_s=0.02, send_s=0.001, piece_s=0.002, wait_share=0.2))
_BIG = Size(num_prefill=3, num_decode=4)
_LOADS = (Load(kind="closed", value=5), Load(kind="poisson", value=3))


@pytest.mark.parametrize("model", [MODEL, _TIGHT, _ON_CORES])
@pytest.mark.parametrize("eager", [None, 4])
def test_every_call_is_answered_once(model: object, eager: int | None) -> None:
    workload = make_workload("react", replace(SHAPE, num_sessions=10), PLAN.modules)
    for case in run_plan(systems=SYSTEMS, sizes=(_BIG,), loads=_LOADS, model=model, eager_min_tokens=eager):
        wanted = {
            (number, place): step.output_tokens
            for number, session in enumerate(workload.sessions[: len(case.run.calls) // SHAPE.turns])
            for place, step in enumerate(session.steps)
        }
        assert {(call.session, call.step): len(call.output) for call in case.run.calls} == wanted
        assert len(case.run.calls) == len(wanted)
        assert case.figures.failed == 0
        for call in case.run.calls:
            assert call.ttft_s is not None
            assert call.latency_s is not None
            assert 0 < call.ttft_s <= call.latency_s


def test_the_same_seed_gives_the_same_run() -> None:
    def times(seed: int) -> list[tuple[float, float | None]]:
        case = run_one(shape=replace(SHAPE, seed=seed), loads=(Load(kind="poisson", value=2),))
        return [(call.due_s, call.end_s) for call in case.run.calls]

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_with_room_for_all_the_hit_ratio_is_the_ideal() -> None:
    figures = run_one(loads=(Load(kind="closed", value=1),), sizes=(Size(num_prefill=1, num_decode=2),)).figures
    assert figures.hit_ratio == pytest.approx(figures.ideal_shared_ratio)
    assert figures.hit_ratio > 0.7
    own = run_one(systems=("per-module",), loads=(Load(kind="closed", value=1),)).figures
    assert own.hit_ratio == pytest.approx(own.ideal_own_ratio)
    assert own.hit_ratio < figures.hit_ratio - 0.1


def test_too_little_room_costs_hits() -> None:
    def hit_ratio(**model: object) -> float:
        return run_one(loads=(Load(kind="closed", value=6),), model=replace(MODEL, **model)).figures.hit_ratio  # type: ignore[arg-type]

    assert hit_ratio(prefill=replace(MODEL.prefill, pool_tokens=250)) < hit_ratio() - 0.1


def test_answers_computed_ahead_are_hits() -> None:
    calm = {"loads": (Load(kind="closed", value=1),), "shape": replace(SHAPE, think_time_s=1.0)}
    assert run_one(**calm, eager_min_tokens=4).figures.hit_ratio > run_one(**calm).figures.hit_ratio


def test_only_what_a_decode_worker_lacks_is_moved() -> None:
    figures = run_one(loads=(Load(kind="closed", value=1),)).figures
    assert 0 < figures.handoff_per_prompt < 0.5


def test_the_routers_own_code_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    called = set()
    for owner, name in (
        (Admission, "acquire"),
        (Admission, "release"),
        (PrefixAware, "choose_from"),
        (Sessions, "pin"),
        (Chooser, "choose"),
        (PrefixIndex, "find"),
        (PrefixIndex, "insert_digest"),
        (PrefillSpeed, "finish"),
    ):
        monkeypatch.setattr(owner, name, _spy(getattr(owner, name), called, f"{owner.__name__}.{name}"))
    run_one()
    assert len(called) == 8


def _spy(original, called: set[str], name: str):  # type: ignore[no-untyped-def]
    def spy(*args, **named):  # type: ignore[no-untyped-def]
        called.add(name)
        return original(*args, **named)

    return spy


def test_the_routers_queue_refuses_as_it_does_in_service() -> None:
    settings = Router(max_running_per_worker=1, max_queued_per_module=1)
    case = run_one(settings=settings, loads=(Load(kind="closed", value=6),))
    errors = [call.error for call in case.run.calls if call.error]
    assert errors
    assert all("calls wait for model" in error for error in errors)
    assert case.figures.failed >= len(errors)
    assert case.figures.answered + case.figures.failed == 12 * SHAPE.turns


def test_sessions_stay_where_their_prefix_is() -> None:
    by_policy = {
        case.system: case.figures.hit_ratio
        for case in run_plan(systems=("prefix_aware", "session", "round_robin"), sizes=(_BIG,))
    }
    assert by_policy["round_robin"] < by_policy["prefix_aware"]
    assert by_policy["round_robin"] < by_policy["session"]


def test_calls_take_no_longer_where_there_are_more_workers() -> None:
    """Prefill workers and links are busy for some 40 % of the time; as many sessions for few as for many."""

    def run_with(num_pairs: int) -> Figures:
        return run_one(
            sizes=(Size(num_prefill=num_pairs, num_decode=num_pairs),),
            loads=(Load(kind="poisson", value=1),),
            is_load_per_worker=True,
            shape=replace(SHAPE, num_sessions=96 // num_pairs),
            model=replace(MODEL, handoff=replace(MODEL.handoff, kv_token_bytes=650)),
        ).figures

    few, many = run_with(4), run_with(12)
    for name in ("latency_p50_s", "latency_p95_s", "imbalance", "decode_imbalance"):
        assert getattr(many, name) < 1.15 * getattr(few, name), name
    # Calls leave the decode worker that holds their prefix no more often where there are more to go to.
    assert many.handoff_per_prompt < 1.08 * few.handoff_per_prompt
    assert many.prefill_busy > 0.35
    assert many.link_busy > 0.4


def test_events_tell_the_index_what_was_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    monkeypatch.setattr(PrefixIndex, "drop", _spy(PrefixIndex.drop, called, "drop"))
    run_one(settings=Router(kv_events=True), model=_TIGHT, loads=(Load(kind="closed", value=6),))
    assert called == {"drop"}


def test_sessions_that_arrive_wait_where_too_many_run() -> None:
    case = run_one(loads=(Load(kind="closed", value=2),), arrival_rate=0.5)
    first = sorted(call.due_s for call in case.run.calls if call.step == 0)
    assert first[0] > 0
    running = [
        sum(
            1
            for number in range(SHAPE.num_sessions)
            if min(call.due_s for call in case.run.calls if call.session == number)
            <= moment
            < max(call.end_s or 0.0 for call in case.run.calls if call.session == number)
        )
        for moment in first
    ]
    assert max(running) <= 2


def test_goodput_counts_calls_within_the_limits() -> None:
    plain = run_one()
    assert plain.figures.goodput_calls_per_s is None
    calls = plain.run.calls
    firsts = sorted(call.ttft_s or 0.0 for call in calls)
    lasts = sorted(call.latency_s or 0.0 for call in calls)
    for slo, num_good in (
        (Slo(ttft_s=firsts[-1], e2e_s=lasts[-1]), len(calls)),
        (Slo(ttft_s=firsts[9]), sum(first <= firsts[9] for first in firsts)),
        (Slo(e2e_s=lasts[0] / 2), 0),
    ):
        figures = run_one(slo=slo).figures
        assert figures.goodput_calls_per_s == pytest.approx(num_good / figures.seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": ("fastest",)}, "there is no system 'fastest'"),
        ({"sizes": (Size(num_prefill=1, num_decode=1),)}, "too few workers"),
        ({"systems": ("per-module",), "sizes": (Size(num_prefill=1, num_decode=2),)}, "needs one for each of 2"),
        ({"model": replace(MODEL, decode=replace(MODEL.decode, pool_tokens=50))}, "raise pool_tokens under .decode."),
    ],
)
def test_what_cannot_be_simulated_is_said(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        run_plan(**changes)
