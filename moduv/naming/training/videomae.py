"""Masked pre-training of the single-frame VideoMAE (Tong et al. 2022; Fan et al. 2023, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.loop import LoopConfig, Step, StepState
from moduv.engine.stages import Stage
from moduv.frames.splits import read_split
from moduv.naming.training.clips import ClipConfig, VideoClips
from moduv.naming.training.fitting import fit_and_save
from moduv.naming.videomae import (
    DECODER,
    ENCODER,
    PATCH,
    Pretraining,
    TransformerConfig,
    build_pretraining,
    normalise,
    reconstruction_loss,
    tube_mask,
)

BETAS = (0.9, 0.95)
FIRST, LAST = 1 / 150, 1 / 15
"""The learning rate at the first and at the last step, as shares of its maximum."""


@dataclass(frozen=True)
class PretrainingConfig:
    """How VideoMAE is pre-trained; published are 2,401 epochs of 168,913 clips, 512 per batch."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            792_000, 512, 3e-4, warmup=13_200, optimizer="adamw", weight_decay=0.05, workers=8
        )
    )
    clips: ClipConfig = field(default_factory=lambda: ClipConfig(16, (2,)))
    """Clips of a video."""
    hidden: float = 0.9
    """Share of masked patches, which are the same in all frames."""
    encoder: TransformerConfig = ENCODER
    """Sizes of the encoder."""
    decoder: TransformerConfig = DECODER
    """Sizes of the decoder."""

    def __post_init__(self) -> None:
        patches = (self.clips.size // PATCH) ** 2
        if not 0 < math.floor(self.hidden * patches) < patches:
            raise InputError(f"hidden is {self.hidden} of {patches} patches; hide some, not all.")


def pretrain(data: Path, split: Path, out: Path, config: PretrainingConfig) -> None:
    """Pre-train the video transformer on frames without labels.

    Args:
        data: folder of the frames.
        split: frames; clips consist of frames of one segment.
        out: receives `weights.pth` under the published keys, and the state of the training.
        config: clips, network, loop.

    Raises:
        InputError: when frames are missing.
    """
    stage = Stage("name pretrain", out, config, (split,), data)
    stage.run(
        lambda: _train(VideoClips(data, read_split(split), config.clips, crop=True), out, config)
    )


def _train(clips: VideoClips, out: Path, config: PretrainingConfig) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = build_pretraining(config.encoder, config.decoder).to(distributed.device())
    step = pretraining_step(model, config.hidden)
    fit_and_save(model, step, clips, config.loop, out, groups=decay_groups, rate=rate)
    return {"segments": len(clips)}


def pretraining_step(model: Pretraining, hidden: float) -> Step:
    """The step of `fit`: mask patches and predict their pixels."""

    def step(batch: list[Tensor], state: StepState) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        clips = normalise(torch.cat(batch).to(device, non_blocking=True))
        patches = (clips.shape[3] // PATCH) * (clips.shape[4] // PATCH)
        mask = torch.stack([tube_mask(patches, hidden, state.generator) for _ in clips])
        return {"loss": reconstruction_loss(model(clips, mask).float(), clips, mask)}

    return step


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices, and without for biases, norms and the mask token."""
    named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    kept = [p for k, p in named if p.ndim < 2 or k == "mask_token"]
    decayed = [p for k, p in named if p.ndim >= 2 and k != "mask_token"]
    return [
        {"params": decayed, "betas": BETAS},
        {"params": kept, "betas": BETAS, "weight_decay": 0.0},
    ]


def rate(config: LoopConfig, step: int) -> float:
    """The learning rate at a step: linear warm-up, then cosine decay."""
    if step < config.warmup:
        share = FIRST + (1 - FIRST) * step / config.warmup
    else:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        share = LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share
