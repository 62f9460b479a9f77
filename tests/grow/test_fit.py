"""What holds parameters back while they learn."""

import torch
from torch import nn

from prefillshare.grow.fit import hold_rows_near, shrink_rows_to_zero, shrink_to_zero

RATE, PART, NUM_STEPS = 0.01, 0.3, 40


def _train(rows: nn.Parameter, gradients: torch.Tensor, part: float = PART) -> torch.Tensor:
    """Adam on given gradients [steps, rows, columns], held near where the rows are now; returns where they were."""
    origin = rows.detach().clone()
    hold, optimizer = hold_rows_near([origin], [rows], part), torch.optim.AdamW([rows], lr=RATE, weight_decay=0.0)
    for gradient in gradients:
        rows.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            hold(rows, RATE)
    return origin


def test_only_rows_that_the_loss_always_pulls_away_leave() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = nn.Parameter(torch.randn(3, 64, generator=generator))
    gradients = torch.randn(NUM_STEPS, 3, 64, generator=generator)
    # The first row is pulled one way, the second by noise, the third by noise a thousand times as loud, to which Adam
    # gives the same steps.
    gradients[:, 0] = torch.randn(64, generator=generator) + 0.1 * gradients[:, 0]
    gradients[:, 2] *= 1000
    origin = _train(rows, gradients)
    distances = (rows.detach() - origin).norm(dim=1)
    print(f"distances {distances.tolist()}")
    assert torch.equal(rows[1:], origin[1:])
    assert distances[0] > NUM_STEPS * RATE * (1 - PART) * 64**0.5 / 2


def test_without_it_noise_alone_moves_a_row() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = nn.Parameter(torch.randn(1, 64, generator=generator))
    origin = _train(rows, torch.randn(NUM_STEPS, 1, 64, generator=generator), part=0.0)
    assert (rows.detach() - origin).norm() > 10 * RATE


def test_what_shrinks_ends_at_exactly_zero() -> None:
    values = torch.tensor([0.002, -0.002, 0.5])
    shrink_to_zero(0.3)(values, 0.01)
    assert torch.equal(values, torch.tensor([0.0, -0.0, 0.497]))
    rows = torch.tensor([[0.001, 0.001], [0.3, 0.4]])
    shrink_rows_to_zero(0.3)(rows, 0.01)
    assert torch.equal(rows[0], torch.zeros(2))
    assert torch.allclose(rows[1].norm(), torch.tensor(0.5 - 0.003 * 2**0.5))
