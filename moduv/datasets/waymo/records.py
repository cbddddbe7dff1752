"""Waymo Open, perception v1: tfrecords of `Frame` messages, read without TensorFlow.

A tfrecord is a row of length, checksum of the length, content, checksum of the content. The content is
a protocol buffer; only the fields named here are read, by the numbers of Waymo's public schema
(dataset.proto): Frame {context 1, pose 3, images 4, lasers 5}, Context {camera_calibrations 2,
laser_calibrations 3}, CameraCalibration {name 1, intrinsic 2, extrinsic 3, width 4, height 5},
LaserCalibration {name 1, inclinations 2, min 3, max 4, extrinsic 5}, CameraImage {name 1, image 2},
Laser {name 1, first return 2}, RangeImage {values 2, poses 4}, Matrix {data 1, shape 2}. Of labels:
Frame {laser_labels 6, camera_labels 8}, CameraImage {camera_segmentation_label 10},
CameraSegmentationLabel {divisor 1, panoptic_label 2}, CameraLabels {name 1, labels 2}, Label {box 1,
metadata 2, type 3}, Box {center_x 1, center_y 2, center_z 3, width 4 along y, length 5 along x, height 6,
heading 7}, Metadata {speed_x 1, speed_y 2, speed_z 5}.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numba
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
from moduv.engine.errors import InputError

Fields = dict[int, list[int | bytes]]
Content = TypeVar("Content")
POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected: the checksum of tfrecords."""
MASK = 0xA282EAD8


def read_drive(path: Path, *, points: bool) -> Iterator[DriveFrame]:
    """Yield the front camera's frames of a segment's tfrecord, in order.

    Raises InputError when the file is cut, damaged, or no recording of Waymo's.
    """
    return _read(path, lambda _, frame: _frame(frame, points=points))


def read_drive_labels(path: Path) -> Iterator[FrameLabels]:
    """Yield the annotations of the front camera's frames of a segment's tfrecord, in order.

    Raises InputError when the file is cut, damaged, or no recording of Waymo's.
    """
    return _read(path, _labels)


