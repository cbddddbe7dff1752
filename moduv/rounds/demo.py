"""The detector on the user's own images: one picture an image, and the detections as COCO JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from moduv.detector.model import build_detector, load_weights
from moduv.detector.predict import detections_to_coco, predict_images
from moduv.engine import checkpoint, distributed
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.log import progress, say
from moduv.frames.clip import IMAGE_SUFFIXES
from moduv.frames.images import read_image, write_image
from moduv.labels.predicted import from_predictions
from moduv.visual.drawing import draw_instances

DETECTIONS = "detections.json"
OFFICIAL_KEY = "backbone.body.layer1.0.conv1.weight"
"""A key that only the published network has."""


@dataclass(frozen=True)
class Demo:
    """How images are shown."""

    threshold: float = 0.5
    """Detections with a score above it are drawn; the JSON holds all of them."""


def run_demo(checkpoint_path: Path, source: Path, out: Path, config: Demo) -> None:
    """Detect mobile objects in images.

    Args:
        checkpoint_path: detector weights, official or ours.
        source: an image, or a folder that is walked recursively for .jpg, .jpeg and .png.
        out: receives one picture per image, named by the image's path, and `detections.json`.
        config: score threshold of the pictures.

    Raises:
        InputError: when weights or images are missing or broken; other images are finished first.
    """
    paths = find_images(source)
    detector = open_detector(checkpoint_path)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    broken: list[str] = []
    for path in progress(paths, desc="demo", unit="image"):
        try:
            image = read_image(path)
        except InputError as error:
            broken.append(str(error))
            continue
        predictions = predict_images(detector, [image])[0]
        shown = from_predictions(predictions, config.threshold)
        write_image(out / picture_name(path, source), draw_instances(image, shown))
        number = len(images) + 1
        entry = {"id": number, "file_name": str(path)}
        images.append({**entry, "height": image.shape[0], "width": image.shape[1]})
        annotations += detections_to_coco(predictions, number)
    for number, annotation in enumerate(annotations, 1):
        width, height = annotation["bbox"][2:]
        annotation |= {"id": number, "iscrowd": 0, "area": width * height}
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out / DETECTIONS, content)
    drawn = sum(annotation["score"] > config.threshold for annotation in annotations)
    say(f"{len(images)} images, {drawn} objects above {config.threshold:g}: {out}")
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(broken[0] + more)


def find_images(source: Path) -> list[Path]:
    """The image itself, or all images below a folder, sorted. Raises InputError when there is none."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such image or folder; check --input.")
    found = sorted(
        p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )
    if not found:
        raise InputError(f"{source}: holds no .jpg, .jpeg or .png file; check --input.")
    return found


def picture_name(path: Path, source: Path) -> str:
    """Name of an image's picture: its path with dashes, as a file format that keeps its quality."""
    relative = path.relative_to(source) if source.is_dir() else Path(path.name)
    return "-".join(relative.parts)


def open_detector(path: Path) -> nn.Module:
    """Build the network that the weights belong to and load them, ready to predict.

    Raises InputError when the file is missing or fits neither network.
    """
    state = checkpoint.load_weights(path)
    detector = build_detector("paper" if OFFICIAL_KEY in state else "street")
    load_weights(detector, path)
    return detector.to(distributed.device()).eval()
