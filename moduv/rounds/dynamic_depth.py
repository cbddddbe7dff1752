"""The last stage of depth in moving regions: stage 1 trained on with pseudo-depth (Nguyen et al. 2024, section 3.4).

Where objects move, the photometric error is left out and pseudo-depth teaches instead. Flow and motion mask stay as
they are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moduv import geometry
from moduv.depth.weights import save_modules
from moduv.dynamic_depth.data import (
    Batch,
    MinedTriplets,
    find_mined_triplets,
    on_device,
    to_train,
)
from moduv.dynamic_depth.losses import masked_mean, pseudo_depth
from moduv.engine import distributed
from moduv.engine.config import to_dict
from moduv.engine.loop import StepState, TrainingConfig, fit
from moduv.engine.stages import Stage
from moduv.motion.fields import motion_fields
from moduv.motion.losses import sum_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MODULES, PHASES, MotionConfig
from moduv.motion.train import WEIGHTS
from moduv.motion.weights import TrainedMotion, find_trained

PHASE = PHASES["disp_init"]
"""Depth and ego-motion are trained as where stage 1 begins: as if all that is left stood still."""


@dataclass(frozen=True)
class DepthTrainingConfig(TrainingConfig):
    """How depth is trained on."""

    weight: float = 0.1
    """Of the pseudo-depth term, beside a photometric error of weight 1."""
    relative: bool = False
    """Compare logarithms of depth instead of depths, so that far objects weigh no more than near ones."""
    hold: float = 0.0
    """Weight of the mean difference of the logarithm of depth to what it was before, where nothing moves."""
    flip: float = 0.5
    jitter: float = 0.5


def train_depth(
    data: Path, split: Path, weights: Path, pseudo: Path, out: Path, config: DepthTrainingConfig
) -> None:
    """Train the depth of a stage 1 on with the pseudo-depth of what moves.

    Args:
        data: folder of the segments.
        split: frames to train on; those without both neighbours are left out and counted.
        weights: folder of a finished stage 1, or an official checkpoint of Dynamo-Depth.
        pseudo: folder made by `moduv depth pseudo` with that stage 1. Without any object in it, the weights are
            kept as they are.
        out: receives `weights/`, one `.pth` a module, which serve as those of `moduv motion train` do.
        config: schedule and weight.

    Raises:
        InputError: for missing or broken frames, weights and pseudo-depths, and pseudo-depths of another stage 1.
    """
    trained = find_trained(weights)
    stage = Stage("depth train", out, config, (split, *trained.identity, pseudo), data)
    stage.run(lambda: _train(data, split, trained, pseudo, out, config))


def _train(
    data: Path,
    split: Path,
    trained: TrainedMotion,
    pseudo: Path,
    out: Path,
    config: DepthTrainingConfig,
) -> dict[str, Any]:
    triplets, objects = find_mined_triplets(
        data,
        split,
        pseudo,
        trained.identity,
        trained.height,
        trained.width,
        flip=config.flip,
        jitter=config.jitter,
        field_of_view=trained.field_of_view,
        focal_factor=trained.focal_factor,
    )
    model = trained.load()
    if objects:
        _fit(model, triplets, trained.losses, out, config)
    if distributed.is_main():
        save_modules(model, MODULES, out / WEIGHTS, trained.height, trained.width)
    return {"triplets": len(triplets), "objects": objects, "stage1": to_dict(trained.settings)}


def _fit(
    model: DynamoDepth,
    triplets: MinedTriplets,
    losses: MotionConfig,
    out: Path,
    config: DepthTrainingConfig,
) -> None:
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    PHASE.freeze(model)
    to_train(model)

    def step(batch: Batch, state: StepState) -> Batch:
        return mined_losses(model, teacher, batch, losses, config, state.generator)

    fit(model, on_device(step), triplets, config.loop, out, label="depth")


def mined_losses(
    model: DynamoDepth,
    teacher: DynamoDepth,
    batch: Batch,
    losses: MotionConfig,
    config: DepthTrainingConfig,
    generator: torch.Generator | None = None,
) -> Batch:
    """The terms of stage 1 where nothing moves, and of pseudo-depth where something does.

    Args:
        batch: of `MinedTriplets`.

    Returns:
        `loss` and, without its weight, every term.
    """
    moving = batch["pseudo_depth"] > 0
    batch = {**batch, "counted": ~moving}
    fields = motion_fields(model, batch, PHASE, losses)
    terms = sum_losses(fields, batch, PHASE, 1.0, losses, generator)
    with torch.autocast(batch["images"].device.type, enabled=False):
        scene = _depth(teacher, batch["images"][:, 1], losses)
        target = torch.where(moving, batch["pseudo_depth"], scene)
        scales = [
            pseudo_depth(scale.depth, target, moving, relative=config.relative)
            for scale in fields.scales.values()  # all enlarged to the images' size
        ]
        held = [
            masked_mean((scale.depth.log() - scene.log()).abs(), ~moving)
            for scale in fields.scales.values()
        ]
    mined, kept = torch.stack(scales).mean(), torch.stack(held).mean()
    loss = terms["loss"] + config.weight * mined + config.hold * kept
    return {**terms, "loss": loss, "pseudo_depth": mined, "held": kept}


@torch.no_grad()
def _depth(model: DynamoDepth, images: Tensor, losses: MotionConfig) -> Tensor:
    """Depth (B, 1, H, W) of images (B, 3, H, W)."""
    disparity = geometry.resize(model.disparity(images)[0].float(), images.shape[-2:])
    return geometry.disparity_to_depth(disparity, losses.min_depth, losses.max_depth)
