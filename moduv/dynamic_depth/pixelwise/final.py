"""The last stage: stage 1 is trained further, with pseudo-depth on moving objects (Nguyen et al. 2024, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moduv.dynamic_depth.data import Batch, find_mined_triplets, on_device, to_train
from moduv.dynamic_depth.pixelwise.model import pixelwise_terms, pseudo_depth_term
from moduv.dynamic_depth.pixelwise.train import WEIGHTS, TrainedPixelwise, by_network
from moduv.dynamic_depth.weights import save_networks
from moduv.engine import distributed
from moduv.engine.loop import StepState, TrainingConfig, fit
from moduv.engine.stages import Stage


@dataclass(frozen=True)
class FinalConfig(TrainingConfig):
    """How the last stage is trained."""

    weight: float = 0.1
    """Weight of the difference to pseudo-depth."""
    bilinear: bool = False
    """Resize pseudo-depth to the smaller scales bilinearly, as published, which mixes objects with their background;
    otherwise to the nearest pixel, like the masks."""
    flip: float = 0.5
    """Probability of a mirrored sample."""
    jitter: float = 0.5
    """Probability of changed colours."""


def train_final(
    data: Path, split: Path, weights: Path, pseudo: Path, out: Path, config: FinalConfig
) -> None:
    """The last stage: train stage 1 further, with pseudo-depth on moving objects.

    Args:
        data: folder of the segments.
        split: frames to train on; those without both neighbours are left out and counted.
        weights: folder of `moduv depth pixelwise`.
        pseudo: folder of `moduv depth pseudo`, made with that stage 1. If it holds no object, the weights are kept
            as they are.
        out: receives `weights/`.
        config: schedule and weight.

    Raises:
        InputError: for missing or broken frames, weights and pseudo-depths, and pseudo-depths of another stage 1.
    """
    stage = Stage("depth final", out, config, (split, weights, pseudo), data)
    stage.run(lambda: _train(data, split, weights, pseudo, out, config))


def _train(
    data: Path, split: Path, weights: Path, pseudo: Path, out: Path, config: FinalConfig
) -> dict[str, Any]:
    trained = TrainedPixelwise(weights)
    triplets, objects = find_mined_triplets(
        *(data, split, pseudo, [weights], trained.height, trained.width),
        flip=config.flip,
        jitter=config.jitter,
    )
    model = trained.load()
    if objects:
        teacher = trained.load().depth_net.requires_grad_(False)
        to_train(model)

        def step(batch: Batch, state: StepState) -> Batch:
            terms, depths = pixelwise_terms(model, batch, residual=True, sparse=True)
            targets = _targets(teacher, batch)
            term = pseudo_depth_term(depths, *targets, bilinear=config.bilinear)
            return {**terms, "loss": terms["loss"] + config.weight * term, "pseudo_depth": term}

        moved = on_device(step)
        fit(model, moved, triplets, config.loop, out, label="depth", groups=by_network)
    if distributed.is_main():
        save_networks(model, out / WEIGHTS)
    size = [trained.height, trained.width]
    return {"triplets": len(triplets), "objects": objects, "size": size}


@torch.no_grad()
def _targets(teacher: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Complete pseudo-depths (B, 1, H, W) of a batch of `MinedTriplets`, and where objects move."""
    moving = batch["pseudo_depth"] > 0
    scene = teacher(batch["images"][:, 1])[0].float()
    return torch.where(moving, batch["pseudo_depth"], scene), moving
