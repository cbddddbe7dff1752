"""Depth-scale alignment: learn the depth of moving objects from parked ones (Nguyen et al. 2024, section 3.3).

Stage 1 predicts the right depth for objects that stand still. From these a network learns to tell the depth of an object
from its appearance and from the road around it, and is then applied to moving objects. The published network predicts a
factor for the depth that a second network (`moduv depth shapes`) gives to an object. That factor may come out negative,
its logarithm may not. Where objects are small, the shape that stage 1 sees, or a flat one, is good enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.data import on_device
from moduv.dynamic_depth.losses import masked_mean, scale_alignment
from moduv.dynamic_depth.networks.alignment import DepthScaleAlignment
from moduv.dynamic_depth.objects import movers
from moduv.dynamic_depth.outputs import (
    check_aspect,
    finished,
    frames_of,
    made_here,
    read_depth,
    read_inverse_intrinsics,
    read_road,
    stacked,
)
from moduv.dynamic_depth.schedules import halvings
from moduv.dynamic_depth.shapes import ObjectNetworks, load_shapes
from moduv.dynamic_depth.weights import load_alignment_resnet, load_network
from moduv.engine import checkpoint, distributed
from moduv.engine.config import added, build
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, StepState, TrainingConfig, fit, learning_rate
from moduv.engine.stages import MANIFEST, Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image
from moduv.instances import rle
from moduv.instances.store import SUFFIX, read_labels

WEIGHTS = "depth_scale_alignment.pth"
HUBER = 0.05
"""Difference of log depths up to which the loss is quadratic."""
ROAD = 0.15
"""Largest distance of a road point to the ground plane, as a share of the camera's height."""
BORDER = 4
"""Margin in pixels around an object's box where depth is hidden, as it may be the object's own."""
EPSILON = 1e-5
"""Added to an object's mean depth."""


@dataclass(frozen=True)
class AlignmentConfig(TrainingConfig):
    """How depth-scale alignment is trained."""

    flat: bool = False
    """Take every object for flat and parallel to the image, instead of using its predicted shape."""
    logarithm: bool = True
    """Predict the logarithm of the factor; the published network predicts the factor itself, which may be negative."""
    flip: float = 0.5
    """Probability of a mirrored sample."""
    resnet_weights: str = added("")
    """File of torchvision's ImageNet ResNet-18, from which the network starts; empty: from scratch."""
    halved: tuple[float, ...] = added(())
    """Shares of the training after which the learning rate is halved, in addition to the schedule of `loop`."""


@dataclass(frozen=True)
class Scene:
    """A frame with the teacher's depth."""

    image: np.ndarray
    """(H, W, 3) uint8, at the depth's size."""
    depth: np.ndarray
    """(H, W) float32."""
    road: np.ndarray
    """(H, W) bool."""

    @classmethod
    def read(cls, frame: FrameRef, data: Path, motion: Path, road: Path | None = None) -> Scene:
        """Read a frame. Its road comes from a label root or, without one, is what lies on the ground plane.

        Raises InputError when a file is missing or broken, or depth is not positive and finite.
        """
        path = frame.file(motion, ".npz")
        depth = read_depth(path)
        if road is None:
            ground = road_mask(depth, read_inverse_intrinsics(path))
        else:
            ground = read_road(road, frame, (depth.shape[0], depth.shape[1]))
        image = read_image(frame.image_path(data))
        check_aspect(depth.shape, image.shape, path)
        return cls(resize_image(image, *depth.shape), depth, ground)

    def inputs(self, mask: np.ndarray, *, flat: bool) -> dict[str, Tensor]:
        """The network's inputs for an object (H, W) bool: image, mask, depth of the road and shape, (C, H, W) each."""
        object_depth = np.ones_like(self.depth) if flat else self.depth
        road, shape = alignment_inputs(self.depth, self.road, mask, object_depth)
        maps = {"mask": mask.astype(np.float32), "road": road, "shape": shape}
        image = torch.from_numpy(self.image).movedim(-1, 0).float() / 255
        return {"image": image} | {name: torch.from_numpy(x)[None] for name, x in maps.items()}


