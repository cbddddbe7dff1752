"""Initial weights of the published networks: ImageNet for the ResNets, Lite-Mono's own for its encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.motion.networks.dynamo_depth import DynamoDepth
from moduv.motion.networks.litemono import LiteMonoEncoder
from moduv.motion.networks.resnet import ResNetEncoder

RESNET_SOURCE = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
LITEMONO_SOURCE = "the repository of its authors, github.com/noahzn/Lite-Mono"
CLASSIFIER = ("norm.", "head.", "head_dist.")
"""Modules of Lite-Mono's pre-training that its depth encoder does not have."""


def load_initial_weights(
    model: DynamoDepth, resnet: str | Path = "", litemono: str | Path = ""
) -> list[str]:
    """Give the encoders their initial weights.

    Args:
        model: fresh networks; the `street` model has no initial weights.
        resnet: torchvision's ResNet-18 state dict, for every ResNet encoder; "": from scratch.
        litemono: Lite-Mono-8M's pre-training checkpoint, for its encoder; "": from scratch.

    Returns:
        Names of the encoders that start from scratch.

    Raises:
        InputError: when a file is missing (saying where to get it) or does not fit.
    """
    scratch = []
    for name in ("depth_enc", "pose_enc", "motion_enc"):
        encoder = getattr(model, name)
        if isinstance(encoder, ResNetEncoder) and resnet:
            _load_resnet(encoder, _existing(resnet, "resnet_weights", RESNET_SOURCE))
        elif isinstance(encoder, LiteMonoEncoder) and litemono:
            _load_litemono(encoder, _existing(litemono, "litemono_weights", LITEMONO_SOURCE))
        else:
            scratch.append(name)
    return scratch


def _existing(path: str | Path, option: str, source: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such initial weights; run moduv checkpoints fetch (from {source}) or train from "
            f"scratch with --config.{option} ''."
        )
    return path


def _load_resnet(encoder: ResNetEncoder, path: Path) -> None:
    """ImageNet weights; the first layer is repeated for every stacked frame and divided by their number."""
    state = dict(checkpoint.load_weights(path))
    first = encoder.encoder.conv1
    assert isinstance(first, nn.Conv2d)
    frames = first.in_channels // 3
    if "conv1.weight" in state and frames > 1:
        state["conv1.weight"] = state["conv1.weight"].repeat(1, frames, 1, 1) / frames
    checkpoint.load_strict(encoder.encoder, state, path)


def _load_litemono(encoder: LiteMonoEncoder, path: Path) -> None:
    """Lite-Mono's weights, without the classifier of its pre-training."""
    content = checkpoint.load(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no state dict; give Lite-Mono-8M's pre-training file.")
    own: dict[str, Tensor] = {
        key: value
        for key, value in state.items()
        if torch.is_tensor(value) and not key.startswith(CLASSIFIER)
    }
    checkpoint.load_strict(encoder, own, path)
