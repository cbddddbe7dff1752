"""Training of a detector on a set of labels: what every round of MOD-UV repeats (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from moduv.detector.config import detector_config
from moduv.detector.data import LabelledFrames
from moduv.detector.model import build_detector
from moduv.detector.transforms import AugmentationConfig, Target
from moduv.detector.weights import ARCHITECTURE, WEIGHTS, load_backbone
from moduv.engine import checkpoint, distributed
from moduv.engine.config import speed_only, to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.loop import Step, StepState, TrainingConfig, fit
from moduv.frames.clip import FrameRef


@dataclass(frozen=True)
class DetectorTrainingConfig(TrainingConfig):
    """A recipe: which network, from which start, how long, with which augmentation."""

    detector: str = "paper"
    """Preset of the architecture, `paper` or `street`."""
    backbone_weights: str | None = None
    """MoCo-v2 checkpoint that the ResNet-50 starts from; the street detector starts from nothing."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    cache_bytes: int = speed_only(1 << 29)
    """Memory for decoded frames, per loading process."""


def train_detector(
    frames_root: str | Path,
    label_root: str | Path | None,
    refs: Sequence[FrameRef],
    config: DetectorTrainingConfig,
    run_dir: str | Path,
) -> GeneralizedRCNN:
    """Train a detector from its start on labelled frames; resumes exactly after a kill.

    Args:
        frames_root: folder of the segments' images.
        label_root: folder of the labels; None: the frames hold no objects.
        refs: frames to draw from, uniformly and without replacement within an epoch.
        config: the recipe.
        run_dir: receives `weights.pth` (flat state dict), `detector.json`, and what `fit` writes.

    Returns the trained detector, on its device.

    Raises:
        InputError: for a backbone that needs weights and has none, labels that are missing or do not
            fit their frames, or a run of other settings in `run_dir`.
    """
    run_dir = Path(run_dir)
    model = start_detector(config).to(distributed.device())
    # On CPUs it gains a tenth at best, and some half-precision convolutions of torch 2.14 crash with it.
    if distributed.device().type == "cuda":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dataset = LabelledFrames(
        frames_root, refs, label_root, config.augmentation, cache_bytes=config.cache_bytes
    )
    fit(model, detector_step(model), dataset, config.loop, run_dir, label=run_dir.name)
    if distributed.is_main():
        write_json(run_dir / ARCHITECTURE, to_dict(detector_config(config.detector)), indent=1)
        checkpoint.save_weights(run_dir / WEIGHTS, model.state_dict())
    distributed.barrier()
    return model


def start_detector(config: DetectorTrainingConfig) -> GeneralizedRCNN:
    """The untrained detector of a recipe; its fresh parts depend on the seed only.

    Raises InputError when a pre-trained backbone is needed and missing, saying what fetches it.
    """
    architecture, weights = detector_config(config.detector), config.backbone_weights
    if architecture.backbone == "resnet50" and weights is None:
        raise InputError(
            f"detector {config.detector!r}: 'backbone_weights' is not set, and its frozen layers cannot "
            "start from random numbers; give a MoCo-v2 checkpoint."
        )
    if weights is not None and not Path(weights).is_file():
        raise InputError(
            f"{weights}: no such 'backbone_weights'; fetch MoCo-v2's checkpoint with "
            "bash scripts/0_download_ckpts.sh."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = build_detector(architecture)
    if weights is not None:
        load_backbone(model.backbone, weights)
    return model


def detector_step(model: GeneralizedRCNN) -> Step:
    """The step function of `fit`: the plain sum of torchvision's five losses on a batch."""

    def step(batch: tuple[list[Tensor], list[Target]], _: StepState) -> dict[str, Any]:
        device = next(model.parameters()).device
        images = [image.to(device, non_blocking=True) for image in batch[0]]
        seeds = [target["seed"] for target in batch[1]]
        model.rpn.fg_bg_sampler.seeds = model.roi_heads.fg_bg_sampler.seeds = seeds
        targets = [
            {k: v.to(device, non_blocking=True) for k, v in target.items() if k != "seed"}
            for target in batch[1]
        ]
        losses = model(images, targets)
        terms = {key.removeprefix("loss_"): value.detach() for key, value in losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **terms}

    return step
