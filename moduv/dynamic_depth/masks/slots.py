"""The losses of slots, which explain flow and depth; the first slot is the background (Nguyen et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv.dynamic_depth.losses import difference_of_probabilities
from moduv.dynamic_depth.networks.slots import Slots

DEPTH, BACKGROUND_DEPTH, BACKGROUND_MASK = 0.2, 0.02, 0.005
"""Weights beside the reconstruction of the flow's colours."""
LIKELY = 0.01
"""Target presence of a slot."""


def slot_losses(
    found: Slots,
    frames: Tensor,
    moving: Tensor,
    *,
    background: bool,
    presence: float | None = None,
    logits: bool = False,
) -> dict[str, Tensor]:
    """The losses of a batch.

    Args:
        found: the slots of these frames; with `presence`, their masks are weighted by it.
        frames: (B, 4, 128, 128), colours of the flow in [-1, 1] and depth.
        moving: (B, 1, 128, 128) bool.
        background: train the first slot to be white, as far away as possible, and to cover what does not move.
        presence: weight of the slots' presence, which needs `background`; None: no such term yet.
        logits: treat the probability of the background as a logit, as published. Even a certain and correct
            prediction then has a loss, hardly less than that of an uncertain one.

    Returns:
        `loss`, and its terms with their weights.
    """
    terms = {
        "flow": F.mse_loss(found.reconstruction[:, :3], frames[:, :3]),
        "depth": DEPTH * F.mse_loss(found.reconstruction[:, 3:], frames[:, 3:]),
    }
    if background:
        first = found.parts[:, 0]
        terms["background_flow"] = (first[:, :3] - 1).square().mean()
        terms["background_depth"] = BACKGROUND_DEPTH * (first[:, 3:] - 1).square().mean()
        difference = _logit_difference if logits else difference_of_probabilities
        terms["background_mask"] = BACKGROUND_MASK * difference(found.masks[:, 0], ~moving)
    if presence is not None:
        # With presence, the first mask is what no object covers; it has the same target.
        terms["background_rest"] = terms["background_mask"]
        terms["presence"] = presence * (found.presence - LIKELY).abs().mean()
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _logit_difference(found: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(found, target.to(found.dtype))
