"""Waymo Open, perception v2: one parquet file a segment and component, read with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from moduv.datasets.waymo.frame import (
    FRONT,
    TOP,
    Camera,
    DriveFrame,
    FrameLabels,
    LabelledBox,
    Lidar,
    SolidBox,
    range_image_points,
)
from moduv.datasets.waymo.parquet import TIME, LargeRows, Row, array_of, read_rows
from moduv.engine.errors import InputError

CAMERA_NAME, LASER_NAME = "key.camera_name", "key.laser_name"
IMAGE = "[CameraImageComponent].image"
RANGES, POSES = (f"[{name}Component].range_image_return1" for name in ("LiDAR", "LiDARPose"))
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
Frame = TypeVar("Frame")


def read_tables(source: Path, segment: str, *, points: bool) -> Iterator[DriveFrame]:
    """Yield the front camera's frames of a segment in order of time.

    Args:
        source: folder of the components, e.g. `camera_image/<segment>.parquet`.
        points: also read the roof's lidar and its boxes, where their components exist.

    Raises:
        InputError: naming a missing component or column.
    """
    return _whole(source, segment, _frames(source, segment, points=points))


def _frames(source: Path, segment: str, *, points: bool) -> Iterator[DriveFrame]:
    camera = _camera(source, segment)
    poses = {row[TIME]: row for row in read_rows(source, "vehicle_pose", segment)}
    clouds = _Clouds(source, segment) if points and (source / "lidar").is_dir() else None
    solids = _solids(source, segment) if clouds and (source / "lidar_box").is_dir() else None
    images = LargeRows(source, "camera_image", segment, [IMAGE], CAMERA_NAME, FRONT)
    for time in images.times:
        row = images.at(time)
        assert row is not None
        pose = poses[time]["[VehiclePoseComponent].world_from_vehicle.transform"]
        world_from_vehicle = np.array(pose, np.float64).reshape(4, 4)
        cloud = None if clouds is None else clouds.at(time, world_from_vehicle)
        known = None if solids is None else tuple(solids.get(time, ()))
        yield DriveFrame(row[IMAGE][0].as_py(), world_from_vehicle, camera, cloud, known)


def read_table_labels(source: Path, segment: str, component: str) -> Iterator[FrameLabels]:
    """Yield the annotations of the front camera's frames of a segment in order of time.

    Frames are numbered by the component `vehicle_pose`, which has all of them. All frames count as
    annotated with boxes, since the tables do not distinguish an empty frame from one without annotation.

    Args:
        source: folder of the components.
        component: camera_box or camera_segmentation.

    Raises:
        InputError: naming a component that is missing or does not match the others.
    """
    return _whole(source, segment, _labels(source, segment, component))


def _whole(source: Path, segment: str, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames; a column or a frame's row that a component lacks is named, and so is other damage."""
    try:
        yield from frames
    except KeyError as error:
        raise InputError(
            f"{source}: a component of segment {segment} lacks {error}; download perception v2 again."
        ) from None
    except (IndexError, TypeError, ValueError):
        raise InputError(
            f"{source}: the components of segment {segment} do not fit each other; download perception v2 "
            "again."
        ) from None


def _labels(source: Path, segment: str, component: str) -> Iterator[FrameLabels]:
    camera = _camera(source, segment)
    times = sorted({int(row[TIME]) for row in read_rows(source, "vehicle_pose", segment)})
    of_time: dict[int, list[Row]] = {time: [] for time in times}
    for row in read_rows(source, component, segment, CAMERA_NAME, FRONT, may_lack=True):
        if int(row[TIME]) not in of_time:
            raise InputError(
                f"{source / component / segment}.parquet: has a frame that vehicle_pose lacks; download "
                "both components of this segment again."
            )
        of_time[int(row[TIME])].append(row)
    for index, time in enumerate(times):
        rows = of_time[time]
        if component == "camera_box":
            yield FrameLabels(index, camera, tuple(_box(row) for row in rows), None)
        elif rows:
            prefix = "[CameraSegmentationLabelComponent].panoptic_label"
            divisor = int(rows[0][f"{prefix}_divisor"])
            yield FrameLabels(index, camera, None, rows[0][prefix], divisor)


def _box(row: Row) -> LabelledBox:
    prefix = "[CameraBoxComponent]."
    x, y, width, height = (
        float(row[f"{prefix}box.{key}"]) for key in ("center.x", "center.y", "size.x", "size.y")
    )
    return LabelledBox(int(row[f"{prefix}type"]), (x - width / 2, y - height / 2, width, height))


def _camera(source: Path, segment: str) -> Camera:
    calibration = read_rows(source, "camera_calibration", segment, CAMERA_NAME, FRONT)[0]
    prefix = "[CameraCalibrationComponent]."
    return Camera(
        np.array([calibration[f"{prefix}intrinsic.{key}"] for key in LENS], np.float64),
        np.array(calibration[f"{prefix}extrinsic.transform"], np.float64).reshape(4, 4),
        int(calibration[f"{prefix}width"]),
        int(calibration[f"{prefix}height"]),
    )


def _solids(source: Path, segment: str) -> dict[int, list[SolidBox]]:
    """The boxes of a segment by time."""
    found: dict[int, list[SolidBox]] = {}
    for row in read_rows(source, "lidar_box", segment, may_lack=True):
        found.setdefault(row[TIME], []).append(_solid(row))
    return found


def _solid(row: Row) -> SolidBox:
    prefix = "[LiDARBoxComponent]."
    x, y, z = (float(row[f"{prefix}box.center.{axis}"]) for axis in "xyz")
    length, width, height = (float(row[f"{prefix}box.size.{axis}"]) for axis in "xyz")
    speeds = [row[f"{prefix}speed.{axis}"] for axis in "xyz"]
    known = None if None in speeds else float(np.linalg.norm(speeds))
    kind, heading = int(row[f"{prefix}type"]), float(row[f"{prefix}box.heading"])
    return SolidBox(kind, (x, y, z), (length, width, height), heading, known)


class _Clouds:
    """The roof's lidar of a segment, by time."""

    def __init__(self, source: Path, segment: str) -> None:
        calibration = read_rows(source, "lidar_calibration", segment, LASER_NAME, TOP)[0]
        prefix = "[LiDARCalibrationComponent]."
        values = calibration[f"{prefix}beam_inclination.values"]
        self._lidar = Lidar(
            np.array(calibration[f"{prefix}extrinsic.transform"], np.float64).reshape(4, 4),
            np.array([] if values is None else values, np.float64),
            float(calibration[f"{prefix}beam_inclination.min"]),
            float(calibration[f"{prefix}beam_inclination.max"]),
        )
        self._images = _range_images(source, "lidar", segment, RANGES)
        has_poses = (source / "lidar_pose").is_dir()
        self._poses = _range_images(source, "lidar_pose", segment, POSES) if has_poses else None

    def at(self, time: int, world_from_vehicle: np.ndarray) -> np.ndarray | None:
        row = self._images.at(time)
        if row is None:
            return None
        image = array_of(row, RANGES)
        row = None if self._poses is None else self._poses.at(time)
        poses = None if row is None else array_of(row, POSES)
        return range_image_points(image, self._lidar, poses, world_from_vehicle)


def _range_images(source: Path, component: str, segment: str, column: str) -> LargeRows:
    columns = [f"{column}.values", f"{column}.shape"]
    return LargeRows(source, component, segment, columns, LASER_NAME, TOP)
