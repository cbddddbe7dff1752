"""Training of depth, ego-motion and residual flow: stage 1 (Nguyen et al. 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moduv.depth.triplets import Triplets, find_triplets
from moduv.depth.weights import load_resnet
from moduv.dynamic_depth.data import Batch, on_device, to_train
from moduv.dynamic_depth.outputs import finished_size
from moduv.dynamic_depth.pixelwise.model import PixelwiseNetworks, pixelwise_terms
from moduv.dynamic_depth.weights import load_hrnet, load_networks, save_networks
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, StepState, fit
from moduv.engine.stages import Stage

WEIGHTS = "weights"
"""Folder of a finished training that holds one `.pth` a network."""


@dataclass(frozen=True)
class Phase:
    """A part of stage 1: the networks that it trains, and with which losses."""

    trains: tuple[str, ...]
    residual: bool
    sparse: bool = False


PHASES = {
    "rigid": Phase(("depth_net", "pose_net"), residual=False),
    "residual": Phase(("raft",), residual=True),
    "joint": Phase(("depth_net", "pose_net", "raft"), residual=True, sparse=True),
}
"""In order; each has its own optimiser."""


@dataclass(frozen=True)
class PixelwiseConfig:
    """How stage 1 is trained."""

    loops: dict[str, LoopConfig]
    """Length, batch size and learning rate of each phase: rigid, residual, joint."""
    height: int = 192
    width: int = 512
    """Size of the networks' input in pixels: multiples of 32, at least 128, with about the aspect ratio of the frames, which labels
    that are made from it must have."""
    hrnet_weights: str = ""
    """File of ImageNet's HRNet-W18, from which the depth encoder starts; empty: from scratch."""
    resnet_weights: str = ""
    """File of torchvision's ImageNet ResNet-18, from which the pose encoder starts; empty: from scratch."""
    flip: float = 0.5
    """Probability of a mirrored sample."""
    jitter: float = 0.5
    """Probability of changed colours."""
    seed: int = 0
    """Of the initial weights."""

    def __post_init__(self) -> None:
        if list(self.loops) != list(PHASES):
            raise InputError(f"depth_pixelwise: loops must name the phases {tuple(PHASES)}.")
        check_size(self.height, self.width)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batches that processes share."""
        return tuple(loop.batch_size for loop in self.loops.values())


def check_size(height: int, width: int) -> None:
    """Raise InputError for image sizes, in pixels, that the networks do not take."""
    if height % 32 or width % 32 or min(height, width) < 128:
        raise InputError(
            f"{height} x {width} pixels: use multiples of 32 from 128 on, such as the published 192 x 512."
        )


def train_pixelwise(data: Path, split: Path, out: Path, config: PixelwiseConfig) -> None:
    """Stage 1: train depth, ego-motion and a residual flow for every pixel on raw clips.

    Args:
        data: folder of the segments, each with numbered frames and `cam.json`.
        split: frames to train on; those without both neighbours are left out and counted.
        out: receives a folder per phase and `weights/`.
        config: schedule, size and initial weights.

    Raises:
        InputError: for missing or broken frames, intrinsics, initial weights and settings.
    """
    stage = Stage("depth pixelwise", out, config, (split,), data)
    stage.run(lambda: _train(data, split, out, config))


def _train(data: Path, split: Path, out: Path, config: PixelwiseConfig) -> dict[str, Any]:
    frames, absent, edges = find_triplets(split, data)
    say(f"  {len(frames)} triplets; left out: {edges + absent} frames")
    torch.manual_seed(config.seed)
    model = PixelwiseNetworks()
    if config.hrnet_weights:
        load_hrnet(model.depth_net.depth_encoder, config.hrnet_weights)
    if config.resnet_weights:
        load_resnet(model.pose_net.pose_encoder, config.resnet_weights)
    triplets = Triplets(
        data, frames, config.height, config.width, flip=config.flip, jitter=config.jitter
    )
    to_train(model)
    for name, phase in PHASES.items():
        freeze_all_but(model, phase.trains)
        step = on_device(_phase_step(model, phase))
        fit(model, step, triplets, config.loops[name], out / name, label=name, groups=by_network)
    if distributed.is_main():
        save_networks(model, out / WEIGHTS)
    return {"triplets": len(frames), "size": [config.height, config.width]}


def _phase_step(model: PixelwiseNetworks, phase: Phase) -> Callable[[Batch, StepState], Batch]:
    def step(batch: Batch, state: StepState) -> Batch:
        return pixelwise_terms(model, batch, residual=phase.residual, sparse=phase.sparse)[0]

    return step


def freeze_all_but(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze all children of a model except those with these names."""
    for name, network in model.named_children():
        network.requires_grad_(name in names)


def by_network(model: nn.Module) -> list[dict[str, Any]]:
    """The trained parameters, grouped by network, so that the gradient of each network is clipped separately."""
    groups = [
        [parameter for parameter in network.parameters() if parameter.requires_grad]
        for network in model.children()
    ]
    return [{"params": group} for group in groups if group]


class TrainedPixelwise:
    """A finished stage 1 or last stage.

    Args:
        folder: of `moduv depth pixelwise` or `moduv depth final`.

    Raises:
        InputError: when it is not finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stages = {"depth pixelwise", "depth final"}
        remedy = "run moduv depth pixelwise first, or check the folder"
        self.height, self.width = finished_size(folder, stages, "stage 1", remedy)
        check_size(self.height, self.width)

    def load(self) -> PixelwiseNetworks:
        """The networks in evaluation mode on this process's device. Raises InputError when weights do not fit."""
        model = PixelwiseNetworks()
        load_networks(model, self.folder / WEIGHTS)
        return model.to(distributed.device()).eval()
