"""Waymo Open, perception v1: tfrecords of `Frame` messages, read without TensorFlow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from moduv.datasets.prepare import LARGEST_SCAN
from moduv.datasets.truth import Box
from moduv.datasets.waymo.frame import FRONT, TOP, Camera, DriveFrame, Lidar, SolidBox
from moduv.engine.errors import InputError
from moduv.engine.files import reason_of

SCHEMA = {
    "Frame": "1 context:Context 2 time:int 3 pose:Transform 4 images:Image* 5 lasers:Laser* 6 laser_labels:Label* "
    "8 camera_labels:CameraLabels*",
    "Context": "2 cameras:Camera* 3 lasers:LaserCalibration*",
    "Transform": "1 transform:double*",
    "Camera": "1 name:int 2 intrinsic:double* 3 extrinsic:Transform 4 width:int 5 height:int",
    "LaserCalibration": "1 name:int 2 inclinations:double* 3 lowest:double 4 highest:double "
    "5 extrinsic:Transform",
    "Image": "1 name:int 2 image:bytes 10 segmentation:Segmentation",
    "Segmentation": "1 divisor:int 2 panoptic:bytes",
    "Laser": "1 name:int 2 first:RangeImage",
    "RangeImage": "2 values:bytes 4 poses:bytes",
    "Matrix": "1 data:bytes 2 shape:Shape",  # the packed floats as they are
    "Shape": "1 dims:int*",
    "CameraLabels": "1 name:int 2 labels:Label*",
    "Label": "1 box:Box 2 metadata:Metadata 3 type:int",
    "Box": "1 x:double 2 y:double 3 z:double 4 width:double 5 length:double 6 height:double "
    "7 heading:double",
    "Metadata": "1 speed_x:double 2 speed_y:double 5 speed_z:double",
}
"""The fields that are read, by the numbers of Waymo's public dataset.proto; * repeated."""
POLYNOMIAL, MASK = 0x82F63B78, 0xA282EAD8
"""Castagnoli's, reflected, and what is added: the checksum of tfrecords."""


def read_records(path: Path, parts: Iterable[str]) -> Iterator[DriveFrame]:
    """Yield the frames of a segment's tfrecord, in order.

    Args:
        path: the tfrecord.
        parts: `lidar`, where points and their boxes are wanted; the rest is there anyway.

    Raises:
        InputError: when the file is cut, damaged, or no recording of Waymo's, and when its frames are not in the
            order of time.
    """
    before = 0
    for number, record in enumerate(_contents(path)):
        try:
            message = _message("Frame", record)
            frame = _frame(number, message, points="lidar" in parts)
        except (KeyError, ValueError, IndexError, DecodeError, zlib.error) as error:
            raise InputError(
                f"{path}: record {number} is no frame of Waymo Open perception v1 with a front camera "
                f"({reason_of(error)}); download the segment again."
            ) from None
        if 0 < message.time <= before:
            raise InputError(
                f"{path}: record {number} is of the time {message.time} and the one before of {before}; download "
                "the segment again, whose frames are in the order of time."
            )
        before = message.time
        yield frame


def _contents(path: Path) -> Iterator[bytes]:
    """The contents of a tfrecord: length, checksum of the length, content, checksum of the content."""
    most = path.stat().st_size
    with path.open("rb") as stream:
        while head := stream.read(12):
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            whole = len(head) == 12 and size <= most and checksum(head[:8]) == head[8:]
            content = stream.read(size) if whole else b""
            if not whole or len(content) != size or checksum(content) != stream.read(4):
                raise InputError(
                    f"{path}: is cut or damaged at byte {stream.tell()}; download the segment again."
                )
            yield content


