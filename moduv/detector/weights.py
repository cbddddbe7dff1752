"""Detector files: the published form and ours, read once; the only place that knows foreign keys."""

from __future__ import annotations

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
from moduv.engine.files import parse_json, read_json, reason_of
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
    model = _build(architecture_of(file, state), state, file)
    checkpoint.load_strict(model, state, file)
    model.to(chosen)
    if dtype is not None:
        run_in_half(model, dtype)
    return Detector(model)


def _build(config: DetectorConfig, state: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The network of a description. Raises InputError where there is none, or its weights are too few."""
    try:
        with torch.device("meta"):  # takes no memory
            size = sum(weight.numel() for weight in build_detector(config).parameters())
    except Exception as error:  # whatever numbers from elsewhere lead to
        raise InputError(
            f"{file}: its architecture describes no network ({reason_of(error)}); give another detector."
        ) from None
    if size > sum(weight.numel() for weight in state.values()):
        raise InputError(
            f"{file}: the weights do not fit the network, which has {size:,} numbers; give the checkpoint "
            "of this network or choose the preset it was trained with."
        )
    return build_detector(config)


def architecture_of(file: Path, state: Mapping[str, Tensor]) -> DetectorConfig:
    """The architecture of the weights `state` in a file.

    A safetensors file holds it; `weights.pth` has `detector.json` beside it. Without either, it is the
    published or the street network's, by the keys.
    """
    if told := checkpoint.metadata(file).get("architecture"):
        return build(DetectorConfig, parse_json(told, f"{file}: its 'architecture'"), str(file))
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
    if not isinstance(content, dict) or "state_dict" not in content:
        raise InputError(f"{path}: lacks 'state_dict'; give a MoCo-v2 checkpoint.")
    state = checkpoint.as_state(content["state_dict"], path)
    encoder = {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}
    encoder = {k: v for k, v in encoder.items() if not k.startswith("fc.")}
    if not encoder:
        raise InputError(f"{path}: holds no '{ENCODER}*' tensors; give a MoCo-v2 checkpoint.")
    body = backbone.get_submodule("body") if hasattr(backbone, "body") else backbone
    checkpoint.load_strict(body, encoder, path)
