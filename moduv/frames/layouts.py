"""Where each data set keeps what belongs to a frame; a segment's layout is recognised by its folders.

Besides this library's own form, the forms that Dynamo-Depth's preparation writes for Waymo Open,
nuScenes and KITTI are read in place, so a folder prepared for the original works as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, read_npy, read_npz
from moduv.frames import kitti_calibration
from moduv.frames.camera import Intrinsics
from moduv.frames.images import image_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
BACKGROUND, MOVING, STATIC, UNLABELLED = 0, 1, 2, 3
"""Motion labels, of pixels or of depth points."""
USUAL_INTERVAL = 100.0
"""Milliseconds between frames that the flow networks count as one step, where intervals are known."""


@dataclass(frozen=True)
class Layout:
    """Paths below a segment's folder; `{}` stands for the frame's number."""

    name: str
    images: tuple[str, ...]
    """Folders of the full frames; the first that has a frame is used."""
    small_images: tuple[str, ...] = ()
    """Folders of frames shrunk to the training size."""
    digits: int = 6
    camera: str = "cam.json"
    """Intrinsics: normalised JSON, or KITTI's calibration."""
    points: str = ""
    """Measured depths: (N, 3) arrays."""
    points_in_rows: bool = False
    """The points are (row, column, metres); otherwise (column, row, metres)."""
    poses: str = ""
    """One 4 x 4 matrix a line: of the vehicle, in this library's own form of the camera."""
    intervals: str = ""
    """Milliseconds from each frame to the next, JSON."""
    motion: str = ""
    """Motion labels: of pixels (`motion`) or of the depth points (`motion_label`)."""


PREPARED = ("FRONT/rgb/original", "FRONT/rgb/downsample")
LAYOUTS = (
    Layout(
        "waymo or nuscenes",
        PREPARED,
        PREPARED[::-1],
        camera="FRONT/rgb/cam.json",
        points="FRONT/depth/{}.npy",
        poses="FRONT/odometry.txt",
        intervals="FRONT/rgb/ts.json",
        motion="FRONT/mask/{}_motion.npz",
    ),
    Layout(
        "kitti",
        ("rgb/original", "rgb/downsample"),
        ("rgb/downsample", "rgb/original"),
        digits=10,
        camera="../calib_cam_to_cam.txt",
        points="depth/{}.npy",
        points_in_rows=True,
        poses="odometry.txt",
    ),
    Layout("folder", ("",), poses="poses.txt"),
)
"""nuScenes is prepared in Waymo's form, with intervals and with motion labels of points."""
WAYMO_AXES = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)
"""From a camera that looks along z (x right, y down) to Waymo's (x ahead, y left, z up)."""


def layout_of(root: str | Path, segment: str) -> Layout:
    """The layout of a segment: the one whose image folder exists, this library's own otherwise."""
    folder = Path(root) / segment
    for layout in LAYOUTS[:-1]:
        if any(_is_folder(str(folder / images)) for images in layout.images):
            return layout
    return LAYOUTS[-1]


_FOLDERS: set[str] = set()
"""Folders that were found. Absent ones are looked for again: a preparation may be making them."""


def _is_folder(path: str) -> bool:
    if path not in _FOLDERS and Path(path).is_dir():
        _FOLDERS.add(path)
    return path in _FOLDERS


def image_path(root: str | Path, segment: str, index: int, *, small: bool = False) -> Path:
    """A frame's image: the first candidate that exists, the layout's first where none does.

    Args:
        small: prefer frames that were shrunk to training size.
    """
    layout = layout_of(root, segment)
    folders = layout.small_images if small and layout.small_images else layout.images
    number = f"{index:0{layout.digits}d}"
    candidates = [
        Path(root) / segment / folder / (number + suffix)
        for folder in folders
        for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    ]
    return next((path for path in candidates if path.is_file()), candidates[0])


def frame_numbers(root: str | Path, segment: str) -> list[int]:
    """Numbers of all frames of a segment, in order."""
    layout = layout_of(root, segment)
    numbers = set()
    for folder in layout.images:
        path = Path(root) / segment / folder
        for file in path.iterdir() if path.is_dir() else ():
            if file.suffix.lower() in IMAGE_SUFFIXES and re.fullmatch("[0-9]{1,18}", file.stem):
                numbers.add(int(file.stem))
    return sorted(numbers)


def intrinsics(root: str | Path, segment: str, width: int, height: int) -> Intrinsics:
    """The camera of a segment, for frames of `width` x `height` pixels.

    Raises InputError when its file is missing or holds no pinhole camera.
    """
    path = Path(root) / segment / layout_of(root, segment).camera
    if path.suffix == ".txt":
        return kitti_calibration.read_camera(path, Path(segment).name).resized(width, height)
    if not path.is_file():
        raise InputError(
            f"{path}: no intrinsics for this segment; write {{'intrinsic_mat': K with its rows divided "
            "by width and height}} there, or set the camera's field of view."
        )
    camera = Intrinsics.from_cam_json(path, width, height)
    size = _full_size(root, segment)
    if size is not None:
        camera.resized(*size).check_pixels(f"{path}: 'intrinsic_mat'")
    return camera


def _full_size(root: str | Path, segment: str) -> tuple[int, int] | None:
    """Width and height of a segment's frames as they were taken; None where there are none."""
    folder = Path(root) / segment / layout_of(root, segment).images[0]
    first = next(iter(frame_numbers(root, segment)), None)
    path = None if first is None else image_path(root, segment, first)
    return (
        image_size(path) if path is not None and path.parent == folder and path.is_file() else None
    )


