"""Training of slots: reconstruct the features of a frozen video transformer (Fan et al. 2023, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.loop import LoopConfig, Step, StepState
from moduv.engine.stages import Stage
from moduv.frames.splits import read_split
from moduv.naming.slots import Grouping, GroupingConfig, build_grouping, schedule
from moduv.naming.training.clips import ClipConfig, VideoClips
from moduv.naming.training.fitting import fit_and_save
from moduv.naming.videomae import normalise
from moduv.naming.weights import load_encoder_weights


@dataclass(frozen=True)
class GroupingTrainingConfig:
    """How slots are trained; published are 300 epochs of 3,862 videos, 32 per step with 7 clips each."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            36_300, 32, 3e-3, warmup=5_000, halve_every=50_000, clip_norm=1.0, workers=8
        )
    )
    """Its `halve_every` is the half-life of an exponential decay."""
    clips: ClipConfig = field(default_factory=lambda: ClipConfig(8, (1, 2, 4, 8), per_sample=7))
    """Clips of a video."""
    network: GroupingConfig = field(default_factory=GroupingConfig)
    """Sizes of the network."""

    def __post_init__(self) -> None:
        if self.clips.frames != self.network.frames:
            raise InputError(
                f"clips have {self.clips.frames} frames and the network {self.network.frames}; use one number."
            )


def train_slots(
    encoder: Path, data: Path, split: Path, out: Path, config: GroupingTrainingConfig
) -> None:
    """Train slots on frames without labels, over a frozen video transformer.

    Args:
        encoder: weights of `moduv name pretrain`, or of VideoMAE with tubelets of one frame.
        data: folder of the frames.
        split: frames; clips consist of frames of one segment.
        out: receives `weights.pth` under the published keys, and the state of the training.
        config: clips, network, loop.

    Raises:
        InputError: when frames are missing, or the encoder has another architecture.
    """
    stage = Stage("name slots", out, config, (split, encoder), data)
    stage.run(
        lambda: _train(VideoClips(data, read_split(split), config.clips), encoder, out, config)
    )


def _train(
    clips: VideoClips, encoder: Path, out: Path, config: GroupingTrainingConfig
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = build_grouping(config.network)
    load_encoder_weights(model, encoder)
    model.to(distributed.device())
    fit_and_save(model, grouping_step(model), clips, config.loop, out, rate=rate)
    return {"segments": len(clips)}


def grouping_step(model: Grouping) -> Step:
    """The step of `fit`: the error of the reconstructed features, averaged over videos."""

    def step(batch: list[Tensor], state: StepState) -> dict[str, Tensor]:
        losses = [_loss(model, clips, state.generator) for clips in batch]
        return {"loss": torch.stack(losses).mean()}

    return step


def _loss(model: Grouping, clips: Tensor, generator: torch.Generator) -> Tensor:
    device, config = next(model.parameters()).device, model.config
    size = (len(clips), config.slots, config.dim)
    noise = torch.randn(size, generator=generator, device=device)
    return model(normalise(clips.to(device, non_blocking=True)), noise).loss


def rate(config: LoopConfig, step: int) -> float:
    """The learning rate at a step, see `slots.schedule`."""
    return config.learning_rate * schedule(step, config.warmup, config.halve_every)
