"""Units as singular directions of what they sum up to."""

import pytest
import torch

from prefillshare.grow.units import Units, no_units, normalise, turn_to_axes


def _random(num: int, num_in: int, num_out: int) -> Units:
    generator = torch.Generator().manual_seed(num)
    return Units(
        incoming=torch.randn(num, num_in, generator=generator),
        outgoing=torch.randn(num, num_out, generator=generator),
    )


def _sum(units: Units) -> torch.Tensor:
    return units.outgoing.T @ units.incoming


@pytest.mark.parametrize(("num", "num_in", "num_out"), [(6, 40, 24), (6, 24, 40), (12, 8, 40), (12, 40, 8), (1, 8, 8)])
def test_axes_sum_up_to_the_same(num: int, num_in: int, num_out: int) -> None:
    units = _random(num, num_in, num_out)
    axes = turn_to_axes(units)
    difference = float((_sum(units) - _sum(axes)).abs().max())
    print(f"largest difference {difference:.1e} of {float(_sum(units).abs().max()):.1f}")
    assert difference < 2e-5
    assert len(axes) == min(num, num_in, num_out)
    strengths = normalise(axes)[1]
    assert torch.allclose(strengths, torch.linalg.svdvals(_sum(units))[: len(axes)], rtol=1e-4)


def test_no_unit_has_no_axis() -> None:
    assert len(turn_to_axes(no_units(8, 6))) == 0


def test_what_is_left_of_axes_is_nearer_to_the_whole() -> None:
    units = _random(6, 40, 24)
    whole, strengths = _sum(units), normalise(units)[1]
    strongest = units.take(strengths >= strengths.sort(descending=True).values[2])
    rest = (whole - _sum(strongest)).norm()
    assert (whole - _sum(turn_to_axes(units).take(torch.arange(3)))).norm() < 0.9 * rest
