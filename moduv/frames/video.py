"""Frames of a clip, whether it is a video file or a folder of images, one after the other."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.frames.decoding import Timed, nominal_frame_count, read_frames
from moduv.frames.images import optical_flow, read_image, small_grey
from moduv.frames.listing import clip_images

THUMBNAIL = (64, 36)
CUT = 30.0
"""Mean difference of thumbnails, in grey levels, above which two frames are of different scenes."""
STILL, STILL_PART = 0.4, 12.0
"""Mean and largest difference up to which a frame repeats the one before, where the contrast is usual. The
second tells a small object that moves from coding noise."""
USUAL = 8.0
"""Contrast in grey levels, of which daylight has more; coding noise grows with it."""


def read_clip(
    path: Path,
    tell: Callable[[str], None] = say,
    *,
    grey_width: int = 0,
    left_out: Counter[str] | None = None,
) -> Iterator[Timed]:
    """The frames of a video file, as a player shows them, or of a folder in order of name.

    Packets of a video and images of a folder that do not decode are left out.

    Args:
        path: a video file or a folder.
        tell: is told what was not taken as it is: after the last frame, how many were left out.
        grey_width: shrink frames to this width, pixels, and to grey ones, (h, grey_width); 0: neither. It
            costs a fraction of whole frames.
        left_out: receives how many were left out, and why.

    Raises:
        InputError: when nothing decodes.
    """
    whole, broken = 0, list[InputError]()
    read = _read_folder(path, grey_width) if path.is_dir() else read_frames(path, grey_width, tell)
    for piece in read:
        if isinstance(piece, InputError):
            broken.append(piece)
        else:
            whole += 1
            yield piece
    if not whole:
        raise broken[0] if broken else InputError(f"{path}: has no frames; leave it out.")
    if broken:
        kind = "images" if path.is_dir() else "packets"
        tell(f"  {path}: {len(broken)} {kind} do not decode; left out")
        if left_out is not None:
            left_out[f"{kind} that do not decode"] += len(broken)


def _read_folder(path: Path, grey_width: int) -> Iterator[Timed | InputError]:
    for file in clip_images(path):
        try:
            image = read_image(file)
        except InputError as error:
            yield error
            continue
        yield None, small_grey(image, grey_width) if grey_width else image


def without_stills(
    frames: Iterator[Timed], left_out: Counter[str] | None = None
) -> Iterator[Timed]:
    """Leave out frames that repeat the last kept one: a paused or padded recording.

    Of dark and of hazy frames less has to differ. `left_out` receives how many were left out.
    """
    kept = None
    for time, image in frames:
        small = thumbnail(image)
        if kept is None or not _repeats(small, kept):
            yield time, image
            kept = small
        elif left_out is not None:
            left_out["frames that repeat the one before"] += 1


def _repeats(small: np.ndarray, kept: np.ndarray) -> bool:
    difference, noise = np.abs(small - kept), min(1.0, _contrast(small) / USUAL)
    return bool(difference.mean() <= STILL * noise and difference.max() <= STILL_PART * noise)


def _contrast(small: np.ndarray) -> float:
    """Usual difference from the median, in grey levels, which few bright lamps do not change."""
    return float(np.median(np.abs(small - np.median(small))))


def scenes(frames: Iterator[Timed]) -> Iterator[tuple[int, Timed]]:
    """The frames with the number of their scene, which grows at every cut and change of size."""
    before, size, scene = None, None, 0
    for frame in frames:
        small = thumbnail(frame[1])
        if before is not None and (frame[1].shape != size or np.abs(small - before).mean() > CUT):
            scene += 1
        before, size = small, frame[1].shape
        yield scene, frame


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small grey image, float32."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


FLOW_WIDTH = 320
"""Width at which flow is measured, pixels."""
MEASURED_PAIRS = 40
"""Pairs that are measured at least, where a clip has them; at most twice as many count."""
MOST_FRAMES = 10
FEWEST_FRAMES = 5
"""No clip is thinned to fewer, if it has as many."""
STANDS = 0.1
"""A pair that differs by less than this share of the wanted motion does not count: the camera stands."""
CREEPS = 0.5
"""The camera is slow instead, when frames up to ten apart differ by this share of the wanted motion."""
FEW = 0.25
"""Share of the pairs that must differ by themselves, for the others to count as a camera that stands."""


def usual_motion(frames: Iterator[Timed], wanted: float) -> float | None:
    """How far a clip's neighbours differ: the 75th percentile of their optical flow.

    Args:
        frames: of one clip, grey and `FLOW_WIDTH` wide; pairs spread over all of it are measured.
        wanted: by how much neighbours are to differ, in shares of the width. Where hardly any pair
            comes near it, frames are compared with the 10th next: the camera may be slow.

    Returns:
        The median over the pairs, in shares of the width; None for a camera that stands.
    """
    moved, step = list[tuple[float, float, int]](), 1
    for start, run in enumerate(_runs(frames)):
        if start % step:
            continue
        near = _moved(run[0], run[1])
        far = _moved(run[0], run[-1]) if near <= STANDS * wanted else 0.0
        moved.append((near, far, len(run) - 1))
        if len(moved) == 2 * MEASURED_PAIRS:
            moved, step = moved[::2], 2 * step
    counted = [near for near, _, _ in moved if near > STANDS * wanted]
    if len(counted) < FEW * len(moved):
        counted += [far / later for _, far, later in moved if far > CREEPS * wanted]
    return float(np.median(counted)) if counted else None


def _runs(frames: Iterator[Timed]) -> Iterator[list[np.ndarray]]:
    """Every frame that has a next one in its scene, with up to ten that follow."""
    for _, scene in groupby(scenes(frames), key=lambda item: item[0]):
        run = deque[np.ndarray]()
        for _, (_, image) in scene:
            run.append(image)
            if len(run) > MOST_FRAMES:
                yield list(run)
                run.popleft()
        while len(run) > 1:
            yield list(run)
            run.popleft()


def _moved(before: np.ndarray, after: np.ndarray) -> float:
    lengths = np.linalg.norm(optical_flow(before, after), axis=-1)
    return float(np.percentile(lengths, 75)) / FLOW_WIDTH


def choose_strides(
    motions: Sequence[float | None], frames: Sequence[int], wanted: float
) -> list[int]:
    """Every how many frames of each clip are to be taken so that neighbours differ by a wanted motion.

    Args:
        motions: each clip's `usual_motion`; clips whose camera stands go by the others.
        frames: how many each clip has.
        wanted: in shares of the width.

    Returns:
        1 to 10 for each clip; less than it takes where a clip is too short for it.
    """
    strides = [
        None if moved is None else int(np.clip(round(wanted / moved), 1, MOST_FRAMES))
        for moved in motions
    ]
    known = [stride for stride in strides if stride is not None]
    usual = int(np.median(known)) if known else 1
    most = [max(1, (count - 1) // (FEWEST_FRAMES - 1)) for count in frames]
    return [min(s or usual, limit) for s, limit in zip(strides, most, strict=True)]


def count_frames(path: Path) -> int:
    """Frames of a folder, or of a video as its file says them; those that decode where it does not."""
    if path.is_dir():
        return len(clip_images(path))
    told = nominal_frame_count(path)
    return told or sum(
        not isinstance(piece, InputError) for piece in read_frames(path, FLOW_WIDTH, lambda _: None)
    )
