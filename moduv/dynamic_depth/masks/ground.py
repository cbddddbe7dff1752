"""The losses of ground segmentation: labels of level surfaces, and self-training (Nguyen et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.losses import difference_of_probabilities

SMOOTHNESS = 2.0
"""Weight of the smoothness."""
CERTAIN = 0.5
"""Smallest probability of a ground pixel."""
Predict = Callable[[Tensor], Tensor]
"""A `GroundNet`: inputs (B, 4, H, W) to probabilities (B, 1, H, W)."""


def ground_losses(
    net: Predict, inputs: Tensor, level: Tensor, *, own: float = 0.0, noisy: float = 1.0
) -> dict[str, Tensor]:
    """The losses of a batch: labels of level surfaces, and self-training where `own` is not 0.

    For self-training, the middle and the lower third of the images are enlarged to full size. The predictions on them
    are the targets for the lower two thirds of the images; the target for the enlarged lower third is the label of level
    surfaces. The height must be a multiple of 3.

    Args:
        net: a `GroundNet`.
        inputs: (B, 4, H, W), see `ground_inputs`.
        level: (B, 1, H, W), whether a pixel lies on a level surface.
        own: weight of self-training.
        noisy: weight of the label on the whole image.

    Returns:
        `loss`, and its terms with their weights.
    """
    found, label = net(inputs), level.float()
    terms = {
        "label": noisy * difference_of_probabilities(found, label),
        "smoothness": _smoothness(found, inputs),
    }
    if own:
        third = inputs.shape[2] // 3
        _, middle, lower = (_enlarged(part, inputs) for part in inputs.split(third, 2))
        with torch.no_grad():
            above = net(middle)
        below = net(lower)
        small = [geometry.resize(part.detach(), (third, part.shape[-1])) for part in (above, below)]
        terms["own"] = own * difference_of_probabilities(
            found[:, :, third:], torch.cat(small, 2) >= CERTAIN
        )
        terms["enlarged"] = own * difference_of_probabilities(
            below, _enlarged(label[:, :, 2 * third :], label)
        )
        terms["enlarged_smoothness"] = _smoothness(below, lower)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _enlarged(part: Tensor, like: Tensor) -> Tensor:
    return geometry.resize(part, like.shape[-2:])


def _smoothness(found: Tensor, inputs: Tensor) -> Tensor:
    """Smoothness of probabilities, except at edges of the image and the disparity."""
    return SMOOTHNESS * geometry.smoothness(found, inputs)
