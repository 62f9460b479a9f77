"""Confidence intervals of accuracies."""

from math import sqrt

Z_95 = 1.959963984540054


def wilson_interval(num_right: int, num_all: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share; (0, 1) when nothing was asked."""
    if num_all == 0:
        return 0.0, 1.0
    share = num_right / num_all
    scale = 1 + z * z / num_all
    centre = (share + z * z / (2 * num_all)) / scale
    half = z / scale * sqrt(share * (1 - share) / num_all + z * z / (4 * num_all * num_all))
    return max(0.0, centre - half), min(1.0, centre + half)
