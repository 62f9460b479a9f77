"""The fit gives a model back from the times that it stands for."""

from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.simulation import fit
from prefillshare.simulation.fit import Busy, Found, Probe, Step, fit_decode, fit_handoff, fit_prefill, make_model

_CHUNK = 512
_LENGTHS = (32, 100, 300, 600, 1100, 1600)


def _probe(length: int) -> Probe:
    held_s = 0.02
    moved_s = held_s + 0.003 + 2e-6 * (length - 1)
    chunks = -(-length // _CHUNK)
    cold_s = moved_s + 0.004 * (chunks - 1) + 1e-4 * (length - 1) + 1e-8 * length * (length - 2) / 2
    return Probe(length=length, cold_s=cold_s, moved_s=moved_s, held_s=held_s)


def test_coefficients_are_found_again() -> None:
    probes = [_probe(length) for length in _LENGTHS]
    assert fit_prefill(probes, _CHUNK) == pytest.approx((0.004, 1e-4, 1e-8), rel=1e-3)
    assert fit_handoff(probes) == pytest.approx((0.003, 2e-6), rel=1e-3)
    steps = [
        Step(batch=batch, context=context, seconds=0.005 + 0.001 * batch + 1e-6 * context)
        for batch, context in ((1, 50), (1, 900), (4, 400), (8, 3000))
    ]
    assert fit_decode(steps) == pytest.approx((0.005, 0.001, 1e-6), rel=1e-3)


def test_no_coefficient_is_negative() -> None:
    steps = [Step(batch=batch, context=10 * batch, seconds=0.01 - 0.0005 * batch) for batch in (1, 2, 4, 8)]
    assert all(value >= 0 for value in fit_decode(steps))


def test_without_gpus_what_is_no_step_takes_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "gpus", lambda: ())
    steps = [Step(batch=batch, context=64 * batch, seconds=0.004) for batch in (1, 2, 4)]
    found = Found(
        probes=[_probe(length) for length in _LENGTHS],
        steps=steps,
        busy=Busy(length=64, call_s=0.030, token_s=0.0055),
        kv_token_bytes=1000,
    )
    model = make_model(load_deployment(Path("models/tiny-agents-pd.toml")), found)
    assert model.shared_cores >= 1
    assert model.token_core_s == pytest.approx(0.0015)
    assert model.call_core_s == pytest.approx(0.030 - 0.004 - 1e-4 - 0.004)
    assert model.handoff.bytes_per_s == pytest.approx(1000 / 2e-6)
    # A call that both workers hold: overhead, one token's prefill, one decode step.
    parts = model.overhead_s + model.prefill.step_s + model.prefill.token_s + 0.004
    assert parts == pytest.approx(0.02)
