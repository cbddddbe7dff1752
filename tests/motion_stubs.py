"""Small worlds and models for the tests of stage 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moduv import geometry
from moduv.motion.fields import EgoMotion
from moduv.motion.losses import compute_losses
from moduv.motion.phases import PHASES, MotionConfig

HEIGHT, WIDTH = 24, 32


class Stored:
    """A model that repeats what it is given, and remembers what its motion network saw."""

    def __init__(
        self,
        disparities: list[Tensor],
        poses: Tensor,
        flows: list[Tensor] | None = None,
        logits: list[Tensor] | None = None,
    ) -> None:
        self.disparities, self.poses, self.flows, self.logits = disparities, poses, flows, logits
        self.seen: Tensor | None = None

    def disparity(self, image: Tensor) -> list[Tensor]:
        return self.disparities

    def ego_motion(
        self, images: Tensor, *, translation_scale: float = 1.0, pose_order: str = "source"
    ) -> EgoMotion:
        return EgoMotion(self.poses, torch.zeros(len(images), 6))

    def motion(
        self, images: Tensor, ego_motion: EgoMotion, *, with_mask: bool = True
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        self.seen = images
        assert self.flows is not None
        return self.flows, self.logits if with_mask else None


def camera(batch: int = 1) -> Tensor:
    K = torch.eye(4).repeat(batch, 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = 30.0
    K[:, 0, 2], K[:, 1, 2] = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    return K


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def triplets(batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    K = camera(batch)
    images = noise(batch, 3, 3, HEIGHT, WIDTH, seed=seed)
    return {"images": images, "K": K, "inv_K": torch.inverse(K)}


def sideways(distance: float, batch: int = 1) -> Tensor:
    """Poses of a camera that moves to the right by `distance` a frame: points move to the left."""
    translation = torch.tensor([[distance, 0, 0], [-distance, 0, 0]]).repeat(batch, 1)
    return geometry.pose_matrix(torch.zeros(2 * batch, 3), translation).unflatten(0, (batch, 2))


def stored(batch: int = 1, *, logit: float = 0.0, seed: int = 0) -> Stored:
    """Random depth and flow, a camera that moves to the right, a constant mask."""
    size = (HEIGHT, WIDTH)
    return Stored(
        [0.3 + 0.4 * noise(batch, 1, *size, seed=seed)],
        sideways(0.02, batch),
        [0.05 * (noise(batch, 3, *size, seed=seed + 1) - 0.5)],
        [torch.full((batch, 1, *size), logit)],
    )


class Tiny(nn.Module):
    """The seven modules as single layers, for what is learnt where."""

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in {
            "depth_enc": (3, 4),
            "depth_dec": (4, 1),
            "pose_enc": (9, 4),
            "pose_dec": (4, 12),
            "motion_enc": (9, 4),
            "motion_dec": (4, 3),
            "motion_mask": (4, 1),
        }.items():
            self.add_module(name, nn.Conv2d(inputs, outputs, 3, padding=1))

    def disparity(self, image: Tensor) -> list[Tensor]:
        return [self.depth_dec(self.depth_enc(image)).sigmoid()]

    def ego_motion(
        self, images: Tensor, *, translation_scale: float = 1.0, pose_order: str = "source"
    ) -> EgoMotion:
        numbers = self.pose_dec(self.pose_enc(images.flatten(1, 2))).mean((2, 3)).view(-1, 6) * 0.01
        poses = geometry.pose_matrix(numbers[:, :3].float(), numbers[:, 3:].float())
        return EgoMotion(poses.unflatten(0, (-1, 2)), torch.zeros(len(images), 6))

    def motion(
        self, images: Tensor, ego_motion: EgoMotion, *, with_mask: bool = True
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        features = self.motion_enc(images.flatten(1, 2))
        flows = [0.01 * self.motion_dec(features)]
        return flows, [self.motion_mask(features)] if with_mask else None


def losses_on_golden_frames(model: Any, golden: dict[str, Tensor], phase: str) -> dict[str, Tensor]:
    """The loss terms of the reference's frames, without noise and with the ground plane it was given."""
    K = golden["K"][None]
    images = golden["images"].permute(0, 3, 1, 2)[None].float() / 255
    return compute_losses(
        model,
        {"images": images, "K": K, "inv_K": torch.inverse(K)},
        PHASES[phase],
        1.0,
        MotionConfig(tie_break=0.0),
        ground_plane=torch.tensor([[0.01, -0.02, 0.05]]),
    )
