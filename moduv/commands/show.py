"""Draw label sets: overlays of chosen frames, one by one or on a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.log import progress, say
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.layouts import IMAGE_SUFFIXES
from moduv.frames.splits import evenly, read_split
from moduv.instances.store import labelled, read_labels
from moduv.visual.drawing import draw_instances, enlarge, grid_size, picture_grid

LARGEST = 65_500
"""Pixels of a sheet's longer side: OpenCV writes no larger JPEG, and many viewers show no larger PNG."""


def show_labels(
    labels: Path,
    split: Path,
    data: Path,
    out: Path,
    frames: str = "",
    count: int = 12,
    score: float = 0.0,
    width: int = 480,
    columns: int = 3,
) -> None:
    """Draw the labels of a few frames.

    Args:
        labels: label root.
        split: frames to choose from; those without labels are left out.
        data: folder of the frames.
        out: a picture file (.jpg, .png) receives a contact sheet, a folder one JPEG a frame, below its
            segment.
        frames: lines of the split to draw, separated by commas: "train/a 3, train/a 4".
        count: how many frames are drawn, spread evenly over the split, where none is named; 0: all.
        score: labels with a score at or below it are left out; those without score stay.
        width: pixels of every picture on the sheet, and at least of the single ones.
        columns: pictures side by side on the sheet.

    Raises:
        InputError: when a frame is not in the split, labels or images are missing or broken, or the
            sheet would be too large for a picture file.
    """
    for name, value, least in (("count", count, 0), ("width", width, 32), ("columns", columns, 1)):
        if value < least:
            raise InputError(f"--{name} is {value}; give {least} or more.")
    known = labelled(labels, read_split(split))
    chosen = named_frames(frames, known, split) if frames else evenly(known, count or len(known))
    is_sheet = out.suffix.lower() in IMAGE_SUFFIXES
    if is_sheet:
        first = read_image(chosen[0].image_path(data))
        _check_size(out, len(chosen), first, columns, width)
    sheet: dict[str, np.ndarray] = {}
    for frame in progress(chosen, desc="labels", unit="frame"):
        image = read_image(frame.image_path(data))
        instances = read_labels(labels, frame, image.shape).above(score)
        picture = draw_instances(enlarge(image, width), instances)
        if is_sheet:
            sheet[f"{frame.line()} ({len(instances)})"] = picture
        else:
            write_image(frame.file(out, ".jpg"), picture)
    if is_sheet:
        write_image(out, picture_grid(sheet, columns=columns, width=width))
    say(f"{out}: {len(chosen)} of {len(known)} labelled frames")


def _check_size(out: Path, count: int, picture: np.ndarray, columns: int, width: int) -> None:
    """Raise InputError if a sheet of such pictures (H, W, 3) would be too large."""
    height, across = grid_size(count, picture.shape, columns=columns, width=width)
    if max(height, across) > LARGEST:
        raise InputError(
            f"{out}: a sheet of {count} frames would be {across} x {height} pixels, and JPEG files and many "
            f"viewers end at {LARGEST} a side; draw fewer (--count), smaller (--width) or with other "
            "--columns, or give a folder for --out."
        )


def named_frames(lines: str, known: list[FrameRef], split: Path) -> list[FrameRef]:
    """The frames of split lines that are separated by commas. Raises InputError for unknown ones."""
    by_line = {frame.line(): frame for frame in known}
    wanted = [" ".join(line.split()) for line in lines.split(",") if line.strip()]
    unknown = next((line for line in wanted if line not in by_line), None)
    if unknown is not None or not wanted:
        raise InputError(
            f"{split}: has no labelled frame {unknown or lines!r}; "
            "name frames as the split does, '<segment> <number>'."
        )
    return [by_line[line] for line in wanted]
