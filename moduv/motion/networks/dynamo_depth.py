"""Dynamo-Depth's networks as one model (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from moduv import geometry
from moduv.depth.networks import depth_networks
from moduv.depth.networks.camera import LearnedCamera
from moduv.depth.networks.resnet import ResNetEncoder
from moduv.engine.errors import InputError
from moduv.motion.networks import street
from moduv.motion.networks.motion_fields import MotionFieldDecoder


@dataclass(frozen=True)
class EgoMotion:
    """How the camera moved."""

    poses: Tensor
    """(B, 2, 4, 4): from the centre camera's coordinates to each neighbour's."""
    mean: Tensor
    """(B, 6): what the pose network says of one step in time, translation then axis-angle; detached."""


class DynamoDepth(nn.Module):
    """Depth, ego-motion, complete flow and motion mask.

    Args:
        depth_model: `litemono` or `monodepthv2` as published, `street` for the built-in world.
    """

    depth_enc: nn.Module
    depth_dec: nn.Module
    pose_enc: nn.Module
    pose_dec: nn.Module
    motion_enc: nn.Module
    motion_dec: nn.Module
    motion_mask: nn.Module

    def __init__(self, depth_model: str = "litemono") -> None:
        super().__init__()
        self.depth_model = depth_model
        self.camera: LearnedCamera | None = None
        """Learned together with the networks where cameras are unknown; no part of the checkpoint."""
        parts = depth_networks(depth_model)  # first, so that a seed gives the same weights as ever
        for name, module in {**parts, **_motion_networks(depth_model)}.items():
            self.add_module(name, module)

    def to_device(self, device: torch.device) -> DynamoDepth:
        """Move to a device, in the memory format that is fast there; returns itself."""
        if device.type == "cuda":  # measured: no gain on CPUs
            return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)

    def disparity(self, image: Tensor) -> list[Tensor]:
        """Disparities (B, 1, h, w) in (0, 1) of an image (B, 3, H, W) in [0, 1], scale 0 first.

        Raises InputError when the published networks cannot halve the image's sides five times.
        """
        height, width = image.shape[-2:]
        if self.depth_model != "street" and (height % 32 or width % 32):
            raise InputError(
                f"image size {height} x {width} does not suit {self.depth_model}; "
                "choose a height and a width that are multiples of 32."
            )
        return self.depth_dec(self.depth_enc(image))

    def ego_motion(
        self, images: Tensor, *, translation_scale: float = 1.0, pose_order: str = "source"
    ) -> EgoMotion:
        """How the camera moved between the centre of `images` (B, 3, 3, H, W) in [0, 1] and its neighbours.

        In float32; for `translation_scale` and `pose_order` see `MotionConfig`.
        """
        before, centre, after = images.unbind(1)
        forwards = pose_order == "time"
        second = (centre, after) if forwards else (after, centre)
        pairs = torch.cat([torch.cat([before, centre], 1), torch.cat(second, 1)])
        axis_angle, translation = self.pose_dec(self.pose_enc(pairs))
        with torch.autocast(images.device.type, enabled=False):
            axis_angle, translation = axis_angle.float(), translation.float()
            # The network tells where the first frame's points are in the second frame's coordinates.
            to_centre, last = geometry.pose_matrix(
                axis_angle, translation_scale * translation
            ).chunk(2)
            to_after = last if forwards else geometry.inverse_pose(last)
            poses = torch.stack([geometry.inverse_pose(to_centre), to_after], 1)
            earlier, later = torch.cat([translation, axis_angle], 1).detach().chunk(2)
            mean = (earlier + later if forwards else earlier - later) / 2
        return EgoMotion(poses, mean)

    def motion(
        self, images: Tensor, ego_motion: EgoMotion, *, with_mask: bool = True
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Flow and, where wanted, motion mask of the centre frame of `images` (B, 3, 3, H, W) in [0, 1].

        Returns:
            Flows (B, 3, h, w) of one step towards frame +1 and logits (B, 1, h, w), scale 0 first.
        """
        frames = rearrange(images, "b frame rgb h w -> b (frame rgb) h w")
        features = self.motion_enc(frames)
        flows = self.motion_dec(features, frames, ego_motion.mean)
        logits = self.motion_mask(features, frames, ego_motion.mean) if with_mask else None
        return flows, logits


def _motion_networks(depth_model: str) -> dict[str, nn.Module]:
    if depth_model == "street":
        return {
            "motion_enc": street.MotionEncoder(),
            "motion_dec": street.MotionDecoder(street.MOTION_CHANNELS, 3, gain=0.1),
            "motion_mask": street.MotionDecoder(street.MOTION_CHANNELS, 1, gain=1.0),
        }
    return {
        "motion_enc": ResNetEncoder(3),
        "motion_dec": MotionFieldDecoder(ResNetEncoder.channels, 3),
        "motion_mask": MotionFieldDecoder(ResNetEncoder.channels, 1),
    }
