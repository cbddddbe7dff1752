"""What ground segmentation is taught: level surfaces first, then by itself, enlarged (Nguyen et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.losses import difference_of_probabilities

SMOOTHNESS = 2.0
CERTAIN = 0.5
"""Probability from which on a pixel is ground."""
Predict = Callable[[Tensor], Tensor]
"""A `GroundNet`."""


def ground_losses(
    net: Predict, inputs: Tensor, level: Tensor, *, own: float = 0.0, noisy: float = 1.0
) -> dict[str, Tensor]:
    """The loss of a batch, of which a share may be taught by the network itself.

    Its middle and lower thirds are enlarged to the whole size. What the network says of them is the target of the lower
    two thirds; of the enlarged lower third, the label of level surfaces is. The height must be a multiple of 3.

    Args:
        net: a `GroundNet`.
        inputs: (B, 4, H, W), see `ground_inputs`.
        level: (B, 1, H, W), whether a pixel lies on a level surface.
        own: weight of what the network teaches itself.
        noisy: weight of the label of the whole image.
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
    """Of probabilities, but for edges of image and disparity."""
    return SMOOTHNESS * geometry.smoothness(found, inputs)
