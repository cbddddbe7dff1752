"""KITTI's calibrations of a drive: its rectified cameras, where they look from, and the scanner's way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_text
from moduv.frames.camera import Intrinsics

CAMERAS, SCANNER, VEHICLE = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt", "calib_imu_to_velo.txt"


def read_camera(path: Path, folder: str) -> Intrinsics:
    """The rectified camera of `image_02` or `image_03` from KITTI's `calib_cam_to_cam.txt`.

    Raises InputError when the file lacks it or holds no pinhole camera.
    """
    camera = folder.removeprefix("image_")
    try:
        width, height = (round(float(v)) for v in _values(path, f"S_rect_{camera}", 2))
        matrix = _values(path, f"P_rect_{camera}", 12).reshape(3, 4)
    except KeyError:
        raise InputError(
            f"{path}: lacks 'S_rect_{camera}' or a 3 x 4 'P_rect_{camera}'; copy the drive's calibration there."
        ) from None
    except (ValueError, OverflowError):
        matrix, width, height = np.zeros((3, 4)), 0, 0
    remedy = "copy the drive's calibration there again"
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1], width, height) <= 0:
        raise InputError(
            f"{path}: 'S_rect_{camera}' and 'P_rect_{camera}' are no size and camera with positive focal "
            f"lengths; {remedy}."
        )
    return Intrinsics.from_matrix(matrix, width, height, f"{path}: 'P_rect_{camera}'", remedy)


def camera_from_scanner(folder: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Projection (3, 4) of the rectified camera `02` or `03`, and the way (4, 4) from the scanner to it.

    The projection is from the rectified camera `00`, to which the way leads. Raises InputError naming
    what the calibrations of `folder` lack.
    """
    try:
        rectification = np.eye(4)
        rectification[:3, :3] = _rotation(folder / CAMERAS, "R_rect_00")
        projection = _values(folder / CAMERAS, f"P_rect_{camera}", 12).reshape(3, 4)
        return projection, rectification @ _motion(folder / SCANNER)
    except KeyError as error:
        raise _lacks(error) from None


def camera_on_vehicle(folder: Path, camera: str) -> np.ndarray:
    """The pose (4, 4) of the rectified camera `02` or `03` on the vehicle, whose origin is the IMU.

    Raises InputError naming what the calibrations of `folder` lack.
    """
    projection, camera_from_velodyne = camera_from_scanner(folder, camera)
    beside = np.eye(4)  # from the camera 00 to this one
    try:
        beside[:3, 3] = np.linalg.solve(projection[:, :3], projection[:, 3])
        return np.linalg.inv(beside @ camera_from_velodyne @ _motion(folder / VEHICLE))
    except KeyError as error:
        raise _lacks(error) from None
    except np.linalg.LinAlgError:
        raise InputError(
            f"{folder}: P_rect_{camera}, R_rect_00 or R is singular; copy the drive's calibrations there again."
        ) from None


def _motion(path: Path) -> np.ndarray:
    """The rigid motion (4, 4) of a file's R and T."""
    motion = np.eye(4)
    motion[:3] = np.column_stack([_rotation(path, "R"), _values(path, "T", 3)])
    return motion


def _rotation(path: Path, name: str) -> np.ndarray:
    """The rotation (3, 3) behind a name. Raises InputError when it turns, but also stretches or mirrors."""
    turn = _values(path, name, 9).reshape(3, 3)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=0.01) or np.linalg.det(turn) < 0:
        raise InputError(
            f"{path}: {name!r} is no rotation; copy the drive's calibrations there again."
        )
    return turn


def _values(path: Path, name: str, count: int) -> np.ndarray:
    """The numbers behind a name. Raises KeyError with the path and the name when they are not there."""
    entries = (
        (line.partition(":") for line in read_text(path).splitlines()) if path.is_file() else ()
    )
    found = {tuple(numbers.split()) for key, _, numbers in entries if key == name}
    found = {numbers for numbers in found if len(numbers) == count}
    if len(found) > 1:
        raise InputError(
            f"{path}: has {name!r} of several cameras; copy the drive's own there again."
        )
    try:
        return np.array(found.pop(), np.float64)
    except (KeyError, ValueError):
        raise KeyError(f"{path}: lacks {name!r} with {count} numbers") from None


def _lacks(error: KeyError) -> InputError:
    return InputError(f"{error.args[0]}; copy the drive's calibrations there again.")