def alignment_inputs(
    depth: np.ndarray, road: np.ndarray, mask: np.ndarray, object_depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The depths from which the network tells an object's scale, (H, W) float32.

    Args:
        depth: (H, W), the scene's.
        road: (H, W) bool.
        mask: (H, W) bool, the object.
        object_depth: (H, W), of any scale.

    Returns:
        The scene's depth on the road, except close to the object, and the object's depth divided by its mean; both are
        0 elsewhere.
    """
    left, top, right, bottom = rle.extent(mask)
    seen = road & ~mask
    if mask.any():
        seen[max(0, top - BORDER) : bottom + BORDER, max(0, left - BORDER) : right + BORDER] = False
    inside = np.where(mask, object_depth, 0.0)
    mean = inside.sum() / max(1, np.count_nonzero(mask)) + EPSILON
    return (depth * seen).astype(np.float32), (inside / mean).astype(np.float32)


def road_mask(depth: np.ndarray, inv_K: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool whose 3D points lie close to the ground plane."""
    points = geometry.back_project(
        torch.from_numpy(depth)[None, None], torch.from_numpy(inv_K)[None].float()
    )
    seeded = torch.Generator().manual_seed(0)
    plane = geometry.ransac_plane(geometry.ground_points(points), seeded, tolerance=0.05)
    a, b, c = plane[0].tolist()
    x, y, z = points[0]
    on_plane = (y - (a * x + b * z + c)).abs() < ROAD * abs(c)
    return on_plane.numpy()


class StaticObjects:
    """Static objects, indexed by (index, sample seed).

    Args:
        data: folder of the frames.
        motion: folder of the motion outputs.
        objects: label root made by `moduv depth objects`.
        frames: which.
        config: whether objects are flat, and the probability of a mirrored sample.
        road: label root of the road; None: use the ground plane.
    """

    def __init__(
        self,
        data: Path,
        motion: Path,
        objects: Path,
        frames: list[FrameRef],
        config: AlignmentConfig,
        road: Path | None = None,
    ) -> None:
        self.data, self.motion, self.road = data, motion, road
        self.root, self.config = objects, config
        self.places = [
            (frame, int(position))
            for frame in frames
            for position in np.flatnonzero(~movers(read_labels(objects, frame)))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """`image` (3, H, W) in [0, 1]; `mask`, `road`, `shape` and the scene's `depth`, (1, H, W)."""
        index, seed = item
        frame, position = self.places[index]
        scene = Scene.read(frame, self.data, self.motion, self.road)
        objects = read_labels(self.root, frame)
        objects.check_aspect(scene.depth.shape, frame.file(self.root, SUFFIX))
        (mask,) = objects[[position]].resized(*scene.depth.shape).decode()
        sample = scene.inputs(mask, flat=self.config.flat)
        sample["depth"] = torch.from_numpy(scene.depth)[None]
        if np.random.default_rng(seed).random() < self.config.flip:
            sample = {name: field.flip(-1) for name, field in sample.items()}
        return sample

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return stacked(samples)


def train_alignment(
    data: Path,
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: AlignmentConfig,
    road: Path | None = None,
    shapes: Path | None = None,
) -> None:
    """Train depth-scale alignment on static objects.

    Args:
        data: folder of the frames.
        split: frames to train on; those without objects or without motion output are left out.
        motion: folder of the motion outputs, whose depth is the target.
        objects: label root made by `moduv depth objects`.
        out: receives `depth_scale_alignment.pth`.
        config: schedule and inputs.
        road: label root of the road; without it, the road is what lies on the ground plane.
        shapes: folder of `moduv depth shapes`, which predicts the shapes of objects; without it, they are those of the
            motion outputs.

    Raises:
        InputError: when no object is static, or a file is missing or broken.
    """
    inputs = (split, *made_here(motion), objects, *made_here(road, shapes))
    stage = Stage("depth align", out, config, inputs, data)
    stage.run(lambda: _train(data, split, motion, objects, out, config, road, shapes))


def _train(
    data: Path,
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: AlignmentConfig,
    road: Path | None,
    shapes: Path | None,
) -> dict[str, Any]:
    frames = frames_of(split, motion, objects)
    dataset = StaticObjects(data, motion, objects, frames, config, road)
    if not len(dataset):
        raise InputError(
            f"{objects}: none of its objects stands still, so there is nothing to learn from; give labels of "
            "parked objects, too, such as L2, or leave the alignment out."
        )
    say(f"  {len(dataset)} static objects in {len(frames)} frames")
    torch.manual_seed(config.loop.seed)
    net = DepthScaleAlignment()
    if config.resnet_weights:
        load_alignment_resnet(net, config.resnet_weights)
    net.to(distributed.device())
    seen = None if shapes is None else load_shapes(shapes)

    def step(batch: dict[str, Tensor], state: StepState) -> dict[str, Tensor]:
        return alignment_losses(net, with_shape(batch, seen), logarithm=config.logarithm)

    def rate(loop: LoopConfig, step: int) -> float:
        return learning_rate(loop, step) * halvings(config.halved, step, loop.steps)

    moved = on_device(step)
    fit(net, moved, dataset, config.loop, out, label="alignment", rate=rate)
    if distributed.is_main():
        checkpoint.save_weights(out / WEIGHTS, net.state_dict())
    given = {"road": road is not None, "shapes": shapes is not None}
    return {"objects": len(dataset), "frames": len(frames), **given}


def with_shape(batch: dict[str, Tensor], shapes: ObjectNetworks | None) -> dict[str, Tensor]:
    """A batch whose shapes are predicted by object networks and divided by their mean; unchanged without networks."""
    if shapes is None:
        return batch
    mask = batch["mask"]
    with torch.no_grad():
        depth = shapes.depth(batch["image"], mask)
    mean = depth.sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1) + EPSILON
    return {**batch, "shape": depth / mean[:, None, None, None]}


def alignment_losses(
    net: DepthScaleAlignment, batch: dict[str, Tensor], *, logarithm: bool = True
) -> dict[str, Tensor]:
    """The Huber loss of the objects' depth, or of its logarithm, and the mean error."""
    depths, inside = object_depths(net, batch, logarithm=logarithm), batch["mask"] > 0
    if not logarithm:
        loss = scale_alignment(depths, batch["depth"], batch["mask"])
        off = (depths.detach() / batch["depth"] - 1).abs()
        return {"loss": loss, "relative_error": masked_mean(off, inside)}
    found = depths.clamp(min=1e-6).log()
    error = F.huber_loss(found, batch["depth"].log(), reduction="none", delta=HUBER)
    off = masked_mean((found.detach() - batch["depth"].log()).abs(), inside)
    each = (error * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
    return {"loss": each.mean(), "log_error": off}


def object_depths(net: DepthScaleAlignment, batch: dict[str, Tensor], *, logarithm: bool) -> Tensor:
    """The depth (B, 1, H, W) of each object in a batch, 0 outside of it."""
    with torch.autocast(batch["image"].device.type, enabled=False):
        told = net(batch["image"], batch["mask"], batch["road"], batch["shape"]).float()
    factor = told.exp() if logarithm else told
    return factor[:, :, None, None] * batch["shape"]


class Aligned:
    """A trained alignment that predicts the depths of objects.

    Args:
        folder: of a finished `moduv depth align`.
        data: folder of the frames.
        motion: folder of the motion outputs.
        road: label root of the road; None: use the ground plane.
        shapes: folder of the `moduv depth shapes` that it was trained with, if any.

    Raises:
        InputError: when the stage is not finished, was trained with other inputs, or its weights do not fit.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        motion: Path,
        road: Path | None = None,
        shapes: Path | None = None,
    ) -> None:
        remedy = "run moduv depth align, or leave it out"
        manifest = finished(folder, {"depth align"}, "alignment", remedy)
        for option, path in {"road": road, "shapes": shapes}.items():
            trained_with = manifest["results"].get(option, path is not None)
            if bool(trained_with) != (path is not None):
                raise InputError(
                    f"{folder}: was trained {'without' if path else 'with'} --{option}; give here what it was given."
                )
        self.config = build(AlignmentConfig, manifest["config"], f"{folder / MANIFEST}")
        self.data, self.motion, self.road = data, motion, road
        self.shapes = None if shapes is None else load_shapes(shapes)
        self.net = load_network(DepthScaleAlignment(), folder / WEIGHTS)

    @torch.no_grad()
    def depths(self, frame: FrameRef, masks: np.ndarray) -> np.ndarray:
        """The depths (N, H, W) float32 of a frame's objects (N, H, W) bool, 0 outside of them."""
        if not len(masks):
            return np.zeros(masks.shape, np.float32)
        scene = Scene.read(frame, self.data, self.motion, self.road)
        samples = [scene.inputs(mask, flat=self.config.flat) for mask in masks]
        batch = {k: v.to(distributed.device()) for k, v in StaticObjects.collate(samples).items()}
        batch = with_shape(batch, self.shapes)
        found = object_depths(self.net, batch, logarithm=self.config.logarithm)
        return found[:, 0].cpu().numpy()
