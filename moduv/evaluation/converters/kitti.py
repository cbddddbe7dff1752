"""KITTI (Geiger et al. 2012): boxes of the object and of the tracking benchmark.

Taken are all labelled classes. `Misc` (trailers, segways, …) and `DontCare` are regions in which
detections are not judged. There are no masks. As in the benchmark's own evaluation, a box reaches
from its left to its right coordinate, without a pixel more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.evaluation.converters.writer import (
    Selection,
    Size,
    TrueImage,
    TrueObject,
    TruthConfig,
    check_names,
    write_truth,
)

CATEGORIES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Person", "Cyclist", "Tram")
"""`Person` is what the tracking labels call a sitting person."""
REGIONS = ("Misc", "DontCare")
OBJECTS, TRACKING = "label_2", "label_02"
DOWNLOAD = (
    "download the left colour images and the training labels of the object or the tracking benchmark "
    "from cvlibs.net/datasets/kitti (registration, CC BY-NC-SA 3.0) and unpack them there."
)


@dataclass(frozen=True)
class KittiTruth(TruthConfig):
    """What of KITTI counts; the benchmark's moderate level is 25, 1, 0.3, its hard one 25, 2, 0.5."""

    categories: tuple[str, ...] = CATEGORIES
    """Types of objects that can move."""
    ignored: tuple[str, ...] = REGIONS
    """Types of regions in which detections are not judged."""
    max_occlusion: int = 3
    """Objects that are more occluded (0 visible, 1 partly, 2 largely, 3 unknown) need not be found."""
    max_truncation: float = 1.0
    """Nor need those of which a greater share is outside of the image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names((*self.categories, *self.ignored), (*CATEGORIES, *REGIONS), "KITTI")


def convert_kitti(
    source: Path,
    out: Path,
    config: KittiTruth,
    split: Path | None = None,
    labels: str = OBJECTS,
) -> None:
    """Write KITTI's 2D boxes as class-agnostic ground truth.

    Args:
        source: folder with `training/label_2` (object) or `training/label_02` (tracking), and the
            images `training/image_2` or `training/image_02` for their sizes.
        out: the file to write; images are named `training/image_2/NNNNNN.png`, or
            `training/image_02/SSSS/NNNNNN.png`.
        config: types, smallest object, occlusion and truncation.
        split: images to take, e.g. `training/image_2 369`, or the benchmark's lists of numbers;
            without it all.
        labels: label_2 or label_02.

    Raises:
        InputError: when labels are missing or a line is damaged.
    """
    folder = source / "training" / labels
    if labels not in {OBJECTS, TRACKING}:
        raise InputError(
            f"labels is {labels!r}; choose {OBJECTS} (object) or {TRACKING} (tracking)."
        )
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(f"{folder}: has no label files; {DOWNLOAD}")
    selection = Selection(split)
    images = (_objects if labels == OBJECTS else _tracking)(source, files, config, selection)
    write_truth(out, images, config, selection, f"KITTI {labels}")


def _objects(
    source: Path, files: list[Path], config: KittiTruth, selection: Selection
) -> Iterator[TrueImage]:
    for path in progress(files, desc="KITTI", unit="image"):
        name = f"training/image_2/{path.stem}.png"
        if name not in selection:
            continue
        rows = [(number, line.split()) for number, line in _lines(path)]
        found = tuple(_object(path, number, fields, config) for number, fields in rows)
        yield TrueImage(name, _size(source / name), tuple(o for o in found if o is not None))


def _tracking(
    source: Path, files: list[Path], config: KittiTruth, selection: Selection
) -> Iterator[TrueImage]:
    """A sequence's images are those on disk and those that have labels."""
    for path in progress(files, desc="KITTI", unit="sequence"):
        folder = f"training/image_02/{path.stem}"
        frames: dict[int, list[TrueObject]] = {
            int(image.stem): [] for image in (source / folder).glob("[0-9]*.png")
        }
        for number, line in _lines(path):
            frame, _, *fields = line.split() if len(line.split()) > 2 else ("", "")
            if not frame.isdecimal():
                raise _broken(path, number)
            found = _object(path, number, fields, config)
            frames.setdefault(int(frame), []).extend([] if found is None else [found])
        size = None
        for frame_number, objects in sorted(frames.items()):
            name = f"{folder}/{frame_number:06d}.png"
            if name in selection:
                size = size or _size(source / name)
                yield TrueImage(name, size, tuple(objects))


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _object(path: Path, number: int, fields: list[str], config: KittiTruth) -> TrueObject | None:
    """The object of a line: type, truncation, occlusion, angle, left, top, right, bottom, …"""
    name, *rest = fields or [""]
    try:
        truncation, occlusion, _, left, top, right, bottom = (float(value) for value in rest[:7])
    except ValueError:
        raise _broken(path, number) from None
    whole = all(math.isfinite(v) for v in (left, top, right, bottom)) and left <= right
    if not whole or top > bottom or name not in {*CATEGORIES, *REGIONS}:
        raise _broken(path, number)
    box = (left, top, right - left, bottom - top)
    if name in config.ignored:
        return TrueObject(box, name, ignore=True)
    if name not in config.categories:
        return None
    hard = occlusion > config.max_occlusion or truncation > config.max_truncation
    return TrueObject(box, name, ignore=hard)


def _broken(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is no label of KITTI; {DOWNLOAD}")


def _size(path: Path) -> Size | None:
    """Height and width from the image's head; None where there is no image."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError):
        raise InputError(f"{path}: is no image; {DOWNLOAD}") from None
