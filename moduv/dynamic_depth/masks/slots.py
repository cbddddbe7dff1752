"""What slots are taught: to explain flow and depth, the first one as what stands still (Nguyen et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moduv.dynamic_depth.losses import difference_of_probabilities
from moduv.dynamic_depth.networks.slots import Slots

DEPTH, BACKGROUND_DEPTH, BACKGROUND_MASK = 0.2, 0.02, 0.005
"""Weights beside those of the flow's colours."""
LIKELY = 0.01
"""Presence that is asked of a slot."""


def slot_losses(
    found: Slots,
    frames: Tensor,
    moving: Tensor,
    *,
    background: bool,
    presence: float | None = None,
    logits: bool = False,
) -> dict[str, Tensor]:
    """The loss of a batch.

    Args:
        found: of these frames; with `presence`, of masks that are weighed by it.
        frames: (B, 4, 128, 128), colours of the flow in [-1, 1] and depth.
        moving: (B, 1, 128, 128) bool.
        background: ask of the first slot to be white and as far as can be, and to be where nothing moves.
        presence: weight of how much the slots' presence is off, beside `background`; None: it does not count yet.
        logits: take the probability of the background for a logit, as published: then even a certain and right one
            costs something, and a doubtful one is hardly told from it.
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
        # Asked of the rest that no object covers, too, which then is the first mask.
        terms["background_rest"] = terms["background_mask"]
        terms["presence"] = presence * (found.presence - LIKELY).abs().mean()
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _logit_difference(found: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(found, target.to(found.dtype))
