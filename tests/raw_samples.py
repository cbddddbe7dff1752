"""Small raw recordings in the public forms of Cityscapes, KITTI, nuScenes and Waymo, made from one known scene.

The scene is a wall at 10 m and a road under the camera, seen by a camera that drives ahead; the lidar's
points are exact, so prepared depths can be compared with the scene.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moduv.datasets.waymo.records import checksum
from moduv.frames.video_writer import write_video

HEIGHT, WIDTH, FOCAL = 64, 96, 70.0
WALL = 10.0
FRAMES = 4
STEP = 0.5
"""Metres a frame."""


def picture(index: int) -> np.ndarray:
    """A frame (H, W, 3) uint8: smooth colours that shift."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (8, 14, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (WIDTH + 8, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return wide[:, index : index + WIDTH]


def encoded(index: int, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, picture(index)[..., ::-1])[1])


def wall_points() -> np.ndarray:
    """Points (N, 3) on the wall in camera coordinates (x right, y down, z ahead), metres."""
    x, y = np.meshgrid(np.linspace(-6, 6, 25), np.linspace(-3, 3, 13))
    return np.stack([x, y, np.full_like(x, WALL)], -1).reshape(-1, 3)


# --- KITTI ----------------------------------------------------------------------------------------


def write_kitti(root: Path) -> Path:
    """One drive of one camera."""
    day = root / "2011_09_26"
    drive = day / "2011_09_26_drive_0009_sync"
    for folder in ("image_02/data", "velodyne_points/data"):
        (drive / folder).mkdir(parents=True)
    identity = "1 0 0 0 1 0 0 0 1"
    projection = f"{FOCAL} 0 {WIDTH / 2} 0 0 {FOCAL} {HEIGHT / 2} 0 0 0 1 0"
    (day / "calib_cam_to_cam.txt").write_text(
        f"calib_time: today\nS_rect_02: {WIDTH} {HEIGHT}\nR_rect_00: {identity}\nP_rect_02: {projection}\n"
    )
    # The scanner looks along x, with y to the left and z up, at the camera's place.
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    (day / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")
    write_oxts(drive, [[STEP * index, 0, 0] for index in range(FRAMES)])
    x, y, z = wall_points().T
    scan = np.stack([z, -x, -y, np.ones_like(x)], 1).astype(np.float32)
    for index in range(FRAMES):
        (drive / f"image_02/data/{index:010d}.png").write_bytes(encoded(index, ".png"))
        scan.tofile(drive / f"velodyne_points/data/{index:010d}.bin")
    return root


def write_oxts(
    drive: Path, places: Sequence[Sequence[float]], angles: Sequence[Sequence[float]] = ()
) -> None:
    """A vehicle at places east, north, up of Karlsruhe in metres; roll, pitch, yaw, without: zeros."""
    latitude, longitude, radius = 49.0, 8.4, 6378137.0
    (drive / "oxts/data").mkdir(parents=True, exist_ok=True)
    for index, (east, north, up) in enumerate(places):
        place = (
            latitude + np.degrees(north / radius),
            longitude + np.degrees(east / (radius * np.cos(np.radians(latitude)))),
            110 + up,
        )
        values = [*place, *(angles[index] if angles else (0, 0, 0)), 1.5, -2.5]
        line = " ".join(repr(float(value)) for value in values)
        (drive / f"oxts/data/{index:010d}.txt").write_text(line + "\n")


# --- Cityscapes -----------------------------------------------------------------------------------


def write_cityscapes(root: Path) -> Path:
    """A snippet of seven frames around the annotated one, whose disparity is that of the wall."""
    name, baseline = "aachen_000003_000019", 0.2
    for index, number in enumerate(range(14, 23)):
        path = root / f"leftImg8bit_sequence/val/aachen/aachen_000003_{number:06d}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index % 8, ".png"))
    camera = {
        "intrinsic": {"fx": FOCAL, "fy": FOCAL, "u0": WIDTH / 2, "v0": HEIGHT / 2},
        "extrinsic": {"baseline": baseline},
    }
    disparity = np.full((HEIGHT, WIDTH), round(256 * FOCAL * baseline / WALL) + 1, np.uint16)
    disparity[:, :10] = 0  # not known
    mover = np.zeros((HEIGHT, WIDTH), np.uint8)
    mover[20:40, 30:50] = 255
    for place, content in {
        f"camera/val/aachen/{name}_camera.json": json.dumps(camera).encode(),
        f"disparity/val/aachen/{name}_disparity.png": bytes(cv2.imencode(".png", disparity)[1]),
        f"movers/val_mask_class/aachen/{name}/0.png": bytes(cv2.imencode(".png", mover)[1]),
    }.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    return root


# --- ImageNet-VID ---------------------------------------------------------------------------------

VID_TRAIN = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
VID_VAL = "val/ILSVRC2015_val_00000000"


def write_imagenet_vid(root: Path) -> Path:
    """A video of training as a file, one of validation as frames."""
    file = root / f"Data/VID/snippets/{VID_TRAIN}.mp4"
    file.parent.mkdir(parents=True)
    write_video(file, ((n / 25, picture(n)) for n in range(FRAMES)), Fraction(25))
    folder = root / "Data/VID" / VID_VAL
    folder.mkdir(parents=True)
    for index in range(FRAMES):
        (folder / f"{index:06d}.JPEG").write_bytes(encoded(index, ".jpg"))
    return root


# --- nuScenes -------------------------------------------------------------------------------------


def write_nuscenes(root: Path) -> Path:
    """One scene; a moving and a standing box stand on the wall at its first key frame."""
    version = root / "v1.0-mini"
    version.mkdir(parents=True)
    still = {"rotation": [1, 0, 0, 0], "translation": [0, 0, 0]}
    # Camera axes in the vehicle's: ahead is x, right is -y, down is -z.
    looks = {"rotation": [0.5, -0.5, 0.5, -0.5], "translation": [1, 0, 1.5]}
    matrix = [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
    tables: dict[str, list[dict[str, Any]]] = {
        "sensor": [{"token": "c", "channel": "CAM_FRONT"}, {"token": "l", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [
            {"token": "cc", "sensor_token": "c", "camera_intrinsic": matrix, **looks},
            {"token": "cl", "sensor_token": "l", "camera_intrinsic": [], **looks},
        ],
        "scene": [{"token": "s", "name": "scene-0001", "first_sample_token": "k0"}],
        "sample": [{"token": f"k{i}", "timestamp": i * 500_000} for i in range(2)],
        "sample_data": [],
        "ego_pose": [],
        "sample_annotation": [],
    }
    common = {"width": WIDTH, "height": HEIGHT}
    for index in range(FRAMES):
        name = f"samples/CAM_FRONT/{index}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(index, ".jpg"))
        tables["ego_pose"].append(
            {"token": f"p{index}", **still, "translation": [STEP * index, 0, 0]}
        )
        tables["sample_data"].append(
            {
                **common,
                **{"token": f"d{index}", "sample_token": "k0" if index < 2 else "k1"},
                **{"calibrated_sensor_token": "cc", "ego_pose_token": f"p{index}"},
                **{"filename": name, "timestamp": index * 100_000, "is_key_frame": index == 0},
                "next": f"d{index + 1}" if index + 1 < FRAMES else "",
            }
        )
    scan = root / "samples/LIDAR_TOP/0.bin"
    scan.parent.mkdir(parents=True)
    points = wall_points()
    np.column_stack([points, np.zeros((len(points), 2))]).astype(np.float32).tofile(scan)
    tables["sample_data"].append(
        {
            **{"token": "dl", "sample_token": "k0", "calibrated_sensor_token": "cl"},
            **{"ego_pose_token": "p0", "filename": "samples/LIDAR_TOP/0.bin", "timestamp": 0},
            **{"is_key_frame": True, "next": "", "width": 0, "height": 0},
        }
    )
    # World axes are the vehicle's at the start: the wall stands at x = 1 + 10.
    for name, y, speed in (("fast", -3.0, 2.0), ("slow", 3.0, 0.0)):
        for sample in range(2):
            place = [1 + WALL + speed * 0.5 * sample, y, 1.5]
            tables["sample_annotation"].append(
                {
                    **{"token": f"{name}{sample}", "sample_token": f"k{sample}"},
                    **{"translation": place, "rotation": [1, 0, 0, 0], "size": [2, 2, 4]},
                    "prev": f"{name}0" if sample else "",
                    "next": "" if sample else f"{name}1",
                }
            )
    for table, rows in tables.items():
        (version / f"{table}.json").write_text(json.dumps(rows))
    return root


# --- Waymo ----------------------------------------------------------------------------------------

CAMERA_HEIGHT = 1.5
LIDAR_HEIGHT = 2.0
BEAMS = np.linspace(-0.3, 0.15, 12)
COLUMNS = 120


def range_image() -> np.ndarray:
    """The wall 10 m ahead of the camera as the roof's lidar sees it, (12, 120, 4)."""
    up = BEAMS[::-1][:, None]
    share = (COLUMNS - np.arange(COLUMNS) - 0.5) / COLUMNS
    azimuth = (2 * share - 1) * np.pi
    ahead = np.cos(azimuth) * np.cos(up)
    distance = np.where(ahead > 0.3, WALL / np.maximum(ahead, 0.3), -1.0)
    image = np.zeros((len(BEAMS), COLUMNS, 4), np.float32)
    image[..., 0] = distance
    return image


def mounted(height: float) -> np.ndarray:
    pose = np.eye(4)
    pose[2, 3] = height
    return pose


def world_pose(index: int) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = 100 + STEP * index
    return pose


def pixel_poses(index: int) -> np.ndarray:
    """Every pixel was measured at the frame's time, (12, 120, 6)."""
    poses = np.zeros((len(BEAMS), COLUMNS, 6), np.float32)
    poses[..., 3] = 100 + STEP * index
    return poses


BOXES = (
    (1, (WALL, -3.0, 1.5), (3.0, 1.0, 2.0), np.pi / 2, (0.8, -0.8, 0.0)),
    (1, (WALL, 3.0, 1.5), (3.0, 1.0, 2.0), np.pi / 2, (0.5, 0.0, 0.0)),
    (3, (WALL, 0.0, 1.5), (1.0, 1.0, 2.0), 0.0, (0.0, 0.0, 0.0)),
)
"""Kind, centre, size, heading, speed: a moving and a parked car across the wall, and a sign."""
LENS = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.01, -0.001, 0.0, 0.0, 0.0]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def transform(pose: np.ndarray) -> bytes:
    return field(1, np.asarray(pose, "<f8").tobytes())


def matrix(values: np.ndarray) -> bytes:
    shape = field(1, b"".join(varint(side) for side in values.shape))
    return zlib.compress(field(1, values.astype("<f4").tobytes()) + field(2, shape))


def laser_labels() -> bytes:
    """The boxes as fields of a frame of perception v1."""
    labels = []
    for kind, (x, y, z), (length, width, height), heading, speed in BOXES:
        numbers = (x, y, z, width, length, height, heading)
        box = b"".join(field(key, value) for key, value in enumerate(numbers, 1))
        motion = b"".join(field(key, v) for key, v in zip((1, 2, 5), speed, strict=True))
        labels.append(field(6, field(1, box) + field(2, motion) + field(3, kind)))
    return b"".join(labels)


def waymo_record(index: int, panoptic: bytes = b"", labels: bytes = b"") -> bytes:
    """A serialised frame of perception v1, with a second camera that is to be passed over.

    panoptic, labels  more fields of the front camera's image, and of the frame
    """
    unpacked = b"".join(field(2, value) for value in LENS)
    camera = field(1, 1) + unpacked + field(3, transform(mounted(CAMERA_HEIGHT)))
    camera += field(4, WIDTH) + field(5, HEIGHT)
    laser = field(1, 1) + field(2, BEAMS.astype("<f8").tobytes())
    laser += field(5, transform(mounted(LIDAR_HEIGHT)))
    context = field(1, b"drive") + field(2, field(1, 2)) + field(2, camera) + field(3, laser)
    returned = field(2, matrix(range_image())) + field(4, matrix(pixel_poses(index)))
    frame = field(1, context) + field(2, index * 100_000) + field(3, transform(world_pose(index)))
    frame += field(4, field(1, 2) + field(2, b"no picture"))
    frame += field(4, field(1, 1) + field(2, encoded(index, ".jpg")) + panoptic)
    return frame + field(5, field(1, 1) + field(2, returned)) + laser_labels() + labels


def write_waymo_records(root: Path, records: Sequence[bytes] | None = None) -> Path:
    """One segment of perception v1."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "segment-123_with_camera_labels.tfrecord").open("wb") as stream:
        for record in records or [waymo_record(index) for index in range(FRAMES)]:
            size = struct.pack("<Q", len(record))
            stream.write(size + checksum(size))
            stream.write(record + checksum(record))
    return root


def write_waymo_tables(root: Path) -> Path:
    """The same segment in perception v2."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    times = [1_000_000 + 100_000 * index for index in range(FRAMES)]
    camera, pose = "[CameraCalibrationComponent].", "[VehiclePoseComponent]."
    lidar, clouds = "[LiDARCalibrationComponent].", "[LiDARComponent].range_image_return1."
    pixels, solid = "[LiDARPoseComponent].range_image_return1.", "[LiDARBoxComponent]."
    names = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    front = {"key.camera_name": 1}
    components: dict[str, list[dict[str, Any]]] = {
        "camera_calibration": [
            {
                **front,
                **{f"{camera}intrinsic.{n}": v for n, v in zip(names, LENS, strict=True)},
                f"{camera}extrinsic.transform": mounted(CAMERA_HEIGHT).ravel().tolist(),
                **{f"{camera}width": WIDTH, f"{camera}height": HEIGHT},
            }
        ],
        "camera_image": [
            {
                **{"key.frame_timestamp_micros": time, "key.camera_name": name},
                "[CameraImageComponent].image": encoded(index, ".jpg") if name == 1 else b"",
            }
            for index, time in reversed(list(enumerate(times)))
            for name in (2, 1)
        ],
        "vehicle_pose": [
            {
                "key.frame_timestamp_micros": time,
                f"{pose}world_from_vehicle.transform": world_pose(index).ravel().tolist(),
            }
            for index, time in enumerate(times)
        ],
        "lidar_calibration": [
            {
                "key.laser_name": 1,
                f"{lidar}extrinsic.transform": mounted(LIDAR_HEIGHT).ravel().tolist(),
                f"{lidar}beam_inclination.values": BEAMS.tolist(),
                **{f"{lidar}beam_inclination.min": -0.3, f"{lidar}beam_inclination.max": 0.15},
            }
        ],
        "lidar": [
            {
                **{"key.frame_timestamp_micros": time, "key.laser_name": 1},
                f"{clouds}values": range_image().ravel().tolist(),
                f"{clouds}shape": list(range_image().shape),
            }
            for time in times
        ],
        "lidar_pose": [
            {
                **{"key.frame_timestamp_micros": time, "key.laser_name": 1},
                f"{pixels}values": pixel_poses(index).ravel().tolist(),
                f"{pixels}shape": list(pixel_poses(index).shape),
            }
            for index, time in enumerate(times)
        ],
        "lidar_box": [
            {
                **{"key.frame_timestamp_micros": time, f"{solid}type": kind},
                **{f"{solid}box.center.{a}": v for a, v in zip("xyz", centre, strict=True)},
                **{f"{solid}box.size.{a}": v for a, v in zip("xyz", size, strict=True)},
                **{f"{solid}speed.{a}": v for a, v in zip("xyz", speed, strict=True)},
                f"{solid}box.heading": heading,
            }
            for time in times
            for kind, centre, size, heading, speed in BOXES
        ],
    }
    for component, rows in components.items():
        (root / component).mkdir(parents=True)
        write_table(pa.Table.from_pylist(rows), root / component / "123.parquet")
    return root
