"""From a triplet of frames to depth, ego-motion, flow, mask and warped neighbours (Dynamo-Depth, section 3).

The networks run in whatever precision is ambient; the geometry runs in float32. Neighbours are always
in the order -1, +1, as the second dimension of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from moduv import geometry
from moduv.motion.networks.dynamo_depth import DynamoDepth, EgoMotion
from moduv.motion.phases import PHASES, MotionConfig, Phase

Batch = dict[str, Tensor]
"""images (B, 3, 3, H, W): frames -1, 0, +1 in [0, 1]; augmented, the same shape: what the networks see
(images where absent); K, inv_K (B, 4, 4) in pixels; time_steps (B, 2), where present: the positive
time from the centre to each neighbour, in units of the usual interval; counted (B, 1, H, W) bool, where
present: the pixels whose photometric error counts."""


@dataclass(frozen=True)
class ScaleFields:
    """The fields of one scale: predicted at its size (h, w), compared at the images' size (H, W)."""

    disparity: Tensor
    """(B, 1, h, w) in (0, 1)."""
    depth: Tensor
    """(B, 1, H, W)."""
    ego_coordinates: Tensor
    """(B, 2, 2, H, W): where each neighbour shows the point if it stands still, pixels."""
    coordinates: Tensor
    """(B, 2, 2, H, W): where the phase samples the neighbours, pixels."""
    warped: Tensor
    """(B, 2, 3, H, W): the neighbours sampled there."""
    complete_flow: Tensor | None = None
    """(B, 2, 3, h, w): motion relative to the camera, in units of depth."""
    residual_flow: Tensor | None = None
    """(B, 2, 3, h, w): complete flow less ego flow."""
    complete_coordinates: Tensor | None = None
    """(B, 2, 2, H, W): where the complete flow carries the point, pixels."""
    motion_logit: Tensor | None = None
    """(B, 1, h, w)."""
    independent_flow: Tensor | None = None
    """(B, 2, 3, H, W): mask times residual flow, in units of depth."""

    @property
    def motion_mask(self) -> Tensor:
        """(B, 1, h, w) in [0, 1]: does the point move by itself? Only in phases with a mask."""
        assert self.motion_logit is not None, "the phase has no mask"
        return self.motion_logit.sigmoid()


@dataclass(frozen=True)
class MotionFields:
    """Everything the model says about a batch of triplets."""

    ego_motion: EgoMotion
    scales: dict[int, ScaleFields]
    """By scale, finest first; scale s has about 1 / 2^s of the images' size."""

    @property
    def finest(self) -> ScaleFields:
        """The fields of the finest scale."""
        return self.scales[min(self.scales)]


def motion_fields(
    model: DynamoDepth, batch: Batch, phase: Phase, config: MotionConfig
) -> MotionFields:
    """Run the networks a phase needs and bring their outputs together."""
    outputs = _run(model, batch, phase, config)
    scales = config.loss_scales or tuple(range(len(outputs.disparities)))
    with torch.autocast(batch["images"].device.type, enabled=False):
        fields = {scale: _scale_fields(outputs, scale, batch, config) for scale in sorted(scales)}
    return MotionFields(outputs.ego_motion, fields)


