"""A small world for training dense correspondences: clips of the street, a few steps of a narrow network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moduv.correspondence.augmentation import ViewConfig
from moduv.correspondence.data import ClipConfig
from moduv.correspondence.losses import LossConfig
from moduv.correspondence.network import CorrespondenceNet
from moduv.correspondence.train import CorrespondenceConfig, ScheduleConfig
from moduv.correspondence.weights import Checkpoint, NetworkConfig, write_checkpoint
from moduv.street.dataset import StreetConfig, render_dataset
from moduv.street.sequences import write_sequences

WORLD = StreetConfig(train_clips=5, val_clips=2, frames_per_clip=4, supersampling=1, workers=1)
SMALL = CorrespondenceConfig(
    folder="train",
    clips=ClipConfig(frames=3, gap=1, views=ViewConfig(smallest=(48, 56), crop=48)),
    network=NetworkConfig(width=8, stride=4),
    losses=LossConfig(anchors=4, contrastive=3),
    schedule=ScheduleConfig(
        epochs=3, batch_size=2, learning_rate=1e-3, decay_every=2, save_every=2, log_every=1
    ),
    validate_every=2,
    validation_sequences=1,
)


def small(**schedule: Any) -> CorrespondenceConfig:
    """The small training with another schedule."""
    return replace(SMALL, schedule=replace(SMALL.schedule, **schedule))


def make_world(root: Path) -> Path:
    """A street world, and its held-out clips in `davis`."""
    render_dataset(root, WORLD)
    write_sequences(root, root / "davis")
    return root


def write_network(path: Path, network: NetworkConfig, feature: str = "res3") -> Path:
    """Weights of an untrained network, which knows colours."""
    torch.manual_seed(0)
    write_checkpoint(path, Checkpoint(CorrespondenceNet(network).state_dict(), network, feature))
    return path


def state_of(run: Path) -> dict[str, Tensor]:
    """The network's state after the last saved step."""
    return torch.load(run / "train_state.pt", weights_only=True)["modules"]
