"""Multinomial logistic regression on hidden states, the same from run to run on one machine.

The states are brought to mean 0 and deviation 1 first, and what that takes is folded into weight and bias in the end.
The mean loss with weight decay is convex, so the fit does not depend on where it starts; L-BFGS in float64 finds it.
How sure the head may be is one number more, a temperature, fitted on prompts that it has not seen (Guo et al. 2017,
*On Calibration of Modern Neural Networks*).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

_MAX_STEPS = 500
_LEAST_DEVIATION = 1e-6
_LOG_TEMPERATURES = np.linspace(0.0, 3.0, 61)
"""From 1 to 20: a head is never made more sure. Where every held-out prompt is told apart, the least loss is that of a
head without any doubt, which would know none of what it has not seen either."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted head."""

    weight: Array
    """Shape (labels, hidden size)."""
    bias: Array
    """Shape (labels,)."""

    def logits(self, states: Array) -> Array:
        """Return what it says of states. Shapes: (prompts, hidden size) to (prompts, labels)."""
        return states @ self.weight.T + self.bias

    def cooled(self, temperature: float) -> "Fit":
        """Return the same head, by so much less sure."""
        return Fit(weight=self.weight / temperature, bias=self.bias / temperature)


def fit_head(states: Array, labels: Array, num_labels: int, weight_decay: float) -> Fit:
    """Fit a head.

    Shapes: states (prompts, hidden size), labels (prompts,) as numbers from 0.
    """
    found = states.astype(np.float64)
    mean, deviation = found.mean(axis=0), np.maximum(found.std(axis=0), _LEAST_DEVIATION)
    inputs, targets = torch.from_numpy((found - mean) / deviation), torch.from_numpy(labels)
    weight = torch.zeros((num_labels, states.shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def measure() -> torch.Tensor:
        optimizer.zero_grad()
        # Each label weighs the same, however many prompts it has.
        loss = cross_entropy(inputs @ weight.T + bias, targets, weight=_balance(labels, num_labels))
        loss = loss + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(measure)
    scaled = weight.detach().numpy() / deviation
    return Fit(weight=scaled, bias=bias.detach().numpy() - scaled @ mean)


def fit_temperature(fit: Fit, states: Array, labels: Array) -> float:
    """Return by what the logits must be divided for the least loss of unseen prompts."""
    logits = fit.logits(states.astype(np.float64))
    losses = [mean_loss(logits / np.exp(log), labels) for log in _LOG_TEMPERATURES]
    return float(np.exp(_LOG_TEMPERATURES[int(np.argmin(losses))]))


def mean_loss(logits: Array, labels: Array) -> float:
    """Return the mean negative log-probability of the right label, natural logarithm."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    likely = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return abs(float(likely[np.arange(len(labels)), labels].mean()))


def _balance(labels: Array, num_labels: int) -> torch.Tensor:
    counts = np.bincount(labels, minlength=num_labels)
    return torch.from_numpy(len(labels) / (num_labels * np.maximum(counts, 1)))
