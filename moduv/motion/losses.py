"""The loss terms of Dynamo-Depth (sections 3.3 and 3.4), each at one scale, and their sum.

Every function takes one scale's fields and returns a scalar without weight. Terms of a field are
computed at the size at which it was predicted and divided by 2^scale; the photometric error is always
computed at the images' size.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from moduv import geometry
from moduv.depth.ground import above_ground
from moduv.depth.photometric import disparity_smoothness, edge_aware, photometric
from moduv.engine import distributed
from moduv.motion.fields import Batch, MotionFields, ScaleFields, motion_fields
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import RAMPED, MotionConfig, Phase


def flow_consistency(
    residual_flow: Tensor, motion_mask: Tensor, disparity: Tensor, min_disparity: float
) -> Tensor:
    """Mean absolute residual flow (B, 2, 3, h, w) of static points that are not too far away."""
    static = (1 - motion_mask.detach()) * (disparity.detach() > min_disparity)
    return (static[:, None] * residual_flow.abs()).mean()


def mask_sparsity(
    motion_logit: Tensor,  # (B, 1, h, w)
    ego_coordinates: Tensor,  # (B, 2, 2, H, W), pixels
    complete_coordinates: Tensor,  # the same
) -> Tensor:
    """Cross-entropy of the mask towards 0 where ego-motion explains the flow better than on average.

    The average is over the batches of all processes, so every process must call it.
    """
    height, width = ego_coordinates.shape[-2:]
    with torch.no_grad():
        difference = ego_coordinates - complete_coordinates
        difference = rearrange(difference, "b n xy h w -> (b n) xy h w")
        difference = geometry.resize(difference, motion_logit.shape[-2:])
        # In shares of the image's width and height, as the reference measures it.
        x, y = difference[:, 0] / (width - 1), difference[:, 1] / (height - 1)
        distance = rearrange(x.square() + y.square(), "(b n) h w -> b n h w", n=2)
        # Mean and count are those of the whole batch, of which a process sees an equal share.
        mean = distributed.average(reduce(distance, "b n h w -> 1 n 1 1", "mean"))
        static = (distance < mean).float()
        count = distributed.average(reduce(static, "b n h w -> 1 n 1 1", "sum"))
        weights = static / count.clamp(min=1 / distributed.world_size())
    return (F.softplus(motion_logit) * weights).sum() / 2


def compute_losses(
    model: DynamoDepth,
    batch: Batch,
    phase: Phase,
    ramp: float,  # factor in [0, 1] of the terms that fade in, `phases.RAMPED`
    config: MotionConfig,
    generator: torch.Generator | None = None,  # on the device of the batch
    *,
    ground_plane: Tensor | None = None,  # (B, 3), instead of an estimated one
) -> dict[str, Tensor]:
    """All loss terms of a batch of triplets in a phase.

    Returns:
        `loss`, and by name every term of the phase whose weight is not 0, without that weight and
        averaged over scales: the loss is the sum of weight x ramp x term.
    """
    fields = motion_fields(model, batch, phase, config)
    return sum_losses(fields, batch, phase, ramp, config, generator, ground_plane=ground_plane)


def sum_losses(
    fields: MotionFields,
    batch: Batch,
    phase: Phase,
    ramp: float,
    config: MotionConfig,
    generator: torch.Generator | None = None,
    *,
    ground_plane: Tensor | None = None,
) -> dict[str, Tensor]:
    """The same of fields that are in hand."""
    weights = config.weights_of(phase)
    wanted = [name for name in phase.losses if getattr(weights, name) != 0]
    sums: dict[str, Tensor] = {}
    with torch.autocast(batch["images"].device.type, enabled=False):
        for (scale, scale_fields), name in product(fields.scales.items(), wanted):
            value = _term(name, scale_fields, batch, phase, config, generator, ground_plane)
            share = 1.0 if name == "photometric" else 0.5**scale
            sums[name] = sums.get(name, 0.0) + share * value
    means = {name: value / len(fields.scales) for name, value in sums.items()}
    factors = {name: getattr(weights, name) * (ramp if name in RAMPED else 1.0) for name in means}
    weighted = [factors[name] * value for name, value in means.items()]
    return {"loss": torch.stack(weighted).sum(), **means}


def _term(
    name: str,
    fields: ScaleFields,
    batch: Batch,
    phase: Phase,
    config: MotionConfig,
    generator: torch.Generator | None,
    ground_plane: Tensor | None,
) -> Tensor:
    """One term of the phase at one scale."""
    image = batch["images"][:, 1]
    if name == "photometric":
        return photometric(
            fields.warped,
            batch["images"],
            automask=phase.automask,
            pyramid=config.photometric_pyramid,
            tie_break=config.tie_break,
            generator=generator,
            counted=batch.get("counted"),
        )
    if name == "disparity_smoothness":
        return disparity_smoothness(fields.disparity, image)
    if name == "above_ground":
        inv_K = _shrink_inverse(batch["inv_K"], fields)
        depths = config.min_depth, config.max_depth
        return above_ground(
            fields.disparity, inv_K, *depths, config.ground, plane=ground_plane, generator=generator
        )
    assert fields.complete_flow is not None, "the phase has no flow"
    assert fields.residual_flow is not None
    if name == "flow_smoothness":
        # With the neighbours among the channels, the mean over channels is also over neighbours.
        return edge_aware(rearrange(fields.complete_flow, "b n xyz h w -> b (n xyz) h w"), image)
    if name == "flow_consistency":
        return flow_consistency(
            fields.residual_flow, fields.motion_mask, fields.disparity, config.consistency_disparity
        )
    if name == "mask_smoothness":
        return edge_aware(fields.motion_mask, image)
    assert fields.motion_logit is not None, "the phase has no mask"
    assert fields.complete_coordinates is not None
    return mask_sparsity(fields.motion_logit, fields.ego_coordinates, fields.complete_coordinates)


def _shrink_inverse(inv_K: Tensor, fields: ScaleFields) -> Tensor:
    """Inverse intrinsics (B, 4, 4) for pixels at the scale's size; pixel indices are simply scaled."""
    height, width = fields.disparity.shape[-2:]
    full_height, full_width = fields.depth.shape[-2:]
    x, y, rest = inv_K.split((1, 1, 2), -1)
    return torch.cat([x * (full_width / width), y * (full_height / height), rest], -1)
