"""Waymo Open, perception v2: one parquet file a segment and component, read with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduv.datasets.truth import Box
from moduv.datasets.waymo.frame import FRONT, TOP, Camera, DriveFrame, Lidar, SolidBox
from moduv.datasets.waymo.parquet import LargeRows, Row, Sensor, read_rows
from moduv.engine.errors import InputError
from moduv.engine.files import reason_of

CAMERA, LASER = ("key.camera_name", FRONT), ("key.laser_name", TOP)
IMAGE = "[CameraImageComponent].image"
RANGES = {
    "lidar": "[LiDARComponent].range_image_return1",
    "lidar_pose": "[LiDARPoseComponent].range_image_return1",
}
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")


def read_tables(source: Path, segment: str, parts: Sequence[str]) -> Iterator[DriveFrame]:
    """Yield the front camera's frames of a segment in order of time.

    Frames are those of the component `vehicle_pose`. With `camera_box`, all count as annotated, since the
    tables do not distinguish an empty frame from one without annotation.

    Args:
        source: folder of the components, e.g. `camera_image/<segment>.parquet`.
        segment: the files' name.
        parts: of camera_image, lidar (with lidar_box where it exists), camera_box, camera_segmentation.

    Raises:
        InputError: naming a missing component or column.
    """
    try:
        yield from _frames(source, segment, parts)
    except KeyError as error:
        raise InputError(
            f"{source}: a component of segment {segment} lacks {error}; download perception v2 again."
        ) from None
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{source}: the components of segment {segment} do not fit each other ({reason_of(error)}); download "
            "perception v2 again."
        ) from None


def _frames(source: Path, segment: str, parts: Sequence[str]) -> Iterator[DriveFrame]:
    def rows(component: str, sensor: Sensor | None = None) -> dict[int, list[Row]]:
        return read_rows(source, component, segment, sensor)

    camera = _camera(_only(rows("camera_calibration", CAMERA)[0]))
    poses = rows("vehicle_pose")
    images, clouds, solids, boxes = None, None, None, None
    if "camera_image" in parts:
        images = LargeRows(source, "camera_image", segment, [IMAGE], CAMERA)
    if "lidar" in parts and (source / "lidar").is_dir():
        clouds = _Clouds(source, segment)
        solids = rows("lidar_box") if (source / "lidar_box").is_dir() else None
    if "camera_box" in parts:
        boxes = rows("camera_box", CAMERA)
    labels = rows("camera_segmentation", CAMERA) if "camera_segmentation" in parts else {}
    if not {*(images.times if images else ()), *(boxes or ()), *labels} <= poses.keys():
        raise ValueError("vehicle_pose lacks a frame")
    for index, time in enumerate(sorted(poses)):
        pose = _transform(_only(poses[time]), "world_from_vehicle")
        label = _only(labels[time]) if time in labels else {}
        yield DriveFrame(
            index,
            camera,
            pose,
            None if images is None else images.at(time)[0][0].as_py(),
            None if clouds is None else clouds.at(time, pose),
            None if solids is None else tuple(_solid(row) for row in solids.get(time, ())),
            None if boxes is None else tuple(_box(row) for row in boxes.get(time, ())),
            label.get("panoptic_label"),
            int(label.get("panoptic_label_divisor", 1)),
        )


def _only(rows: Sequence[Row]) -> Row:
    """The one row of a sensor or a time. Raises ValueError when there are more, or none."""
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows where one is needed")
    return rows[0]


def _camera(row: Row) -> Camera:
    lens = np.array([row[f"intrinsic.{key}"] for key in LENS], np.float64)
    return Camera(lens, _transform(row, "extrinsic"), int(row["width"]), int(row["height"]))


def _transform(row: Row, name: str) -> np.ndarray:
    return np.array(row[f"{name}.transform"], np.float64).reshape(4, 4)


def _box(row: Row) -> tuple[int, Box]:
    keys = ("box.center.x", "box.center.y", "box.size.x", "box.size.y")
    x, y, width, height = (float(row[key]) for key in keys)
    return int(row["type"]), (x - width / 2, y - height / 2, width, height)


def _solid(row: Row) -> SolidBox:
    x, y, z = (float(row[f"box.center.{axis}"]) for axis in "xyz")
    length, width, height = (float(row[f"box.size.{axis}"]) for axis in "xyz")
    speeds = [row[f"speed.{axis}"] for axis in "xyz"]
    known = None not in speeds and np.isfinite(speeds).all()
    speed = float(np.linalg.norm(speeds)) if known else None
    size, heading = (length, width, height), float(row["box.heading"])
    return SolidBox(int(row["type"]), (x, y, z), size, heading, speed)


class _Clouds:
    """The roof's lidar of a segment, by time."""

    def __init__(self, source: Path, segment: str) -> None:
        row = _only(read_rows(source, "lidar_calibration", segment, LASER)[0])
        inclinations = np.array(row["beam_inclination.values"] or [], np.float64)
        limits = (float(row["beam_inclination.min"]), float(row["beam_inclination.max"]))
        self._lidar = Lidar(_transform(row, "extrinsic"), inclinations, limits)
        self._rows = [
            LargeRows(source, component, segment, [f"{name}.values", f"{name}.shape"], LASER)
            for component, name in RANGES.items()
            if (source / component).is_dir()
        ]

    def at(self, time: int, world_from_vehicle: np.ndarray) -> np.ndarray | None:
        image, poses = [*(_array(rows.at(time)) for rows in self._rows), None][:2]
        return None if image is None else self._lidar.points(image, poses, world_from_vehicle)


def _array(row: list[Any]) -> np.ndarray | None:
    """The float32 array of which a row holds the values and the shape."""
    if not row:
        return None
    values, shape = (column.flatten() for column in row)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(shape.to_pylist())
