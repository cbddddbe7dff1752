"""`moduv export`: a detector as a file that runs without this library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moduv.detector.export import ExportConfig, check_target, export_detector
from moduv.detector.weights import WEIGHTS, architecture_of, load_detector
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.frames.images import read_image
from moduv.street.dataset import StreetConfig
from moduv.street.render import render
from moduv.street.scene import Scene

SAMPLE_SEED = 1_000_003
"""A clip of the street world with cars and pedestrians."""


def export(
    load_ckpt: Path,
    format: str,
    out: Path,
    sample: Path | None = None,
    input: str = ExportConfig.input,
    masks: str = ExportConfig.masks,
) -> None:
    """Write a detector as one file that runs without this library, and check that it detects the same.

    Args:
        load_ckpt: detector weights, official or ours, or the folder of a round.
        format: onnx, torchscript or safetensors.
        out: receives the file.
        sample: image that the file is checked on; left out: a frame of the street world.
        input: type of ONNX's input, uint8, or float32 in [0, 1].
        masks: image, at the image's size; or box, the small masks inside the boxes.
    """
    config = ExportConfig(input=input, masks=masks)
    check_target(out, format)
    image = _sample(sample)
    path = load_ckpt / WEIGHTS if load_ckpt.is_dir() else load_ckpt
    if not path.is_file():
        raise InputError(f"{path}: no such detector; check --load_ckpt or train it first.")
    model = load_detector(path, "cpu").model
    architecture = architecture_of(path, model.state_dict())
    found = export_detector(model, architecture, out, format, image, config)
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MiB; {found}")


def _sample(path: Path | None) -> np.ndarray:
    """The image (H, W, 3) of a file, or a frame of the street world."""
    if path is not None:
        if not path.is_file():
            raise InputError(f"{path}: no such image; check --sample.")
        return read_image(path)
    return render(Scene(SAMPLE_SEED, 1), 0, StreetConfig().camera())[0]
