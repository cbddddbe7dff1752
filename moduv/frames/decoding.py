"""The frames of a video file as a player shows them: of its picture's stream, upright, with square pixels."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moduv.engine.errors import InputError

Timed = tuple[float | None, np.ndarray]
"""Seconds from the clip's start, where they are known, and the frame (H, W, 3) uint8 RGB; (h, w) uint8 where
it is small and grey."""
FORMATS = (
    *(
        "mov",
        "matroska",
        "avi",
        "mpegts",
        "mpeg",
        "mpegvideo",
        "asf",
        "flv",
        "ogg",
        "mxf",
        "h264",
        "hevc",
    ),
    *("mjpeg", "m4v", "webm", "dv", "ivf", "obu", "rm", "nut", "gif"),
)
"""Containers that are read. Playlists and lists of files, which name other files, are none."""
USUAL_RATE = Fraction(25)
WIDEST_PIXEL = 4
"""Times as wide as high; what exceeds it, or its inverse, is an error of the file."""
NEARLY_SQUARE = 0.01
"""Rounded from a size that a codec has filled up to whole blocks."""


def decoder(path: Path) -> Any:
    """PyAV, which is asked for only where there are videos."""
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path}: video files need PyAV; install it with pip install 'moduv[video]'."
        ) from None
    return av


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container of a video and the stream of its picture.

    Raises InputError when there is none, and when the container or what is done with it fails.
    """
    av = decoder(path)
    try:
        # Absolute, for 12:30.mp4 is no protocol; and a playlist must not fetch anything.
        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
        with av.open(str(path.absolute()), options=options) as container:
            yield container, _picture_stream(path, container)
    except av.FFmpegError as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Any) -> InputError:
    return InputError(
        f"{path}: does not decode ({error.strerror}); convert it, e.g. to mp4, or leave it out."
    )


def _picture_stream(path: Path, container: Any) -> Any:
    """The stream of the most pixels; covers, which may come first, and single pictures do not count."""
    streams = _moving(container)
    if not streams:
        raise InputError(f"{path}: has no video stream; give a video file.")
    best = max(streams, key=lambda stream: (stream.frames != 1, stream.width * stream.height))
    if best.width * best.height > 2 * (Image.MAX_IMAGE_PIXELS or best.width * best.height):
        raise InputError(
            f"{path}: has frames of {best.width} x {best.height} pixels, larger than what is read; "
            "convert it to a smaller size, or leave it out."
        )
    return best


def _moving(container: Any) -> list[Any]:
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def nominal_frame_count(path: Path) -> int | None:
    """Frames of a video as its file says them; None where it does not."""
    decoder(path)  # a missing decoder is not the file's fault
    try:
        with open_video(path) as (_, stream):
            return int(stream.frames) or None
    except InputError:
        return None  # decoding tells the user what is wrong


def read_frames(
    path: Path, grey_width: int, tell: Callable[[str], None]
) -> Iterator[Timed | InputError]:
    """The frames, and an error for every packet that does not decode and every frame marked as damaged.

    Args:
        path: a video file.
        grey_width: shrink frames to this width, pixels, and to grey; 0: neither.
        tell: is told which of several streams is read, and that pixels are made square.
    """
    av = decoder(path)
    try:
        with open_video(path) as (container, stream):
            aspect = _pixel_aspect(path, stream)
            _describe(path, container, stream, aspect, tell)
            clock = _Clock(stream)
            for packet in container.demux(stream):
                clock.add(packet)
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    clock.drop(packet)
                    yield _broken(path, error)
                    continue
                for frame in frames:
                    time = clock.time(frame)
                    if frame.is_corrupt:
                        yield InputError(f"{path}: the frame at {time} s is damaged; leave it out.")
                    else:
                        yield time, _picture(frame, aspect, grey_width)
    except InputError as error:
        yield error


def _pixel_aspect(path: Path, stream: Any) -> Fraction:
    """Width to height of a pixel; 1 where the file does not tell."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        raise InputError(
            f"{path}: has pixels of {aspect.numerator}:{aspect.denominator}; convert it to square ones."
        )
    return aspect if abs(aspect - 1) > NEARLY_SQUARE else Fraction(1)


def _describe(
    path: Path, container: Any, stream: Any, aspect: Fraction, tell: Callable[[str], None]
) -> None:
    size = f"{stream.width} x {stream.height}"
    count = len(_moving(container))
    if count > 1:
        tell(f"  {path}: has {count} video streams; stream {stream.index}, of {size}, is read")
    if aspect != 1:
        square = f"{round(stream.width * aspect)} x {stream.height}"
        tell(
            f"  {path}: pixels of {aspect.numerator}:{aspect.denominator} are made square: {size} "
            f"becomes {square}"
        )


class _Clock:
    """Seconds of the frames since the first, which grow.

    Some containers, AVI for one, number packets as they come, although the codec shows frames in another
    order; then a frame has the smallest number that was not used.
    """

    def __init__(self, stream: Any) -> None:
        self.unit = stream.time_base
        self.step = float(1 / (stream.average_rate or USUAL_RATE))
        self.as_they_come = bool(stream.codec_context.has_b_frames)
        self.waiting: list[int] = []
        self.newest: int | None = None
        self.start: int | None = None
        self.last: float | None = None

    def add(self, packet: Any) -> None:
        if packet.pts is None or not self.as_they_come:
            return
        if self.newest is not None and packet.pts <= self.newest:
            self.as_they_come = False
        self.newest = packet.pts
        heapq.heappush(self.waiting, packet.pts)

    def drop(self, packet: Any) -> None:
        if packet.pts in self.waiting:
            self.waiting.remove(packet.pts)
            heapq.heapify(self.waiting)

    def time(self, frame: Any) -> float | None:
        pts = heapq.heappop(self.waiting) if self.as_they_come and self.waiting else frame.pts
        self.start = pts if self.start is None else self.start
        time = None if pts is None or self.start is None else float((pts - self.start) * self.unit)
        if self.last is not None and (time is None or time <= self.last):
            time = self.last + self.step
        self.last = time
        return time


def _picture(frame: Any, aspect: Fraction, grey_width: int) -> np.ndarray:
    turn = _display_matrix(frame)
    width, height = round(frame.width * aspect), frame.height
    if not grey_width and aspect == 1:
        return _turned(frame.to_ndarray(format="rgb24"), turn)
    if not grey_width:
        return _turned(
            frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray(), turn
        )
    scale = grey_width / (height if _swaps_sides(turn) else width)
    width, height = max(16, round(width * scale)), max(16, round(height * scale))
    small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
    return _turned(small.to_ndarray(), turn)


def _display_matrix(frame: Any) -> np.ndarray:
    """Where columns and rows are shown: (2, 2), rows are the images of x and of y."""
    for entry in frame.side_data:
        if entry.type.name == "DISPLAYMATRIX":
            return np.frombuffer(bytes(entry), np.int32).reshape(3, 3)[:2, :2].astype(float)
    return np.eye(2)


def _swaps_sides(turn: np.ndarray) -> bool:
    return bool(np.abs(turn).trace() < np.abs(turn[::-1]).trace())


def _turned(image: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Turn and mirror an image by the multiple of 90 degrees that is nearest."""
    swaps = _swaps_sides(turn)
    image = image.swapaxes(0, 1) if swaps else image
    x, y = turn[::-1].diagonal() if swaps else turn.diagonal()
    return np.ascontiguousarray(image[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1])
