"""Units as principal directions of what they put out."""

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
    axes, squares = turn_to_axes(units)
    difference = float((_sum(units) - _sum(axes)).abs().max())
    print(f"largest difference {difference:.1e} of {float(_sum(units).abs().max()):.1f}")
    assert difference < 2e-5
    assert len(axes) == min(num, num_in, num_out)
    strengths = normalise(axes)[1]
    assert torch.allclose(strengths, torch.linalg.svdvals(_sum(units))[: len(axes)], rtol=1e-4)
    assert torch.allclose(squares.sqrt().float(), strengths, rtol=1e-4)


def test_no_unit_has_no_axis() -> None:
    assert len(turn_to_axes(no_units(8, 6))[0]) == 0


def test_what_is_left_of_axes_is_nearer_to_the_whole() -> None:
    units = _random(6, 40, 24)
    whole, strengths = _sum(units), normalise(units)[1]
    strongest = units.take(strengths >= strengths.sort(descending=True).values[2])
    rest = (whole - _sum(strongest)).norm()
    assert (whole - _sum(turn_to_axes(units)[0].take(torch.arange(3)))).norm() < 0.9 * rest


def _inputs(num: int, num_in: int) -> torch.Tensor:
    """Inputs that are large in a few directions, and lack one."""
    sizes = torch.linspace(0, 1, num_in) ** 4
    return torch.randn(num, num_in, generator=torch.Generator().manual_seed(7)) * sizes


def test_what_is_left_over_given_inputs_puts_out_what_is_nearest_to_the_whole() -> None:
    units, inputs, num_left = _random(8, 40, 24), _inputs(200, 40), 3
    answers = inputs.double() @ units.incoming.double().T
    axes, squares = turn_to_axes(units, answers.T @ answers / len(inputs))
    assert float((_sum(units) - _sum(axes)).abs().max()) < 2e-5

    def missing(some: Units) -> float:
        left = some.take(torch.arange(num_left))
        return float((inputs @ (_sum(units) - _sum(left)).T).square().sum(dim=1).mean())

    singular = missing(turn_to_axes(units)[0])
    print(f"mean square that is missing: {missing(axes):.3f}, of singular directions {singular:.3f}")
    assert missing(axes) == pytest.approx(float(squares[num_left:].sum()), rel=1e-3)
    assert missing(axes) < 0.8 * singular


def test_the_sum_is_the_same_where_inputs_lack_directions() -> None:
    units = _random(6, 4, 24)
    seen = units.incoming.double() * torch.tensor([1.0, 0.0, 0.0, 0.0])
    axes, squares = turn_to_axes(units, seen @ seen.T)
    assert len(axes) == 4
    assert float((_sum(units) - _sum(axes)).abs().max()) < 2e-5
    assert (squares > 1e-3 * squares[0]).tolist() == [True, False, False, False]
