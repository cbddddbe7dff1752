"""Detections in the images of a ground truth, as COCO results that `moduv evaluate` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from moduv.detector.predictor import Detector
from moduv.detector.weights import load_detector
from moduv.engine import distributed
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.instances.coco import Image, read_ground_truth

DETECTIONS = "detections.json"
PART = 100
"""Images a file; what a killed run has finished is kept file by file."""


@dataclass(frozen=True)
class DetectionConfig:
    """How images are gone through; every detection above the detector's own low score is kept."""

    batch_size: int = speed_only(1)
    """Images at once; only images of equal size share a batch."""
    workers: int = speed_only(2)
    """Threads that decode images."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 1:
            raise InputError("detect: use at least one image a batch and one worker.")


def detect_images(
    weights: Path, images: Path, truth: Path, out: Path, config: DetectionConfig
) -> None:
    """Detect mobile objects in the images of a ground truth.

    Under torchrun every process takes its share.

    Args:
        weights: a detector file, official or ours, or the folder of a round.
        images: folder that the ground truth's image names start from; for images named
            `<segment>/NNNNNN.jpg` also a prepared data folder.
        truth: COCO JSON, e.g. of `moduv truth`.
        out: receives `detections.json`, COCO results by the ground truth's image numbers.
        config: batch size and workers.

    Raises:
        InputError: when weights or images are missing or broken.
    """
    stage = Stage("detect", out, config, (truth, weights), images)
    stage.run(lambda: _detect(weights, images, truth, out, config))


def _detect(
    weights: Path, images: Path, truth: Path, out: Path, config: DetectionConfig
) -> dict[str, Any]:
    known = read_ground_truth(truth).images.values()
    files = [(image, image_file(images, image.name)) for image in known]
    places = {path: image.name for image, path in files}
    twice = next((image.name for image, path in files if places[path] != image.name), None)
    if twice is not None:
        raise InputError(
            f"{truth}: {twice!r} and another image are one file in {images}; name both in full."
        )
    starts = range(0, len(files), PART)
    parts = {out / "parts" / f"{start:06d}.json": files[start : start + PART] for start in starts}
    share = [path for path in distributed.shard(list(parts)) if not path.is_file()]
    if share:
        detector = load_detector(weights, distributed.device())
        work = [parts[path] for path in share]
        found = progress(
            _results(detector, work, config), desc="detect", total=sum(map(len, work)), unit="image"
        )
        for path in share:
            taken = islice(found, len(parts[path]))
            write_json(path, [result for results in taken for result in results])
        next(found, None)  # lets the progress bar end
    distributed.barrier()
    detections = [result for path in parts for result in read_json(path)]
    if distributed.is_main():
        write_json(out / DETECTIONS, detections)
        say(f"  {len(detections)} detections in {len(files)} images: {out / DETECTIONS}")
    return {"images": len(files), "detections": len(detections)}


def image_file(root: Path, file_name: str) -> Path:
    """The file of a COCO image below `root`, as it is named, or as that frame of a prepared segment.

    Raises InputError when there is neither.
    """
    name = PurePosixPath(file_name)
    path = root / name
    if not path.is_file() and re.fullmatch("[0-9]{1,18}", name.stem):
        path = FrameRef(str(name.parent), int(name.stem)).image_path(root)
    if not path.is_file():
        raise InputError(
            f"{root / name}: no such image; give the folder that image names start from by --images."
        )
    return path


def _results(
    detector: Detector, parts: Sequence[Sequence[tuple[Image, Path]]], config: DetectionConfig
) -> Iterator[list[dict[str, Any]]]:
    """The COCO results of each image, in order.

    No batch reaches over a part, so that an image has the same company, and to the last digit the same
    detections, in a run that was killed.
    """
    for part in parts:
        paths = [path for _, path in part]
        found = detector.stream(paths, config.batch_size, config.workers)
        for (image, path), (_, predictions) in zip(part, found, strict=True):
            if image.size not in (None, predictions.size):
                raise InputError(
                    f"{path}: is {predictions.size} pixels high and wide, and {image.size} in the ground "
                    "truth; give the images that it was made for."
                )
            yield predictions.to_instances().to_coco(image.id)
