"""Label sets on disk: one JSON a frame under a label root, made whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.log import say
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances

SUFFIX = ".json"
QUANTILES = {
    "smallest": 0.0,
    "lower quartile": 0.25,
    "median": 0.5,
    "upper quartile": 0.75,
    "largest": 1.0,
}
"""Of the sizes of a label set's instances."""


def write_labels(root: str | Path, frame: FrameRef, instances: Instances) -> None:
    """Write a frame's labels in the official form, atomically."""
    write_json(frame.file(root, SUFFIX), instances.to_json())


def read_labels(root: str | Path, frame: FrameRef, image: Sequence[int] | None = None) -> Instances:
    """Read a frame's labels. Raises InputError naming the file when it is missing or broken.

    So it does when an `image` size (height, width, …) is given that has another aspect ratio.
    """
    path = frame.file(root, SUFFIX)
    found = Instances.from_json(read_json(path), path)
    if image is not None:
        found.check_aspect(image, path)
    return found


def is_labelled(root: str | Path, frame: FrameRef) -> bool:
    """Whether a frame has a whole label file; a broken one counts as missing."""
    if not frame.file(root, SUFFIX).is_file():
        return False
    try:
        read_labels(root, frame)
    except InputError:
        return False
    return True


def labelled(root: str | Path, frames: Iterable[FrameRef]) -> list[FrameRef]:
    """The frames that have a label file. Raises InputError when there is none."""
    frames = list(frames)
    found = [frame for frame in frames if frame.file(root, SUFFIX).is_file()]
    if not found:
        raise InputError(
            f"{root}: has no labels for the {len(frames)} frames of the split; "
            "run the label stage first or check the folder."
        )
    if len(found) < len(frames):
        say(f"{root}: {len(frames) - len(found)} of {len(frames)} frames have no labels, left out")
    return found


def labelled_clips(root: str | Path, frames: Iterable[FrameRef]) -> list[list[FrameRef]]:
    """The same by segments, the frames of each in order."""
    found = sorted(labelled(root, frames))
    return [list(clip) for _, clip in groupby(found, key=lambda frame: frame.segment)]


def statistics(root: str | Path, frames: Sequence[FrameRef]) -> dict[str, Any]:
    """Counts and sizes of a label set: frames, instances, empty frames, quantiles of the area's root."""
    roots: list[float] = []
    scores: list[float] = []
    empty = 0
    for frame in frames:
        instances = read_labels(root, frame)
        roots += np.sqrt(instances.areas()).tolist()
        scores += [] if instances.scores is None else instances.scores.tolist()
        empty += not len(instances)
    quantiles = np.quantile(roots, list(QUANTILES.values())).round(1).tolist() if roots else []
    return {
        "frames": len(frames),
        "empty_frames": empty,
        "instances": len(roots),
        "root_area_quantiles": quantiles,
        "mean_score": round(float(np.mean(scores)), 4) if scores else None,
    }


def check(root: str | Path, frames: Sequence[FrameRef]) -> list[str]:
    """One sentence for every frame whose labels are missing or broken."""
    problems = []
    for frame in frames:
        try:
            read_labels(root, frame)
        except InputError as error:
            problems.append(str(error))
    return problems


def label_statistics(labels: Path, split: Path) -> None:
    """Print counts, sizes and scores of a label set.

    Args:
        labels: label root.
        split: frames to look at; those without labels are left out.
    """
    numbers = statistics(labels, labelled(labels, read_split(split)))
    roots = numbers.pop("root_area_quantiles")
    for key, value in numbers.items():
        say(f"{key:<22} {value}")
    # Without instances there are no quantiles.
    sizes = ", ".join(f"{name} {value}" for name, value in zip(QUANTILES, roots, strict=False))
    say(f"{'root of area, pixels':<22} {sizes or None}")


def check_labels(labels: Path, split: Path) -> None:
    """Read every label file of a split and report those that are missing or broken.

    Args:
        labels: label root.
        split: frames to check.

    Raises:
        InputError: when any is.
    """
    frames = read_split(split)
    problems = check(labels, frames)
    for problem in problems[:20]:
        say(problem)
    expected = {frame.file(labels, SUFFIX) for frame in frames}
    others = sorted(p for p in labels.glob(f"**/[0-9]*{SUFFIX}") if p not in expected)
    if others:
        say(f"{labels}: {len(others)} label files are of frames that {split} lacks, as {others[0]}")
    if problems:
        raise InputError(
            f"{labels}: {len(problems)} of {len(frames)} label files are missing or broken."
        )
    say(f"{labels}: all {len(frames)} label files are whole")
