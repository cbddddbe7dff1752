"""Shared parts of the preparation of data sets: settings, segments and the files of a frame."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_json, write_json
from moduv.engine.log import progress, say
from moduv.engine.parallel import process_map
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import decode_image, resize_image, write_image
from moduv.frames.listing import say_left_out
from moduv.frames.splits import is_nameable, read_split, write_split

Job = tuple[Any, ...]
Work = Callable[[Job], list[int]]
MOVING_SPEED = 1.0
"""Metres a second above which an object counts as moving (Dynamo-Depth, section 4)."""
LARGEST_SCAN = 1 << 28
"""Largest size of a scan in bytes, a hundred times that of real ones."""
RECORD = "finished.json"
"""File beside the frames of a segment with their numbers, written when the segment is complete."""


@dataclass(frozen=True)
class PrepareConfig:
    """How a data set is prepared; the sizes are those that Dynamo-Depth was trained at."""

    height: int = 320
    """Height of the resized frames in pixels."""
    width: int = 480
    """Width of the resized frames in pixels."""
    points: bool = True
    """Write lidar depths, which are used by evaluation and not by training."""
    workers: int = speed_only(4)
    """Processes, each of which prepares a segment."""

    def __post_init__(self) -> None:
        if self.height % 32 or self.width % 32 or self.workers < 1:
            raise InputError(
                f"prepare: {self.height} x {self.width} with {self.workers} workers; choose sides that "
                "are multiples of 32 and at least one worker."
            )


class Settings(Protocol):
    """Settings of a preparation, a dataclass."""

    @property
    def workers(self) -> int:
        """Processes at once."""


def prepare(
    name: str,
    out: Path,
    config: Settings,
    jobs: Sequence[Job],
    segments: Sequence[str],
    work: Work,
    left_out: Mapping[str, int] | None = None,
    *,
    neighbours: bool = True,
) -> None:
    """Run one job per segment and list its frames in a split file.

    Data sets may be prepared in parts: a later call with other segments adds them to the folder and to the split.

    Args:
        name: the stage's name.
        out: receives the segments and `splits/all_files.txt`.
        config: settings, among them the number of processes.
        jobs: arguments of `work`, which can be pickled.
        segments: segment of each job; a segment with a `finished.json` is skipped.
        work: prepares the segment of a job and returns its frame numbers.
        left_out: counts of what the data set holds and no job takes, which are logged at the end.
        neighbours: list only frames that have both neighbours, as stage 1 needs them.

    Raises:
        InputError: when neighbours are needed and no segment has three frames in a row, and for segments with the same
            name or a name that no split file can hold.
    """
    _check_names(segments, out)
    split = out / "splits" / "all_files.txt"
    records = [out / segment / RECORD for segment in segments]

    def run() -> dict[str, Any]:
        missing = [(job, r) for job, r in zip(jobs, records, strict=True) if not r.is_file()]
        done = process_map(functools.partial(_prepare_segment, work), missing, config.workers)
        for _ in progress(done, desc="prepare", total=len(missing), unit="segment"):
            pass
        earlier = read_split(split) if split.is_file() else []
        frames = [frame for frame in earlier if frame.segment not in set(segments)]
        alone = 0
        for segment, record in zip(segments, records, strict=True):
            known = [FrameRef(segment, number) for number in set(read_json(record)["frames"])]
            kept = _with_neighbours(known) if neighbours else known
            frames += kept
            alone += len(known) - len(kept)
        others = Counter(left_out or {}) + Counter({"frames without both neighbours": alone})
        if not frames:
            say_left_out(others)
            raise InputError(f"{out}: no segment has three frames in a row; check the download.")
        write_split(split, sorted(frames))
        count = len({frame.segment for frame in frames})
        which = " with neighbours" if neighbours else ""
        say(f"  {split}: {len(frames)} frames{which} in {count} segments")
        say_left_out(others)
        return {"segments": count, "frames": len(frames)}

    whole = all(path.is_file() for path in (split, *records))
    Stage(name, out, config).run(run, grown=not whole)


def _check_names(segments: Sequence[str], out: Path) -> None:
    """Raise InputError for segments of the same name, and for names that no split file can hold."""
    for segment, count in Counter(segments).items():
        if count > 1:
            raise InputError(
                f"{out}: {count} recordings would be called {segment!r:.200}; give one of them at a time."
            )
        if not is_nameable(segment):
            raise InputError(
                f"{out}: a segment would be called {segment!r:.200}, which no split file can name; rename its "
                "folder or file without spaces."
            )


def _with_neighbours(frames: Sequence[FrameRef]) -> list[FrameRef]:
    """The frames of a segment that have both neighbours."""
    known = set(frames)
    return [frame for frame in frames if {frame.neighbour(-1), frame.neighbour(1)} <= known]


def _prepare_segment(work: Work, task: tuple[Job, Path]) -> None:
    job, record = task
    write_json(record, {"frames": work(job)})


def write_frame(
    source: Path | bytes,
    rgb: Path,
    name: str,
    config: PrepareConfig,
    size: tuple[int, int] | None = None,
) -> None:
    """Copy a frame's file to `original/<name>` and write it at training size as `downsample/*.jpg`.

    Existing files are kept. Raises InputError when the frame is not of `size`, width and height, for which
    it is calibrated.
    """
    original, small = rgb / "original" / name, (rgb / "downsample" / name).with_suffix(".jpg")
    if original.is_file() and small.is_file():
        return
    taken = original if isinstance(source, bytes) else source
    content = source if isinstance(source, bytes) else source.read_bytes()
    image = decode_image(content, str(taken))
    if size is not None and image.shape[1::-1] != size:
        raise InputError(
            f"{taken}: is of {image.shape[1]} x {image.shape[0]} pixels, and calibrated for {size[0]} x "
            f"{size[1]}; give the frames as they were downloaded."
        )
    if not original.is_file():
        with atomic_path(original) as temporary:
            temporary.write_bytes(content)
    if not small.is_file():
        write_image(small, resize_image(image, config.height, config.width))


def read_scan(path: Path, columns: int, download: str) -> np.ndarray:
    """The points (N, columns) float64 of a lidar scan, a list of float32; `download` is how errors end.

    Raises InputError when it holds something else, or more than any scan.
    """
    content = path.read_bytes() if path.stat().st_size <= LARGEST_SCAN else b"\0"
    width = 4 * columns
    points = np.frombuffer(content[: len(content) // width * width], np.float32)
    if len(content) % width or not np.isfinite(points).all():
        raise InputError(f"{path}: is no list of {columns} finite numbers a point; {download}")
    return points.reshape(-1, columns).astype(np.float64)


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
    """Write `cam.json`: K with its rows divided by width and height, and the entries of `more`."""
    normalised = matrix / np.array([[width], [height], [1.0]])
    write_json(path, {**more, "dim": [height, width], "intrinsic_mat": normalised.tolist()})


def required(path: Path, what: str) -> Path:
    """Return an existing path; raise InputError ending in `what` otherwise."""
    if not path.exists():
        raise InputError(f"{path}: missing; {what}")
    return path