def has_intrinsics(root: str | Path, segment: str) -> bool:
    """Whether the segment's camera is known."""
    return (Path(root) / segment / layout_of(root, segment).camera).is_file()


def is_assumed(root: str | Path, segment: str) -> bool:
    """Whether the segment's camera is a guess, or not known at all."""
    path = Path(root) / segment / layout_of(root, segment).camera
    if path.suffix != ".json":
        return False
    content = read_json(path) if path.is_file() else {"assumed": True}
    return isinstance(content, dict) and bool(content.get("assumed", False))


def time_steps(root: str | Path, segment: str, index: int) -> tuple[float, float] | None:
    """Time to the previous and the next frame in usual intervals; None where all are the same.

    Raises InputError when the intervals are no list of positive numbers that reaches the frame.
    """
    layout = layout_of(root, segment)
    path = Path(root) / segment / layout.intervals
    if not layout.intervals or not path.is_file():
        return None
    intervals = _intervals(path)
    if not 1 <= index < len(intervals):
        raise InputError(
            f"{path}: has {len(intervals)} intervals, none beside frame {index}; prepare the segment again."
        )
    return intervals[index - 1], intervals[index]


@lru_cache(maxsize=4096)
def _intervals(path: Path) -> tuple[float, ...]:
    values = read_json(path)
    good = isinstance(values, list) and all(
        type(value) in (int, float) and 0 < value < float("inf") for value in values
    )
    if not good:
        raise InputError(f"{path}: is no list of milliseconds above 0; prepare the segment again.")
    return tuple(value / USUAL_INTERVAL for value in values)


def depth_points(root: str | Path, segment: str, index: int) -> np.ndarray | None:
    """Measured depths (N, 3) as (row, column, metres) in the full frame; None where there are none.

    Raises InputError when the file is damaged.
    """
    path = _truth_path(root, segment, index, layout_of(root, segment).points)
    if path is None:
        return None
    points = read_npy(path)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(
            f"{path}: is no (N, 3) array of finite depth points; prepare the segment again."
        )
    in_rows = layout_of(root, segment).points_in_rows
    return np.asarray(points if in_rows else points[:, [1, 0, 2]], np.float64)


def motion_labels(root: str | Path, segment: str, index: int) -> np.ndarray | None:
    """What moves: pixel labels (H, W), or labels (N,) of the depth points; None where unknown.

    0 background, 1 moving, 2 static, 3 unlabelled. Raises InputError when the file is damaged.
    """
    layout = layout_of(root, segment)
    path = _truth_path(root, segment, index, layout.motion)
    if path is not None:
        return read_npz(path, ("motion",))["motion"]
    path = _truth_path(root, segment, index, layout.motion.replace("_motion", ""))
    if path is None:
        return None
    return array_of(path, "motion_label")


def array_of(path: Path, key: str) -> np.ndarray | None:
    """An array of an npz file; None where it lacks it. Raises InputError when the file is damaged."""
    return read_npz(path, (), (key,)).get(key)


def _truth_path(root: str | Path, segment: str, index: int, template: str) -> Path | None:
    if not template:
        return None
    digits = layout_of(root, segment).digits
    path = Path(root) / segment / template.format(f"{index:0{digits}d}")
    return path if path.is_file() else None


def camera_poses(root: str | Path, segment: str) -> np.ndarray | None:
    """Camera-to-world poses (N, 4, 4) of all frames of a segment, in metres; None where unknown.

    The camera looks along z, with x to the right and y down. Raises InputError for a damaged file.
    """
    layout = layout_of(root, segment)
    path = Path(root) / segment / layout.poses
    if not layout.poses or not path.is_file():
        return None
    try:
        poses = np.loadtxt(path, dtype=np.float64, ndmin=2)
        poses = poses.reshape(len(poses), 4, 4)  # 16 numbers a line: 12 are KITTI's form
    except ValueError:
        poses = np.full((1, 4, 4), np.nan)
    if not np.isfinite(poses).all() or np.any(np.linalg.det(poses) == 0):
        raise InputError(
            f"{path}: is no list of 4 x 4 poses, 16 finite numbers a line; prepare the segment again."
        )
    if layout.name == "folder":
        return poses
    return poses @ _camera_on_vehicle(Path(root) / segment / layout.camera, Path(segment).name)


def _camera_on_vehicle(path: Path, camera: str) -> np.ndarray:
    """The camera's pose (4, 4) on the vehicle, from the `extrinsic` or the rotation in its JSON."""
    if path.suffix == ".txt":
        return kitti_calibration.camera_on_vehicle(path.parent, camera.removeprefix("image_"))
    content = read_json(path)
    try:
        if "extrinsic" in content:
            pose = np.array(content["extrinsic"], np.float64).reshape(4, 4)
            if not np.isfinite(pose).all():
                raise ValueError("not finite")
            return pose @ WAYMO_AXES
        return pose_of(content["rotation"], content["translation"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}: lacks 'extrinsic' (4 x 4) or 'rotation' (w, x, y, z) and 'translation'; "
            "prepare the segment again."
        ) from None


def pose_of(quaternion: Sequence[float], translation: Sequence[float]) -> np.ndarray:
    """Build the pose (4, 4) of a rotation (w, x, y, z) and a translation (x, y, z).

    Raises ValueError, TypeError or OverflowError when they are other than so many finite numbers.
    """
    turn, place = np.asarray(quaternion, np.float64), np.asarray(translation, np.float64)
    if turn.shape != (4,) or place.shape != (3,) or not np.isfinite([*turn, *place]).all():
        raise ValueError("no rotation and translation of four and three finite numbers")
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(np.roll(turn, -1)).as_matrix()
    pose[:3, 3] = place
    return pose
