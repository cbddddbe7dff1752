"""Frames of a clip, whether it is a video file or a folder of images, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.clip import IMAGE_SUFFIXES
from moduv.frames.images import read_image

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
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path}: video files need PyAV; install it with pip install 'moduv[video]'."
        ) from None
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


def choose_stride(frames: Iterator[Timed], motion: float) -> int:
    """Every how many frames are to be taken so that neighbours differ by a wanted motion.

    Args:
        frames: of one clip; the first pairs are measured.
        motion: wanted 75th percentile of the optical flow between neighbours, in shares of the width.

    Returns:
        1 to 10; 1 where nothing moves.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before, moved = None, list[float]()
    for _, image in frames:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height = round(FLOW_WIDTH * grey.shape[0] / grey.shape[1])
        grey = cv2.resize(grey, (FLOW_WIDTH, height), interpolation=cv2.INTER_AREA)
        if before is not None:
            field = flow.calc(before, grey, None)  # type: ignore[call-overload]
            moved.append(float(np.percentile(np.linalg.norm(field, axis=-1), 75)) / FLOW_WIDTH)
        before = grey
        if len(moved) == MEASURED_PAIRS:
            break
    usual = float(np.median([m for m in moved if m > 0.1 * motion] or [motion]))
    return int(np.clip(round(motion / usual), 1, MOST_FRAMES))