def _read(path: Path, reader: Callable[[int, Fields], Content]) -> Iterator[Content]:
    """What `reader` makes of each frame and its number."""
    for number, record in enumerate(read_records(path)):
        try:
            yield reader(number, parse(record))
        except (KeyError, IndexError, ValueError, struct.error, zlib.error):
            raise InputError(
                f"{path}: record {number} is no frame of Waymo Open perception v1 with a front camera; "
                "download the segment again."
            ) from None


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the contents of a tfrecord. Raises InputError where a checksum or a length is wrong."""
    with path.open("rb") as stream:
        while head := stream.read(12):
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            whole = len(head) == 12 and _masked(head[:8]) == struct.unpack("<I", head[8:])[0]
            content = stream.read(size) if whole else b""
            foot = stream.read(4) if whole else b""
            whole = whole and len(foot) == 4 and len(content) == size
            if not whole or _masked(content) != struct.unpack("<I", foot)[0]:
                raise InputError(
                    f"{path}: is cut or damaged at byte {stream.tell()}; download the segment again."
                )
            yield content


def _masked(content: bytes) -> int:
    """The masked checksum that tfrecords store."""
    crc = int(_crc(np.frombuffer(content, np.uint8), _table()))
    return (((crc >> 15) | (crc << 17)) + MASK) & 0xFFFFFFFF


def _table() -> np.ndarray:
    rows = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rows = np.where(rows & 1, (rows >> 1) ^ np.uint32(POLYNOMIAL), rows >> 1)
    return rows.astype(np.uint32)


@numba.njit(cache=True)
def _crc(content: np.ndarray, table: np.ndarray) -> np.uint32:
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


def _frame(frame: Fields, *, points: bool) -> DriveFrame:
    context = parse(_bytes(frame, 1))
    pose = _transform(frame, 3)
    image = _bytes(_named(frame, 4, FRONT), 2)
    cloud = _points(frame, context, pose) if points and 5 in frame else None
    solids = [parse(label) for label in frame.get(6, []) if isinstance(label, bytes)]
    # A frame without any label is taken for one that was not annotated, as in the test split.
    known = tuple(_solid(label) for label in solids) if points and solids else None
    return DriveFrame(image, pose, _camera(context), cloud, known)


def _camera(context: Fields) -> Camera:
    calibration = _named(context, 2, FRONT)
    return Camera(
        _doubles(calibration, 2),
        _transform(calibration, 3),
        int(_number(calibration, 4)),
        int(_number(calibration, 5)),
    )


def _labels(number: int, frame: Fields) -> FrameLabels:
    camera = _camera(parse(_bytes(frame, 1)))
    image = _named(frame, 4, FRONT)
    try:
        labels = _named(frame, 8, FRONT).get(2, [])
        boxes = tuple(_box(parse(label)) for label in labels if isinstance(label, bytes))
    except KeyError:  # a camera without an entry was not labelled
        boxes = None
    if 10 not in image:
        return FrameLabels(number, camera, boxes, None)
    panoptic = parse(_bytes(image, 10))
    return FrameLabels(number, camera, boxes, _bytes(panoptic, 2), int(_number(panoptic, 1)))


def _box(label: Fields) -> LabelledBox:
    box = parse(_bytes(label, 1))
    kind = _number(label, 3) if 3 in label else 0
    x, y, height, width = (_double(box, key) for key in (1, 2, 4, 5))
    return LabelledBox(kind, (x - width / 2, y - height / 2, width, height))


def _solid(label: Fields) -> SolidBox:
    box = parse(_bytes(label, 1))
    x, y, z, width, length, height, heading = (_double(box, key) for key in range(1, 8))
    motion = parse(_bytes(label, 2)) if 2 in label else {}
    speed = float(np.linalg.norm([_double(motion, key) for key in (1, 2, 5)]))
    kind = _number(label, 3) if 3 in label else 0
    known = speed if 1 in motion and 2 in motion else None
    return SolidBox(kind, (x, y, z), (length, width, height), heading, known)


def _points(frame: Fields, context: Fields, pose: np.ndarray) -> np.ndarray:
    """First returns of the roof's lidar (N, 3) in the vehicle's coordinates, metres."""
    laser, calibration = _named(frame, 5, TOP), _named(context, 3, TOP)
    returned = parse(_bytes(laser, 2))
    lidar = Lidar(
        _transform(calibration, 5),
        _doubles(calibration, 2) if 2 in calibration else np.empty(0),
        *(_double(calibration, key) for key in (3, 4)),
    )
    poses = _matrix(_bytes(returned, 4)) if 4 in returned else None
    return range_image_points(_matrix(_bytes(returned, 2)), lidar, poses, pose)


def _matrix(compressed: bytes) -> np.ndarray:
    """A float matrix: packed data and the message of its shape."""
    content = parse(zlib.decompress(compressed))
    shape = parse(_bytes(content, 2))
    packed = _bytes(shape, 1)
    return np.frombuffer(_bytes(content, 1), "<f4").reshape(list(_varints(packed)))


def parse(message: bytes) -> Fields:
    """Parse a message into its fields by number: integers as they are, everything else as bytes."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == 0:
            value, position = _varint(message, position)
        else:
            if kind == 2:
                size, position = _varint(message, position)
            else:
                size = {1: 8, 5: 4}[kind]
            value = message[position : position + size]
            position += size
            if position > len(message):
                raise ValueError("the message is cut")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varints(packed: bytes) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields[number][0]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no message")
    return value


def _number(fields: Fields, number: int) -> int:
    value = fields[number][0]
    if isinstance(value, bytes):
        raise ValueError(f"field {number} is no integer")
    return value


def _doubles(fields: Fields, number: int) -> np.ndarray:
    """Repeated doubles, packed into one value or one value each."""
    return np.frombuffer(
        b"".join(value for value in fields[number] if isinstance(value, bytes)), "<f8"
    )


def _double(fields: Fields, number: int) -> float:
    return float(np.frombuffer(_bytes(fields, number), "<f8")[0]) if number in fields else 0.0


def _transform(fields: Fields, number: int) -> np.ndarray:
    """A 4 x 4 transform."""
    return _doubles(parse(_bytes(fields, number)), 1).reshape(4, 4)


def _named(fields: Fields, number: int, name: int) -> Fields:
    """The message among repeated ones whose field 1 is `name`."""
    for value in fields[number]:
        if isinstance(value, bytes):
            message = parse(value)
            if message.get(1, [0])[0] == name:
                return message
    raise KeyError(number)
