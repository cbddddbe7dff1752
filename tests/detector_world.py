"""A few painted frames with labels, small enough to train a detector on within a test."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.models.detection import MaskRCNN

from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.detector.weights import ARCHITECTURE, WEIGHTS
from moduv.engine import checkpoint
from moduv.engine.config import to_dict
from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.video_writer import write_video
from moduv.instances import rle
from moduv.instances.instances import Instances, Predictions
from moduv.instances.store import write_labels

HEIGHT, WIDTH = 96, 160


def instances_of(
    boxes: list[tuple[int, int, int, int]], height: int = HEIGHT, width: int = WIDTH
) -> Instances:
    """Labels whose masks fill integer boxes (left, top, right, bottom), right and bottom exclusive."""
    masks = []
    for left, top, right, bottom in boxes:
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        masks.append(rle.encode(mask))
    scores = np.ones(len(boxes), np.float32)
    return Instances(masks, np.asarray(boxes, np.float32).reshape(-1, 4), scores, (height, width))


def paint(boxes: list[tuple[int, int, int, int]], rng: np.random.Generator) -> np.ndarray:
    """A noisy grey frame (H, W, 3) with red boxes."""
    image = rng.integers(90, 140, (HEIGHT, WIDTH, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = (220, 40, 30)
    return image


def write_world(root: Path, count: int = 4) -> list[FrameRef]:
    """Write frames under `root/frames` and their labels under `root/labels`; the last has no objects."""
    rng = np.random.default_rng(0)
    refs = [FrameRef("train/clip_0000", index) for index in range(count)]
    for ref in refs:
        boxes = []
        for _ in range(0 if ref is refs[-1] else 3):
            left, top = int(rng.integers(0, WIDTH - 50)), int(rng.integers(0, HEIGHT - 40))
            boxes.append((left, top, left + int(rng.integers(12, 50)), top + 20))
        write_image(ref.file(root / "frames", ".png"), paint(boxes, rng))
        write_labels(root / "labels", ref, instances_of(boxes))
    return refs


def predict(
    detector: Detector | MaskRCNN, refs: list[FrameRef], root: Path, **options: Any
) -> Iterator[tuple[FrameRef, Predictions]]:
    """Frames with their detections, in order; options of `Detector.stream`."""
    detector = detector if isinstance(detector, Detector) else Detector(detector)
    found = detector.stream([ref.image_path(root) for ref in refs], **options)
    yield from ((ref, one) for ref, (_, one) in zip(refs, found, strict=True))


def write_weights(folder: Path, seed: int = 0) -> Path:
    """Weights of an untrained street detector: it finds something everywhere, with spread scores."""
    torch.manual_seed(seed)
    path = folder / WEIGHTS
    checkpoint.save_weights(path, build_detector("street").state_dict())
    return path


def write_detectors(root: Path, *names: str) -> None:
    """Folders of rounds below `root` with untrained detectors, which find something everywhere."""
    torch.manual_seed(0)
    for name in names:
        checkpoint.save_weights(root / name / WEIGHTS, build_detector("street").state_dict())
        write_json(root / name / ARCHITECTURE, to_dict(detector_config("street")))
        write_json(
            root / name / "manifest.json",
            {"stage": "round", "config": {}, "inputs": {}, "results": {}},
        )


def street(seed: int = 0) -> np.ndarray:
    """A smooth picture (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 20, 3)).astype(np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def write_frames(path: Path, images: list[np.ndarray]) -> None:
    """A video at 10 frames a second."""
    write_video(path, [(0.1 * t, image) for t, image in enumerate(images)], Fraction(10))


def detections(out: Path) -> dict[str, Any]:
    return read_json(out / "detections.json")


def shown(content: dict[str, Any], threshold: float = 0.5) -> list[list[dict[str, Any]]]:
    """Annotations above the threshold, frame by frame."""
    return [
        [
            item
            for item in content["annotations"]
            if item["image_id"] == image["id"] and item["score"] > threshold
        ]
        for image in content["images"]
    ]
