"""Depth of single objects up to scale, explained by a rigid motion of their own (Nguyen et al. 2024, section 3.3).

A second depth network and a second pose network see only the object, so it does not matter whether it moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moduv import geometry
from moduv.depth.triplets import Triplets, find_triplets
from moduv.dynamic_depth import losses
from moduv.dynamic_depth.data import Batch, on_device, to_train
from moduv.dynamic_depth.networks.depth import DepthNet
from moduv.dynamic_depth.networks.pose import PoseNet
from moduv.dynamic_depth.outputs import finished, made_here
from moduv.dynamic_depth.pixelwise.model import PixelwiseNetworks, explain, warp_neighbours
from moduv.dynamic_depth.pixelwise.residual import camera_poses
from moduv.dynamic_depth.pixelwise.train import WEIGHTS, TrainedPixelwise, by_network
from moduv.dynamic_depth.weights import load_networks, save_networks
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.loop import StepState, TrainingConfig, fit
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.instances.store import SUFFIX, read_labels

SMOOTHNESS = 0.02
"""Weight beside the photometric error."""
SMALLEST = 0.005
"""Share of the image that an object must cover in each of the three frames."""


@dataclass(frozen=True)
class ShapesConfig(TrainingConfig):
    """How object depth is trained."""

    flip: float = 0.5
    """Probability of a mirrored sample."""
    jitter: float = 0.5
    """Probability of changed colours."""


class ObjectNetworks(nn.Module):
    """Depth and motion of an object."""

    def __init__(self) -> None:
        super().__init__()
        self.depth_net = DepthNet()
        self.pose_net = PoseNet()

    def depth(self, images: Tensor, masks: Tensor) -> Tensor:
        """Depth (B, 1, H, W) of objects (B, 1, H, W) in images (B, 3, H, W) in [0, 1], 0 outside of them."""
        return self.depth_net(images * masks)[0].float() * masks


class ObjectTriplets(Triplets):
    """Triplets of objects: samples also hold `mask` (1, H, W) of one object in the centre frame.

    Args:
        root: folder of the segments.
        places: frames and the number of an object among their labels.
        height, width: size of the networks' input in pixels.
        objects: label root made by `moduv depth objects`.
    """

    def __init__(
        self,
        root: Path,
        places: list[tuple[FrameRef, int]],
        height: int,
        width: int,
        objects: Path,
        **more: Any,
    ) -> None:
        super().__init__(root, [frame for frame, _ in places], height, width, **more)
        self.objects, self.places = objects, places

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = item
        frame, position = self.places[index]
        found = read_labels(self.objects, frame, (self.height, self.width))
        mask = found[[position]].resized(self.height, self.width).decode()
        # `Triplets` mirrors by the first draw of a sample, too.
        if np.random.default_rng(seed).random() < self.flip:
            mask = np.ascontiguousarray(mask[:, :, ::-1])
        return {**super().__getitem__(item), "mask": torch.from_numpy(mask).float()}


def object_losses(
    model: ObjectNetworks, frames: Tensor, masks: Tensor, K: Tensor
) -> dict[str, Tensor]:
    """The losses of objects that are explained by their own depth and motion.

    Args:
        frames: (B, 3, 3, H, W) in [0, 1], -1, 0, +1.
        masks: (B, 3, 1, H, W), 1 on the object in each frame.
        K: (B, 4, 4), pixels.

    Returns:
        `loss`, and its terms with their weights, `photometric` and `smoothness`.
    """
    seen, mask = frames * masks, masks[:, 1]
    depth = model.depth(frames[:, 1], mask)
    poses = camera_poses(model.pose_net, seen).float()
    warped = warp_neighbours(seen, depth, K, poses)
    photometric = losses.photometric(warped, seen[:, [0, 2]], seen[:, 1])
    # Disparity as depth, nothing beside the object.
    disparity = mask / (depth + (1 - mask))
    smoothness = SMOOTHNESS * losses.object_smoothness(disparity, mask)
    return {"loss": photometric + smoothness, "photometric": photometric, "smoothness": smoothness}


@torch.no_grad()
def neighbour_masks(
    mask: Tensor, depth: Tensor, K: Tensor, poses: Tensor, residual: Tensor
) -> Tensor:
    """The masks (B, 3, 1, H, W), 0 or 1, of an object in the frames -1, 0 and +1.

    Args:
        mask: (B, 1, H, W) of the object in the centre frame.
        depth: (B, 1, H, W) of the centre frame.
        K: (B, 4, 4), pixels.
        poses: (B, 2, 4, 4), from the centre's camera to its neighbours'.
        residual: (B, 2, 2, H, W), the motion of the object itself, see `residual_flow`.
    """
    masks, depths, cameras = (field.repeat_interleave(2, 0) for field in (mask, depth, K))
    moved, _ = geometry.forward_warp(
        masks, depths, cameras, poses.flatten(0, 1), residual=residual.flatten(0, 1)
    )
    before, after = (moved >= 0.5).to(mask.dtype).unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([before, mask, after], 1)


def train_shapes(
    data: Path, split: Path, weights: Path, objects: Path, out: Path, config: ShapesConfig
) -> None:
    """Train a depth network on single objects, moving and static.

    Args:
        data: folder of the segments.
        split: frames to train on; those without both neighbours or without objects are left out and counted.
        weights: folder of `moduv depth pixelwise`; its networks are the start, and find the object in the neighbouring
            frames.
        objects: label root made by `moduv depth objects`.
        out: receives `weights/`.
        config: schedule.

    Raises:
        InputError: when there is no object, or a file is missing or broken.
    """
    stage = Stage("depth shapes", out, config, (split, weights, *made_here(objects)), data)
    stage.run(lambda: _train(data, split, weights, objects, out, config))


def _train(
    data: Path, split: Path, weights: Path, objects: Path, out: Path, config: ShapesConfig
) -> dict[str, Any]:
    trained = TrainedPixelwise(weights)
    frames = find_triplets(split, data)[0]
    known = [frame for frame in frames if frame.file(objects, SUFFIX).is_file()]
    places = [
        (frame, number) for frame in known for number in range(len(read_labels(objects, frame)))
    ]
    if not places:
        raise InputError(
            f"{objects}: has no object in the {len(frames)} triplets of {split}; find objects on this split first, "
            "or leave object depth out."
        )
    say(f"  {len(places)} objects in {len(known)} frames")
    size = (trained.height, trained.width)
    triplets = ObjectTriplets(data, places, *size, objects, flip=config.flip, jitter=config.jitter)
    teacher = trained.load().requires_grad_(False)
    model = ObjectNetworks()
    load_networks(model, weights / WEIGHTS)
    to_train(model)

    def step(batch: Batch, state: StepState) -> Batch:
        masks = _seen_masks(teacher, batch)
        terms = object_losses(model, batch["augmented"], masks, batch["K"])
        return {**terms, "kept": masks.flatten(1).any(1).float().mean()}

    moved = on_device(step)
    fit(model, moved, triplets, config.loop, out, label="shapes", groups=by_network)
    if distributed.is_main():
        save_networks(model, out / WEIGHTS)
    return {"objects": len(places), "frames": len(known), "size": list(size)}


def _seen_masks(teacher: PixelwiseNetworks, batch: Batch) -> Tensor:
    """Masks (B, 3, 1, H, W) of the objects of a batch; all three are empty where one of them is too small."""
    depth, poses, residual = explain(teacher, batch["images"], batch["K"])
    masks = neighbour_masks(batch["mask"], depth, batch["K"], poses, residual)
    large = (masks.mean((2, 3, 4)) > SMALLEST).all(1)
    return masks * large[:, None, None, None, None]


def load_shapes(folder: Path) -> ObjectNetworks:
    """Trained networks in evaluation mode on this process's device.

    Raises InputError when the stage is not finished, or weights do not fit.
    """
    remedy = "run moduv depth shapes, or leave it out"
    finished(folder, {"depth shapes"}, "object depth", remedy)
    model = ObjectNetworks()
    load_networks(model, folder / WEIGHTS)
    return model.to(distributed.device()).eval()
