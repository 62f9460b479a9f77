"""The data: scikit-learn's digits as ten one-against-rest tasks, half of the images turned, half with moved pixels.

After MNIST-Variation of the paper, which mixes rotated and permuted digits: 8 x 8 pixels instead of 28 x 28, and a
tenth of the images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_TASKS = 10
NUM_TRAIN = 900
MOST_DEGREES = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Images with their digits."""

    images: Tensor
    """Pixels, 0 to 1 [N, 64]."""
    digits: Tensor
    """What each shows [N]."""

    def labels(self, task: int) -> Tensor:
        """1 where an image shows the digit of a task, else 0."""
        return (self.digits == task).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """One split of the varied images."""

    train: Part
    """To learn from."""
    test: Part
    """On which AUROC is measured."""


def load_digits(seed: int) -> Digits:
    """The images, varied and split by a seed; the permutation of pixels is one for all images of the seed."""
    from scipy.ndimage import rotate
    from sklearn import datasets

    rng = np.random.default_rng(seed)
    raw = datasets.load_digits()
    permutation, images = rng.permutation(64), []
    for image in raw.images / 16.0:
        if rng.random() < 0.5:
            images.append(rotate(image, rng.uniform(-MOST_DEGREES, MOST_DEGREES), reshape=False, order=1).ravel())
        else:
            images.append(image.ravel()[permutation])
    order = rng.permutation(len(images))
    pixels = torch.tensor(np.stack(images)[order], dtype=torch.float32)
    digits = torch.tensor(raw.target[order])
    train, test = (Part(images=pixels[cut], digits=digits[cut]) for cut in (slice(NUM_TRAIN), slice(NUM_TRAIN, None)))
    return Digits(train=train, test=test)


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the receiver operating characteristic."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels.numpy(), scores.detach().numpy()))
