"""Detector files: the published form and ours, read once; the only place that knows foreign keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from moduv.detector.config import DetectorConfig, detector_config
from moduv.detector.half import run_in_half
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.engine import checkpoint
from moduv.engine.config import build
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.hardware import choose_device, half_type

WEIGHTS = "weights.pth"
ARCHITECTURE = "detector.json"
OFFICIAL_KEY = "backbone.body.layer1.0.conv1.weight"
"""A key that only the published network has."""
ENCODER = "module.encoder_q."
"""Prefix of MoCo-v2's query encoder."""


def load_detector(
    path: str | Path, device: str | torch.device = "auto", half: bool = False
) -> Detector:
    """Load a detector, ready to predict.

    Args:
        path: a weights file, official or ours, also as safetensors, or the folder of a round. See
            `architecture_of` for the network that is built.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        half: run in half precision, on GPUs.

    Raises:
        InputError: when the file is missing, broken or fits neither network, or the device is not there.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    dtype = half_type(chosen) if half else None
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    state = checkpoint.load_weights(file)
    model = build_detector(architecture_of(file, state))
    checkpoint.load_strict(model, state, file)
    model.to(chosen)
    if dtype is not None:
        run_in_half(model, dtype)
    return Detector(model)


def architecture_of(file: Path, state: Mapping[str, Tensor]) -> DetectorConfig:
    """The architecture of the weights `state` in a file.

    A safetensors file holds it; `weights.pth` has `detector.json` beside it. Without either, it is the
    published or the street network's, by the keys.
    """
    if told := checkpoint.metadata(file).get("architecture"):
        try:
            return build(DetectorConfig, json.loads(told), str(file))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{file}: its 'architecture' is not readable as JSON ({error}); export it again."
            ) from None
    description = file.parent / ARCHITECTURE
    if file.name == WEIGHTS and description.is_file():
        return build(DetectorConfig, read_json(description), str(description))
    return detector_config("paper" if OFFICIAL_KEY in state else "street")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a flat state dict, official or ours; strict, and the model is untouched when it fails.

    Raises:
        InputError: with the keys that are missing, unexpected or of another shape.
    """
    checkpoint.load_strict(model, checkpoint.load_weights(path), path)


def load_backbone(backbone: nn.Module, path: str | Path) -> None:
    """Load MoCo-v2's query encoder into the ResNet; only its projection (`fc.*`) may be left over.

    Raises:
        InputError: when the file holds no query encoder or another network's.
    """
    content = checkpoint.load(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: lacks 'state_dict'; give a MoCo-v2 checkpoint.")
    encoder = {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}
    encoder = {k: v for k, v in encoder.items() if not k.startswith("fc.")}
    if not encoder:
        raise InputError(f"{path}: holds no '{ENCODER}*' tensors; give a MoCo-v2 checkpoint.")
    body = backbone.get_submodule("body") if hasattr(backbone, "body") else backbone
    checkpoint.load_strict(body, encoder, path)
