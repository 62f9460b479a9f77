"""The fit of a classifier: where its optimum is known, and how sure it is."""

import numpy as np
import pytest
import torch

from prefillshare.training.router.solve import Fit, fit_head, fit_temperature, mean_loss
from prefillshare.training.router.trial import try_head

DIRECTIONS = np.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])


def sample(seed: int, counts: tuple[int, ...], spread: float) -> tuple[np.ndarray, np.ndarray]:
    """States around one direction for each label."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    states = DIRECTIONS[labels] + spread * generator.standard_normal((len(labels), 3))
    return states.astype(np.float32), labels


def test_the_gradient_is_zero_where_the_fit_ends() -> None:
    states, labels = sample(1, (40, 25, 60), 2.0)
    decay = 1e-2
    fit = fit_head(states, labels, 3, decay)
    # Back in the coordinates of the fit, torch says how the loss would change.
    found = states.astype(np.float64)
    mean, deviation = found.mean(axis=0), found.std(axis=0)
    weight = torch.tensor(fit.weight * deviation, requires_grad=True)
    bias = torch.tensor(fit.bias + fit.weight @ mean, requires_grad=True)
    scale = torch.tensor(len(labels) / (3 * np.bincount(labels)))
    inputs = torch.tensor((found - mean) / deviation)
    loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, torch.tensor(labels), weight=scale)
    (loss + 0.5 * decay * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-7
    assert float(bias.grad.abs().max()) < 1e-7


def test_states_that_part_are_told_apart_and_the_fit_repeats() -> None:
    states, labels = sample(2, (80, 80, 80), 0.3)
    fit = fit_head(states, labels, 3, 1e-3)
    unseen, right = sample(3, (50, 50, 50), 0.3)
    trial = try_head(fit, unseen, right, ("a", "b", "c"))
    assert (trial.num_right, trial.num_prompts) == (150, 150)
    again = fit_head(states, labels, 3, 1e-3)
    assert (again.weight == fit.weight).all()
    assert (again.bias == fit.bias).all()


def test_a_rare_label_is_not_forgotten() -> None:
    states, labels = sample(4, (400, 400, 8), 1.2)
    trial = try_head(fit_head(states, labels, 3, 1e-3), *sample(5, (100, 100, 100), 1.2), ("a", "b", "c"))
    # Were all prompts of one weight, it would be found 42 times of 100.
    assert trial.as_dict()["recall"]["c"] > 0.7


def test_a_head_that_is_too_sure_is_cooled() -> None:
    states, labels = sample(6, (200, 200, 200), 2.5)
    fit = fit_head(states, labels, 3, 1e-2)
    sure = Fit(weight=fit.weight * 8, bias=fit.bias * 8)
    unseen, right = sample(7, (200, 200, 200), 2.5)
    temperature = fit_temperature(sure, unseen, right)
    assert 5 < temperature < 13
    before, after = (mean_loss(each.logits(unseen), right) for each in (sure, sure.cooled(temperature)))
    assert after < before / 2


def test_a_trial_counts_who_was_taken_for_whom() -> None:
    fit = Fit(weight=np.eye(3), bias=np.zeros(3))
    states = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32)
    trial = try_head(fit, states, np.array([0, 0, 2, 2]), ("a", "b", "c"))
    told = trial.as_dict()
    assert told["confusion"] == {
        "a": {"a": 1, "b": 1, "c": 0},
        "b": {"a": 0, "b": 0, "c": 0},
        "c": {"a": 1, "b": 0, "c": 1},
    }
    assert (told["accuracy"], told["recall"]["a"], told["precision"]["a"]) == (0.5, 0.5, 0.5)
    assert told["loss"] == pytest.approx(mean_loss(states.astype(float), np.array([0, 0, 2, 2])))
    assert trial.lines()[0].startswith("held out  2 of 4 right (50.0%)")
