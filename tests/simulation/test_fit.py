"""The fit gives a model back from the times that it stands for."""

import pytest

from prefillshare.simulation.fit import Probe, Step, fit_decode, fit_handoff, fit_prefill

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
