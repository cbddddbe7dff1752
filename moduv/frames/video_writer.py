"""Frames become a video file: H.264 in mp4, with the times they had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.frames.decoding import USUAL_RATE, Timed, decoder, open_video

TICKS = 60_000
"""Units of time in a second: a whole number of them for the usual frame rates."""
QUALITY = "18"
"""Constant rate factor: differences are hardly seen."""


def frame_rate(path: Path) -> Fraction:
    """Frames a second of a video, on average; a usual rate where the file does not tell."""
    try:
        with open_video(path) as (_, stream):
            return stream.average_rate or USUAL_RATE
    except InputError:
        return USUAL_RATE  # decoding tells the user what is wrong


def write_video(path: Path, frames: Iterable[Timed], rate: Fraction) -> int:
    """Encode frames of one size, atomically; the audio of their source is not taken over.

    Args:
        path: the file, `.mp4`.
        frames: seconds and images (H, W, 3) uint8 RGB. A frame without a time, or with one that is
            not later than the frame before, follows it at `rate`. Odd sides are made even by
            repeating the last row or column.
        rate: frames a second.

    Returns:
        The number of frames.

    Raises:
        InputError: when there are no frames or PyAV has no H.264 encoder.
    """
    av = decoder(path)
    if "libx264" not in av.codecs_available:
        raise InputError(
            f"{path}: this PyAV has no H.264 encoder; install its wheel with pip install 'moduv[video]'."
        )
    try:
        with atomic_path(path) as temporary, av.open(str(temporary.absolute()), "w") as container:
            count = _encode(av, container, frames, rate)
            if count == 0:
                raise InputError(f"{path}: there are no frames to write; give a video with frames.")
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"{path}: the video could not be encoded ({error.strerror}); give smaller frames."
        ) from None
    return count


def _encode(av: Any, container: Any, frames: Iterable[Timed], rate: Fraction) -> int:
    stream = container.add_stream("libx264", rate=rate, options={"crf": QUALITY})
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS)
    count = 0
    for ticks, image in _in_ticks(frames, rate):
        even = _with_even_sides(image)
        if count == 0:
            stream.height, stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        container.mux(stream.encode(frame))
        count += 1
    if count:
        container.mux(stream.encode())
    return count


def _in_ticks(frames: Iterable[Timed], rate: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """Frames with their growing times, the first at 0."""
    start, last = 0.0, -1
    for time, image in frames:
        if last < 0:
            start, last = time or 0.0, 0
        else:
            ticks = last if time is None else round((time - start) * TICKS)
            last = ticks if ticks > last else last + max(1, round(TICKS / rate))
        yield last, image


def _with_even_sides(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
