"""What the preparations share: settings, segments that are finished one by one, projected points."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_json, write_json
from moduv.engine.log import progress, say
from moduv.engine.parallel import process_map
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import read_split, write_split


@dataclass(frozen=True)
class PrepareConfig:
    """How a data set is prepared; the sizes are those that Dynamo-Depth was trained at."""

    height: int = 320
    width: int = 480
    """Size of the shrunken frames in pixels."""
    points: bool = True
    """Write lidar depths, which evaluation reads and training does not."""
    workers: int = speed_only(4)

    def __post_init__(self) -> None:
        if self.height % 32 or self.width % 32 or self.workers < 1:
            raise InputError(
                f"prepare: {self.height} x {self.width} with {self.workers} workers; choose sides that "
                "are multiples of 32 and at least one worker."
            )


Job = tuple[Any, ...]
Work = Callable[[Job], list[int]]
BACKGROUND, MOVING, STATIC, UNLABELLED = 0, 1, 2, 3
"""Motion labels."""
MOVING_SPEED = 1.0
"""Metres a second above which an object counts as moving (Dynamo-Depth, section 4)."""
RECORD = "finished.json"
"""Beside a segment's frames: the numbers of them, written when the segment is whole."""


def prepare(
    name: str,
    out: Path,
    config: PrepareConfig,
    jobs: Sequence[Job],
    segments: Sequence[str],
    work: Work,
) -> None:
    """Do the jobs, one a segment, and list all frames with neighbours in a split file.

    Data sets come in pieces: a later call with other segments adds them to the folder and to the file.

    Args:
        name: what the stage is called.
        out: receives the segments and `splits/all_files.txt`.
        segments: segment of each job; a segment whose `finished.json` is there is kept.
        work: prepares one segment and returns its frame numbers; it runs in another process.
    """
    path = out / "splits" / "all_files.txt"
    stage = Stage(name, out, config)
    if not path.is_file() or not all((out / s / RECORD).is_file() for s in segments):
        stage.reopen()
    stage.run(lambda: _prepare(out, path, config, jobs, segments, work))


def _prepare(
    out: Path,
    path: Path,
    config: PrepareConfig,
    jobs: Sequence[Job],
    segments: Sequence[str],
    work: Work,
) -> dict[str, Any]:
    records = [out / segment / RECORD for segment in segments]
    missing = [(job, r) for job, r in zip(jobs, records, strict=True) if not r.is_file()]
    done = process_map(functools.partial(_prepare_segment, work), missing, config.workers)
    for _ in progress(done, desc="prepare", total=len(missing), unit="segment"):
        pass
    earlier = read_split(path) if path.is_file() else []
    frames = [frame for frame in earlier if frame.segment not in set(segments)]
    for segment, record in zip(segments, records, strict=True):
        numbers = read_json(record)["frames"]
        known = set(numbers)
        frames += [FrameRef(segment, n) for n in numbers if n - 1 in known and n + 1 in known]
    if not frames:
        raise InputError(f"{out}: no segment has three frames in a row; check the download.")
    write_split(path, sorted(frames))
    count = len({frame.segment for frame in frames})
    say(f"  {path}: {len(frames)} frames with neighbours in {count} segments")
    return {"segments": count, "frames": len(frames)}


def _prepare_segment(work: Work, task: tuple[Job, Path]) -> None:
    job, record = task
    write_json(record, {"frames": work(job)})


def write_frame(source: Path | bytes, original: Path, small: Path, config: PrepareConfig) -> None:
    """Keep a frame's file as it is, and beside it the frame at training size; what exists is kept."""
    if not original.is_file():
        with atomic_path(original) as temporary:
            if isinstance(source, bytes):
                temporary.write_bytes(source)
            else:
                shutil.copyfile(source, temporary)
    if not small.is_file():
        write_image(small, resize_image(read_image(original), config.height, config.width))


def write_points(path: Path, points: np.ndarray) -> None:
    """Write depth points (N, 3), atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, points)


def write_poses(path: Path, poses: Sequence[np.ndarray]) -> None:
    """Write 4 x 4 matrices, 16 numbers a line, atomically."""
    with atomic_path(path) as temporary:
        lines = [" ".join(repr(float(value)) for value in pose.ravel()) for pose in poses]
        temporary.write_text("\n".join(lines) + "\n")


def write_camera(path: Path, matrix: np.ndarray, width: int, height: int, **more: Any) -> None:
    """Write `cam.json`: K with its rows divided by width and height, and what else is known."""
    normalised = matrix / np.array([[width], [height], [1.0]])
    write_json(path, {**more, "dim": [height, width], "intrinsic_mat": normalised.tolist()})


def in_image(points: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which points (N, 3) of the camera lie ahead and in the image, and where.

    Returns:
        (N, 4): 1 or 0, column, row, depth in metres along the optical axis.
    """
    depth = points[:, 2]
    ahead = depth > 1e-3
    seen = points[:, :2] / np.where(ahead, depth, 1.0)[:, None]
    columns = matrix[0, 0] * seen[:, 0] + matrix[0, 2]
    rows = matrix[1, 1] * seen[:, 1] + matrix[1, 2]
    inside = ahead & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return np.stack([inside, columns, rows, depth], 1)


def rotations(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) about z, then y, then x, by angles (N,) in radians."""
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def required(path: Path, what: str) -> Path:
    """The path, if it exists. Raises InputError saying what to download otherwise."""
    if not path.exists():
        raise InputError(f"{path}: missing; {what}")
    return path
