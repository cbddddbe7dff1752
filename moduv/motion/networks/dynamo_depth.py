"""Dynamo-Depth's networks as one model, and its checkpoint on disk (section 3.1)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from moduv import geometry
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.motion.fields import EgoMotion
from moduv.motion.networks.learned_camera import LearnedCamera
from moduv.motion.networks.litemono import LiteMonoDecoder, LiteMonoEncoder
from moduv.motion.networks.monodepth import MonodepthDecoder
from moduv.motion.networks.motion_fields import MotionFieldDecoder
from moduv.motion.networks.pose import PoseDecoder
from moduv.motion.networks.resnet import ResNetEncoder
from moduv.motion.phases import MODULES

DEPTH_MODELS = ("litemono", "monodepthv2", "street")


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
        if depth_model not in DEPTH_MODELS:
            raise InputError(
                f"depth model {depth_model!r} is unknown; choose one of {DEPTH_MODELS}."
            )
        self.depth_model = depth_model
        self.camera: LearnedCamera | None = None
        """Learned together with the networks where cameras are unknown; no part of the checkpoint."""
        for name, module in _build(depth_model).items():
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
        """How the camera moved between the centre frame and its neighbours, in float32.

        Args:
            images: (B, 3, 3, H, W), frames -1, 0, +1 in [0, 1].
            translation_scale: factor from the network's translation to units of depth.
            pose_order: the network sees the neighbour first and the centre last (`source`), or both in
                the order of `time`.
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
        """Flow and motion mask of the centre frame.

        Args:
            images: (B, 3, 3, H, W), frames -1, 0, +1 in [0, 1].
            ego_motion: what `ego_motion` returned for them.
            with_mask: whether the mask is wanted too.

        Returns:
            Flows (B, 3, h, w) of one step towards frame +1 and logits (B, 1, h, w), scale 0 first.
        """
        frames = images.flatten(1, 2)
        features = self.motion_enc(frames)
        flows = self.motion_dec(features, frames, ego_motion.mean)
        logits = self.motion_mask(features, frames, ego_motion.mean) if with_mask else None
        return flows, logits

    def load_checkpoint(self, folder: str | Path) -> tuple[int, int] | None:
        """Load a folder of one `.pth` per module, in the official form.

        Returns:
            The height and width the networks were trained at, where the encoder's file tells.

        Raises:
            InputError: naming the file that is missing or the keys that do not fit.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such checkpoint folder; check the path or train it first."
            )
        contents = {name: _read_module(folder / f"{name}.pth") for name in MODULES}
        for name, (state, _) in contents.items():
            checkpoint.load_strict(getattr(self, name), state, folder / f"{name}.pth")
        return contents["depth_enc"][1]

    def save_checkpoint(self, folder: str | Path, height: int, width: int) -> None:
        """Write one `.pth` per module; the encoders' files also say at which size they were trained."""
        for name in MODULES:
            state = getattr(self, name).state_dict()
            content = {key: value.detach().cpu().contiguous() for key, value in state.items()}
            size = {"height": height, "width": width} if name.endswith("_enc") else {}
            checkpoint.save(Path(folder) / f"{name}.pth", {**content, **size})


def _build(depth_model: str) -> dict[str, nn.Module]:
    if depth_model == "street":
        # Only this model needs it, and it lives beside the published ones.
        from moduv.motion.networks.street import build_street

        return build_street()
    if depth_model == "litemono":
        depth_enc: nn.Module = LiteMonoEncoder()
        depth_dec: nn.Module = LiteMonoDecoder()
    else:
        depth_enc = ResNetEncoder()
        depth_dec = MonodepthDecoder(ResNetEncoder.channels)
    return {
        "depth_enc": depth_enc,
        "depth_dec": depth_dec,
        "pose_enc": ResNetEncoder(2),
        "pose_dec": PoseDecoder(ResNetEncoder.channels[-1]),
        "motion_enc": ResNetEncoder(3),
        "motion_dec": MotionFieldDecoder(ResNetEncoder.channels, 3),
        "motion_mask": MotionFieldDecoder(ResNetEncoder.channels, 1),
    }


def read_size(path: Path) -> tuple[int, int] | None:
    """Height and width at which an encoder was trained, where its file tells."""
    return _read_module(path)[1]


def _read_module(path: Path) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """State dict and, where the file tells it, training size of one module."""
    content = checkpoint.load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no state dict; give an official checkpoint folder.")
    size = {key: content[key] for key in ("height", "width") if key in content}
    state = {key: value for key, value in content.items() if key not in size}
    return state, (int(size["height"]), int(size["width"])) if len(size) == 2 else None
