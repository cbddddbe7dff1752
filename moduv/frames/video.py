"""Frames of a clip, whether it is a video file or a folder of images, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.clip import IMAGE_SUFFIXES
from moduv.frames.images import optical_flow, read_image, small_grey

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
Timed = tuple[float | None, np.ndarray]
"""Seconds from the clip's start, where they are known, and the frame (H, W, 3) uint8 RGB."""

THUMBNAIL = (64, 36)
CUT = 30.0
"""Mean difference of thumbnails, in grey levels, above which two frames are of different scenes."""
STILL = 0.4
"""Mean difference below which a frame repeats the one before."""


def find_clips(source: Path) -> list[Path]:
    """Video files and folders of images below `source` (or `source` itself), in order of name."""
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        return [source]
    if not source.is_dir():
        raise InputError(
            f"{source}: no such folder or video; give the clips' folder or a video file."
        )
    found = {path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES}
    found |= {path.parent for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    return sorted(found)


def read_clip(path: Path) -> Iterator[Timed]:
    """The frames of a video file, turned as its metadata say, or of a folder in order of name.

    Raises InputError when a file does not decode.
    """
    if path.is_dir():
        for image in sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            yield None, read_image(image)
    else:
        yield from _read_video(path)


def _read_video(path: Path) -> Iterator[Timed]:
    av = decoder(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no video stream; give a video file.")
            for frame in container.decode(video=0):
                # Positive rotation is against the clock, as np.rot90 turns.
                turns = round(frame.rotation / 90) % 4
                image = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield frame.time, np.ascontiguousarray(image)
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: does not decode ({error.strerror}); convert it, e.g. to mp4, or leave it out."
        ) from None


def decoder(path: Path) -> Any:
    """PyAV, which is asked for only where there are videos."""
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path}: video files need PyAV; install it with pip install 'moduv[video]'."
        ) from None
    return av


def without_stills(frames: Iterator[Timed]) -> Iterator[Timed]:
    """Leave out frames that repeat the one before: a paused or padded recording."""
    before = None
    for time, image in frames:
        small = thumbnail(image)
        if before is None or np.abs(small - before).mean() > STILL:
            yield time, image
        before = small


def scenes(frames: Iterator[Timed]) -> Iterator[tuple[int, Timed]]:
    """The frames with the number of their scene, which grows at every cut."""
    before, scene = None, 0
    for frame in frames:
        small = thumbnail(frame[1])
        if before is not None and np.abs(small - before).mean() > CUT:
            scene += 1
        before = small
        yield scene, frame


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small grey image, float32."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


FLOW_WIDTH = 320
"""Width at which flow is measured, pixels."""
MEASURED_PAIRS = 40
MOST_FRAMES = 10


def usual_motion(frames: Iterator[Timed], least: float) -> float | None:
    """How far a clip's neighbours differ: the 75th percentile of their optical flow.

    Args:
        frames: of one clip; the first pairs are measured.
        least: pairs that differ by less do not count: the camera stands.

    Returns:
        The median over the pairs, in shares of the width; None where no pair counts.
    """
    before, moved = None, list[float]()
    for _, image in frames:
        grey = small_grey(image, FLOW_WIDTH)
        if before is not None:
            lengths = np.linalg.norm(optical_flow(before, grey), axis=-1)
            moved.append(float(np.percentile(lengths, 75)) / FLOW_WIDTH)
        before = grey
        if len(moved) == MEASURED_PAIRS:
            break
    counted = [share for share in moved if share > least]
    return float(np.median(counted)) if counted else None


def choose_strides(motions: Sequence[float | None], motion: float) -> list[int]:
    """Every how many frames of each clip are to be taken so that neighbours differ by a wanted motion.

    Args:
        motions: each clip's `usual_motion`; clips whose camera stands go by the others.
        motion: what is wanted, in shares of the width.

    Returns:
        1 to 10 for each clip.
    """
    strides = [
        None if moved is None else int(np.clip(round(motion / moved), 1, MOST_FRAMES))
        for moved in motions
    ]
    known = [stride for stride in strides if stride is not None]
    usual = int(np.median(known)) if known else 1
    return [usual if stride is None else stride for stride in strides]


def count_frames(path: Path) -> int:
    """Frames of a folder, or of a video as its file says them; decoded where it does not."""
    if path.is_dir():
        return sum(item.suffix.lower() in IMAGE_SUFFIXES for item in path.iterdir())
    return told_frames(path) or sum(1 for _ in _read_video(path))


def told_frames(path: Path) -> int | None:
    """Frames of a video as its file says them; None where it does not."""
    av = decoder(path)
    try:
        with av.open(str(path)) as container:
            if container.streams.video and container.streams.video[0].frames:
                return int(container.streams.video[0].frames)
    except av.FFmpegError:
        pass  # decoding tells the user what is wrong
    return None