def mask_and_depth(
    model: DynamoDepth, batch: Batch, config: MotionConfig, *, has_mask: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """What later stages read of the centre frames, without the geometry that only training needs.

    Call it in evaluation mode under `torch.no_grad()`.

    Args:
        model: trained networks.
        batch: triplets.
        config: conventions of depth, ego-motion and flow.
        has_mask: whether the mask's networks are trained, too.

    Returns:
        Motion mask in [0, 1], where there is one, and depth, both (B, 1, H, W) at the images' size, and the
        poses (B, 2, 4, 4) from the centre camera to each neighbour's; all in float32.
    """
    outputs = _run(model, batch, PHASES["fine_tune" if has_mask else "disp_init"], config)
    size = batch["images"].shape[-2:]
    disparity = geometry.resize(outputs.disparities[0], size)
    depth = geometry.disparity_to_depth(disparity, config.min_depth, config.max_depth)
    poses = outputs.ego_motion.poses.float()
    if outputs.logits is None:
        return None, depth, poses
    return geometry.resize(outputs.logits[0].float(), size).sigmoid(), depth, poses


@dataclass(frozen=True)
class _Outputs:
    """What the networks say, scale 0 first; flow and mask only where the phase has them."""

    disparities: list[Tensor]
    ego_motion: EgoMotion
    flows: list[Tensor] | None = None
    logits: list[Tensor] | None = None


def _run(model: DynamoDepth, batch: Batch, phase: Phase, config: MotionConfig) -> _Outputs:
    """Run the networks the phase needs; those it does not train leave no gradient."""
    frames = batch.get("augmented", batch["images"])
    with _gradients(phase, "depth_dec"):
        disparities = [disparity.float() for disparity in model.disparity(frames[:, 1])]
    with _gradients(phase, "pose_dec"):
        ego_motion = model.ego_motion(
            frames, translation_scale=config.translation_scale, pose_order=config.pose_order
        )
    if not phase.has_flow:
        return _Outputs(disparities, ego_motion)
    if config.motion_input == "warped":
        frames = _aligned(frames, disparities[0], ego_motion, batch, config)
    flows, logits = model.motion(frames, ego_motion, with_mask=phase.has_mask)
    return _Outputs(disparities, ego_motion, flows, logits)


@contextmanager
def _gradients(phase: Phase, module: str) -> Iterator[None]:
    """Record gradients only for modules the phase trains, and only where they are recorded at all."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and module in phase.trains):
        yield


@torch.no_grad()
def _aligned(
    images: Tensor, disparity: Tensor, ego_motion: EgoMotion, batch: Batch, config: MotionConfig
) -> Tensor:
    """The triplet with its neighbours warped to the centre frame as if the world stood still."""
    with torch.autocast(images.device.type, enabled=False):
        points = _points(disparity, batch, config)[1]
        coordinates = geometry.project(
            geometry.transform(_fold(ego_motion.poses), _per_neighbour(points)),
            _per_neighbour(batch["K"]),
        )
        neighbours = _unfold(geometry.warp(_fold(images[:, ::2]), coordinates))
    return torch.stack([neighbours[:, 0], images[:, 1], neighbours[:, 1]], 1)


def _points(disparity: Tensor, batch: Batch, config: MotionConfig) -> tuple[Tensor, Tensor]:
    """Depth (B, 1, H, W) and points (B, 3, H, W) at the images' size."""
    full = geometry.resize(disparity, batch["images"].shape[-2:])
    depth = geometry.disparity_to_depth(full, config.min_depth, config.max_depth)
    return depth, geometry.back_project(depth, batch["inv_K"])


def _per_neighbour(tensor: Tensor) -> Tensor:
    """(B, …) once for each neighbour, (2B, …)."""
    return repeat(tensor, "b ... -> (b n) ...", n=2)


def _signed(flow: Tensor, batch: Batch) -> Tensor:
    """The flow of one step in time as (2B, …): backwards to frame -1, forwards to frame +1."""
    steps = batch.get("time_steps")
    signs = torch.linspace(-1, 1, 2, device=flow.device).expand(len(flow), 2)
    factors = signs if steps is None else signs * steps
    return _per_neighbour(flow) * rearrange(factors, "b n -> (b n) 1 1 1")


def _scale_fields(outputs: _Outputs, scale: int, batch: Batch, config: MotionConfig) -> ScaleFields:
    """Geometry of one scale. Inside, neighbours are folded into the batch: (2B, …)."""
    disparity = outputs.disparities[scale]
    depth, centre_points = _points(disparity, batch, config)
    K, poses = _per_neighbour(batch["K"]), _fold(outputs.ego_motion.poses)
    points = _per_neighbour(centre_points)  # (2B, 3, H, W)
    ego_points = geometry.transform(poses, points)
    ego_coordinates = geometry.project(ego_points, K)
    coordinates = ego_coordinates
    complete = residual = complete_coordinates = logit = independent = None
    if outputs.flows is not None:
        ego_flow = ego_points - points
        complete, residual = _flows(outputs.flows[scale].float(), ego_flow, depth, batch, config)
        complete_full = geometry.resize(complete, depth.shape[-2:])
        coordinates = complete_coordinates = geometry.project(points + complete_full, K)
        if outputs.logits is not None:
            logit = outputs.logits[scale].float()
            mask = _per_neighbour(geometry.resize(logit, depth.shape[-2:]).sigmoid())
            independent = mask * (complete_full - ego_flow)
            coordinates = geometry.project(geometry.transform(poses, points + independent), K)
    warped = geometry.warp(_fold(batch["images"][:, ::2]), coordinates)
    return ScaleFields(
        disparity,
        depth,
        _unfold(ego_coordinates),
        _unfold(coordinates),
        _unfold(warped),
        _unfold_known(complete),
        _unfold_known(residual),
        _unfold_known(complete_coordinates),
        logit,
        _unfold_known(independent),
    )


def _flows(
    output: Tensor, ego_flow: Tensor, depth: Tensor, batch: Batch, config: MotionConfig
) -> tuple[Tensor, Tensor]:
    """Complete and residual flow (2B, 3, h, w) at the size of the network's output."""
    size = output.shape[-2:]
    ego_flow = geometry.resize(ego_flow, size)
    if config.flow_unit == "depth":
        output = output * geometry.resize(depth.detach(), size)
    flow = _signed(output, batch)
    if config.flow_parametrisation == "residual":
        flow = ego_flow.detach() + flow
    return flow, flow - ego_flow


def _fold(tensor: Tensor) -> Tensor:
    """(B, 2, …) to (2B, …)."""
    return rearrange(tensor, "b n ... -> (b n) ...")


def _unfold(tensor: Tensor) -> Tensor:
    """(2B, …) to (B, 2, …)."""
    return rearrange(tensor, "(b n) ... -> b n ...", n=2)


def _unfold_known(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _unfold(tensor)
