"""The road: ground segmentation trained on level surfaces, and its masks as a label set (section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.data import frame_batches, on_device
from moduv.dynamic_depth.masks.ground import CERTAIN, ground_losses
from moduv.dynamic_depth.networks.ground import GroundNet, ground_inputs
from moduv.dynamic_depth.objects import NOTHING
from moduv.dynamic_depth.outputs import finished_size, frames_with, made_here, read_scene, stacked
from moduv.dynamic_depth.schedules import halvings, ramp
from moduv.dynamic_depth.weights import load_network
from moduv.engine import checkpoint, distributed
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, StepState, TrainingConfig, fit
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, read_labels, write_labels

WEIGHTS = "ground_segmentation.pth"
HALVED = (1 / 4, 3 / 4)
"""Shares of the training after which the learning rate is halved."""


@dataclass(frozen=True)
class GroundConfig(TrainingConfig):
    """How ground segmentation is trained. The defaults are shares of the published 20 epochs of 4,358 steps."""

    own: tuple[float, float] = (0.2008, 0.2581)
    """Shares of the training between which the weight of self-training rises from 0."""
    own_weight: float = 0.5
    """Final weight of self-training."""
    noisy: tuple[float, float] = (0.5163, 0.5737)
    """Shares of the training between which the weight of the labels of level surfaces falls from 1."""
    noisy_weight: float = 0.25
    """Final weight of the labels of level surfaces."""
    flip: float = 0.5
    """Probability of a mirrored sample."""


@dataclass(frozen=True)
class RoadConfig:
    """How ground segmentation is applied."""

    batch_size: int = speed_only(8)
    """Frames at once."""


class Scenes:
    """Frames with the depth of stage 1, indexed by (index, sample seed).

    Args:
        data: folder of the frames.
        motion: folder of the motion outputs.
        frames: the frames.
        flip: probability of a mirrored sample.
    """

    def __init__(self, data: Path, motion: Path, frames: list[FrameRef], flip: float = 0.0) -> None:
        self.data, self.motion, self.frames, self.flip = data, motion, frames, flip

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """`inputs` (4, H, W) of the network and `level` (1, H, W), whether a pixel lies on a level surface."""
        index, seed = item
        image, depth, inv_K = read_scene(self.frames[index], self.data, self.motion)
        points = geometry.back_project(depth[None], inv_K[None])
        sample = {
            "inputs": ground_inputs(image[None], 1 / depth[None])[0],
            "level": geometry.level_surfaces(points)[0],
        }
        if np.random.default_rng(seed).random() < self.flip:
            sample = {name: field.flip(-1) for name, field in sample.items()}
        return sample

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return stacked(samples)


def train_ground(data: Path, split: Path, motion: Path, out: Path, config: GroundConfig) -> None:
    """Train ground segmentation on the surfaces that are level in the depth of stage 1.

    Args:
        data: folder of the frames.
        split: frames to train on; those without motion output are left out and counted.
        motion: folder of `moduv depth scenes`.
        out: receives `ground_segmentation.pth`, which takes frames of this size only.
        config: schedule.

    Raises:
        InputError: when a file is missing or broken, or depths are of several sizes.
    """
    stage = Stage("depth ground", out, config, (split, *made_here(motion)), data)
    stage.run(lambda: _train(data, split, motion, out, config))


def _train(
    data: Path, split: Path, motion: Path, out: Path, config: GroundConfig
) -> dict[str, Any]:
    frames = frames_with(split, motion)
    dataset = Scenes(data, motion, frames, config.flip)
    height, width = dataset[0, 0]["inputs"].shape[1:]
    if config.own_weight and height % 3:
        raise InputError(
            f"{motion}: depths have {height} rows, which are not cut into thirds; predict scenes at a multiple of 96, "
            "or train with --config.own_weight 0."
        )
    torch.manual_seed(config.loop.seed)
    net = GroundNet(height, width).to(distributed.device())

    def step(batch: dict[str, Tensor], state: StepState) -> dict[str, Tensor]:
        _check_size(batch["inputs"], net, motion)
        own = config.own_weight * ramp(state.progress, config.own)
        noisy = 1 - (1 - config.noisy_weight) * ramp(state.progress, config.noisy)
        return ground_losses(net, batch["inputs"], batch["level"], own=own, noisy=noisy)

    def rate(loop: LoopConfig, step: int) -> float:
        return loop.learning_rate * halvings(HALVED, step, loop.steps)

    moved = on_device(step)
    fit(net, moved, dataset, config.loop, out, label="ground", rate=rate)
    if distributed.is_main():
        checkpoint.save_weights(out / WEIGHTS, net.state_dict())
    return {"frames": len(frames), "size": [height, width]}


def predict_road(
    data: Path, split: Path, motion: Path, ground: Path, out: Path, config: RoadConfig
) -> None:
    """Write the road of every frame as one mask.

    Args:
        data: folder of the frames.
        split: frames; those without motion output are left out and counted.
        motion: folder of `moduv depth scenes`.
        ground: folder of `moduv depth ground`.
        out: label root; finished files are kept.
        config: batch size.

    Raises:
        InputError: when a file is missing or broken, or of another size than those that the network was trained on.
    """
    stage = Stage("depth road", out, config, (split, *made_here(motion), ground), data)
    stage.run(lambda: _predict(data, split, motion, ground, out, config))


def _predict(
    data: Path, split: Path, motion: Path, ground: Path, out: Path, config: RoadConfig
) -> dict[str, Any]:
    frames = frames_with(split, motion)
    todo = [frame for frame in distributed.shard(frames) if not is_labelled(out, frame)]
    for frame, mask in _roads(_load(ground), Scenes(data, motion, todo), config.batch_size):
        write_labels(out, frame, Instances.from_dense(mask) if mask.any() else NOTHING)
    distributed.barrier()
    seen = sum(len(read_labels(out, frame)) for frame in frames)
    say(f"  {seen} of {len(frames)} frames show road")
    return {"frames": len(frames), "with_road": seen}


@torch.inference_mode()
def _roads(
    net: GroundNet, scenes: Scenes, batch_size: int
) -> Iterator[tuple[FrameRef, np.ndarray]]:
    """The road (1, H, W) bool of every frame."""
    for frames, batch in frame_batches(scenes, batch_size, "road"):
        _check_size(batch["inputs"], net, scenes.motion)
        found = net(batch["inputs"]) > CERTAIN
        yield from zip(frames, found.cpu().numpy(), strict=True)


def _check_size(inputs: Tensor, net: GroundNet, motion: Path) -> None:
    if tuple(inputs.shape[-2:]) != net.size:
        raise InputError(
            f"{motion}: depths are {inputs.shape[-2]} x {inputs.shape[-1]}, and ground segmentation is for "
            f"{net.size[0]} x {net.size[1]}; train it on frames of one size, and apply it to these."
        )


def _load(folder: Path) -> GroundNet:
    size = finished_size(folder, {"depth ground"}, "ground segmentation", "run moduv depth ground")
    return load_network(GroundNet(*size), folder / WEIGHTS)