def checksum(content: bytes) -> bytes:
    """Return the masked CRC-32C that tfrecords store, 4 bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    crc = int(_crc(np.frombuffer(content, np.uint8), table))
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + MASK) & 0xFFFFFFFF)


@numba.njit(cache=True)
def _crc(content: np.ndarray, table: np.ndarray) -> np.uint32:
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """`SCHEMA` as protocol buffers."""
    file = descriptor_pb2.FileDescriptorProto(name="waymo.proto")
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"int": field.TYPE_INT64, "double": field.TYPE_DOUBLE, "bytes": field.TYPE_BYTES}
    for name, fields in SCHEMA.items():
        message, words = file.message_type.add(name=name), fields.split()
        for number, word in zip(words[::2], words[1::2], strict=True):
            key, kind = word.rstrip("*").split(":")
            label = field.LABEL_REPEATED if word.endswith("*") else field.LABEL_OPTIONAL
            added = message.field.add(name=key, number=int(number), label=label)
            added.type = kinds.get(kind, field.TYPE_MESSAGE)
            if kind not in kinds:
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _message(kind: str, content: bytes) -> Any:
    """Parse a message. Raises DecodeError when it is cut."""
    described = _pool().FindMessageTypeByName(kind)
    return message_factory.GetMessageClass(described).FromString(content)


def _frame(number: int, frame: Any, *, points: bool) -> DriveFrame:
    image = _named(frame.images, FRONT)
    if not image.image:
        raise ValueError("no picture")
    calibration = _named(frame.context.cameras, FRONT)
    size = calibration.width, calibration.height
    camera = Camera(np.array(calibration.intrinsic), _transform(calibration.extrinsic), *size)
    # A camera without an entry, and a frame without any solid, was not annotated.
    labels = [entry.labels for entry in frame.camera_labels if entry.name == FRONT]
    segmented = image.HasField("segmentation")
    pose = _transform(frame.pose)
    return DriveFrame(
        number,
        camera,
        pose,
        image.image,
        _points(frame, pose) if points and frame.lasers else None,
        tuple(_solid(label) for label in frame.laser_labels) or None if points else None,
        tuple((label.type, _box(label.box)) for label in labels[0]) if labels else None,
        image.segmentation.panoptic if segmented else None,
        image.segmentation.divisor,
    )


def _box(box: Any) -> Box:
    """In an image, height lies along y, which `width` names."""
    return box.x - box.length / 2, box.y - box.width / 2, box.length, box.width


def _solid(label: Any) -> SolidBox:
    box, motion = label.box, label.metadata
    known = motion.HasField("speed_x") and motion.HasField("speed_y")
    speed = float(np.linalg.norm([motion.speed_x, motion.speed_y, motion.speed_z]))
    size, centre = (box.length, box.width, box.height), (box.x, box.y, box.z)
    known = known and np.isfinite(speed)
    return SolidBox(label.type, centre, size, box.heading, speed if known else None)


def _points(frame: Any, pose: np.ndarray) -> np.ndarray:
    """First returns of the roof's lidar (N, 3) in the vehicle's coordinates, metres."""
    first = _named(frame.lasers, TOP).first
    laser = _named(frame.context.lasers, TOP)
    inclinations, limits = np.array(laser.inclinations), (laser.lowest, laser.highest)
    lidar = Lidar(_transform(laser.extrinsic), inclinations, limits)
    return lidar.points(_matrix(first.values), _matrix(first.poses) if first.poses else None, pose)


def _matrix(compressed: bytes) -> np.ndarray:
    stream = zlib.decompressobj()
    content = stream.decompress(compressed, LARGEST_SCAN)
    if not stream.eof:
        raise ValueError("a range image is cut, or larger than any")
    message = _message("Matrix", content)
    return np.frombuffer(message.data, "<f4").reshape(list(message.shape.dims))


def _transform(message: Any) -> np.ndarray:
    return np.array(message.transform).reshape(4, 4)


def _named(messages: Iterable[Any], name: int) -> Any:
    """The message of a sensor. Raises ValueError when there is none, or more than one."""
    found = [message for message in messages if message.name == name]
    if len(found) != 1:
        raise ValueError(f"{len(found)} entries of a sensor instead of one")
    return found[0]
