"""The fit gives a model back from the values that it stands for."""

import dataclasses
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import SimulationError
from prefillshare.simulation import fit
from prefillshare.simulation.core_clock import CoreClock, CoreSeconds
from prefillshare.simulation.fit import fit_decode_cores, fit_handoff, fit_prefill, fit_sending, make_model
from prefillshare.simulation.measure import Asked, Found, Probe, Step

_CHUNK = 512
_LENGTHS = (32, 100, 300, 600, 1100, 1600)
_DECODED = 40
_HELD_S = 0.02


def _prefill_s(length: int) -> float:
    return 0.004 * (-(-length // _CHUNK) - 1) + 1e-4 * (length - 1) + 1e-8 * length * (length - 2) / 2


def _probe(length: int) -> Probe:
    """A call takes 8 ms of a core outside of engines, a prompt 5 ms, a sequence 3 ms and steps of 4 ms."""
    moved_s = _HELD_S + 0.003 + 2e-6 * (length - 1)
    held = CoreSeconds(prefill=0.005 + 0.004 + 1e-4, decode=0.003 + _step_s(1, length), rest=0.008 + 0.001)
    waited_s = _prefill_s(length)
    cold = CoreSeconds(prefill=held.prefill + waited_s, decode=held.decode + 0.25 * waited_s, rest=held.rest)
    return Probe(
        length=length,
        cold=Asked(first_s=moved_s + waited_s, cores=cold),
        moved=Asked(first_s=moved_s, cores=held),
        held=Asked(first_s=_HELD_S, cores=held),
    )


def _step_s(batch: int, context: float) -> float:
    return 0.004 + 0.001 * batch + 0 * context


def _step(batch: int, length: int) -> Step:
    num_steps = _DECODED * (1 + batch / 20)  # they did not begin together
    tokens_s = 0.001 * batch * _DECODED
    cores = CoreSeconds(
        decode=0.003 * batch + 0.004 * num_steps + tokens_s,
        rest=batch * 0.008 + 0.0006 * num_steps + 0.4 * tokens_s,
        prefill=0.0,
    )
    return Step(
        batch=batch,
        length=length,
        num_tokens=_DECODED,
        num_steps=num_steps,
        seconds=_step_s(batch, 0.0),
        cores=cores,
    )


def _found(*, has_cores: bool, join_s: float = 0.01) -> Found:
    return Found(
        probes=[_probe(length) for length in _LENGTHS],
        steps=[_step(batch, length) for batch, length in ((1, 32), (1, 1000), (2, 200), (4, 400), (8, 30))],
        kv_token_bytes=1000,
        has_cores=has_cores,
        join_s=join_s,
    )


def test_coefficients_are_found_again() -> None:
    probes = [_probe(length) for length in _LENGTHS]
    assert fit_prefill(probes, _CHUNK, [_prefill_s(length) for length in _LENGTHS]) == pytest.approx(
        (0.004, 1e-4, 1e-8), rel=1e-3
    )
    assert fit_handoff(probes) == pytest.approx((0.003, 2e-6), rel=1e-3)
    assert fit_decode_cores(probes, _found(has_cores=True).steps) == pytest.approx(
        (0.003, 0.004, 0.001, 0.0), rel=1e-3, abs=1e-9
    )


def test_what_a_lone_call_takes_more_than_calls_in_a_batch_hides_no_sending() -> None:
    """Each process is woken for it alone: a third more, of which what tokens take is to be told apart all the same."""
    found = _found(has_cores=True)
    lone = [
        dataclasses.replace(
            probe, held=dataclasses.replace(probe.held, cores=dataclasses.replace(probe.held.cores, rest=0.012))
        )
        for probe in found.probes
    ]
    model = fit_sending(lone, found.steps)
    for step in found.steps:
        counts = (step.batch, step.num_steps, step.batch * step.num_tokens)
        told = sum(count * seconds for count, seconds in zip(counts, model, strict=True))
        assert told == pytest.approx(step.cores.rest, rel=0.1)


def test_no_coefficient_is_negative_and_noise_does_not_rule() -> None:
    """A length whose times came out the wrong way round says nothing of the others."""
    probes = [_probe(length) for length in _LENGTHS]
    seconds = [-0.001, *(1e-4 * (length - 1) for length in _LENGTHS[1:])]
    step_s, token_s, pair_s = fit_prefill(probes, _CHUNK, seconds)
    assert min(step_s, token_s, pair_s) >= 0
    assert step_s + 1e-4 * 800 + pair_s * 800 * 800 / 2 == pytest.approx(0.08, rel=0.5)
    assert token_s == pytest.approx(1e-4, rel=0.2)


def test_where_all_share_cores_parts_are_what_their_processes_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "gpus", lambda: ())
    model = make_model(load_deployment(Path("models/tiny-agents-pd.toml")), _found(has_cores=True))
    assert model.prefill.prompt_s == pytest.approx(0.005, rel=1e-3)
    assert model.decode.join_s == pytest.approx(0.003, rel=1e-2)
    assert model.machine.call_s == pytest.approx(0.008, rel=1e-2)
    assert (model.machine.send_s, model.machine.piece_s) == pytest.approx((0.0006, 0.0004), rel=1e-2)
    assert model.machine.wait_share == pytest.approx(0.25, rel=1e-2)
    assert model.machine.cores >= 1
    assert model.handoff.bytes_per_s == pytest.approx(1000 / 2e-6)
    # A call that both workers hold: overhead, one token's prefill, one decode step and its piece.
    engines_s = 0.005 + 0.004 + 1e-4 + 0.003 + _step_s(1, 0) + 0.001
    assert model.overhead_s == pytest.approx(_HELD_S - engines_s, rel=1e-2)


def test_what_holds_up_nobody_is_no_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "gpus", lambda: ())
    deployment = load_deployment(Path("models/tiny-agents-pd.toml"))
    whole, part = (make_model(deployment, _found(has_cores=True, join_s=join_s)) for join_s in (0.01, 0.001))
    assert (whole.decode.join_s, whole.decode.beside_s) == pytest.approx((0.003, 0.0), rel=1e-2)
    assert (part.decode.join_s, part.decode.beside_s) == pytest.approx((0.001, 0.002), rel=1e-2)
    # The first token comes when it did.
    assert part.overhead_s + part.decode.join_s == pytest.approx(whole.overhead_s + whole.decode.join_s)


def test_without_core_seconds_every_worker_has_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "gpus", lambda: ())
    model = make_model(load_deployment(Path("models/tiny-agents-pd.toml")), _found(has_cores=False))
    assert model.machine.cores == 0
    assert model.prefill.token_s == pytest.approx(1e-4, rel=1e-3)
    assert model.overhead_s + model.prefill.step_s + model.prefill.token_s + _step_s(1, 0) == pytest.approx(_HELD_S)


def test_the_clock_counts_this_process() -> None:
    record = SimpleNamespace(role="router", pid=None)
    clock = CoreClock([record])  # type: ignore[list-item]
    before = clock.read()
    while (clock.read() - before).rest < 0.01:
        os.getpid()
    used = clock.read() - before
    assert used.total == used.rest > 0


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_worker_without_a_process_that_computes_is_no_worker_that_takes_nothing(role: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as nameless:
        record = SimpleNamespace(role=role, name=f"{role}-0", pid=nameless.pid)
        with pytest.raises(SimulationError, match=rf"{role}-0 has no process with the name sglang::scheduler"):
            CoreClock([record])  # type: ignore[list-item]
        nameless.kill()
