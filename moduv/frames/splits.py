"""Split files: which frames a stage works on, `<segment> <frame>` a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_text
from moduv.engine.log import say
from moduv.frames.clip import FrameRef

KITTI_CAMERAS = {"l": "image_02", "r": "image_03"}
"""KITTI's split files name the left or right camera of a drive in a third column."""
SPLIT = "files.txt"
"""Split file in the folder of a stage that says which frames it has made something of."""
LARGEST = 1 << 28
"""Bytes that a split file may have, millions of frames."""


def read_split(path: str | Path) -> list[FrameRef]:
    """Read a split file, or that in the folder of a stage.

    Raises InputError when it is missing, empty, or has a line of another form or of a frame elsewhere.
    """
    path = Path(path) / SPLIT if Path(path).is_dir() else Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such split file; write one line '<segment> <frame>' per frame."
        )
    frames = []
    for number, line in enumerate(read_text(path, largest=LARGEST).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        # Other scripts have digits, too, but no file is named by them.
        if len(fields) < 2 or not re.fullmatch("[0-9]{1,18}", fields[1]):
            raise InputError(
                f"{path}: line {number} is {line!r:.80}; write '<segment> <frame number>'."
            )
        if fields[2:] and (len(fields) > 3 or fields[2] not in KITTI_CAMERAS):
            raise InputError(
                f"{path}: line {number} is {line!r:.80}, with more than a segment and a frame; write "
                "segments without spaces, and behind a frame at most 'l' or 'r' for KITTI's cameras."
            )
        if not is_inside(fields[0]):
            raise InputError(
                f"{path}: line {number} leaves the data folder ({fields[0]!r:.80}); use a path relative to "
                "it, with / between folders."
            )
        camera = KITTI_CAMERAS.get(fields[2]) if len(fields) > 2 else None
        frames.append(FrameRef(f"{fields[0]}/{camera}" if camera else fields[0], int(fields[1])))
    if not frames:
        raise InputError(
            f"{path}: the split is empty; write one line '<segment> <frame>' per frame."
        )
    once = list(dict.fromkeys(frames))
    if len(once) < len(frames):
        say(f"{path}: names {len(frames) - len(once)} of its frames again, which count once")
    return once


def is_inside(segment: str) -> bool:
    """Whether a segment lies below the folder that it is joined to, on every system."""
    path = PureWindowsPath(segment)  # knows the absolute paths of all of them
    return not path.anchor and ".." not in path.parts and "\\" not in segment


def is_nameable(segment: str) -> bool:
    """Whether a split file can name a segment: one word, below the folder that it is joined to."""
    return segment.split() == [segment] and segment.isprintable() and is_inside(segment)


def evenly(frames: Sequence[FrameRef], count: int) -> list[FrameRef]:
    """At most `count` of the frames at even distances, the first and the last among them."""
    positions = np.linspace(0, len(frames) - 1, min(len(frames), count))
    return [frames[int(position)] for position in positions]


def hold_out(frames: Iterable[FrameRef], every: int = 10) -> tuple[list[FrameRef], list[FrameRef]]:
    """Frames to train on and frames to look at afterwards, of which no trained triplet has one.

    Every `every`-th segment is held out. Where there are fewer segments, the last frames of each are,
    two at least where it has four, and the frame before them, a neighbour of what is trained on, is
    left out.

    Raises InputError when there are too few frames to hold any out.
    """
    frames = list(frames)
    segments = list(dict.fromkeys(frame.segment for frame in frames))
    if len(segments) >= every:
        held = set(segments[every - 1 :: every])
        kept = [frame for frame in frames if frame.segment not in held]
        return kept, [frame for frame in frames if frame.segment in held]
    train, val = list[FrameRef](), list[FrameRef]()
    for segment in segments:
        own = [frame for frame in frames if frame.segment == segment]
        last = own[len(own) - _held(len(own), every) :]
        train += [frame for frame in own if not last or frame.index < last[0].index - 1]
        val += last
    if not val:
        raise InputError(
            f"{len(frames)} frames with both neighbours are too few to hold some out; give longer clips."
        )
    return train, val


def _held(count: int, every: int) -> int:
    """How many of a segment's frames are held out; one is lost between them and the others."""
    return 0 if count < 3 else 1 if count == 3 else max(2, count // every)


def write_split(path: str | Path, frames: Iterable[FrameRef]) -> None:
    """Write a split file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(frame.line() + "\n" for frame in frames))
