"""nuScenes: the front camera's scenes, with lidar depths and what moves (Caesar et al. 2020).

The tables are read as they are: plain JSON, linked by tokens. A devkit is not needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moduv.datasets.nuscenes.tables import (
    ANY,
    FLAG,
    NUMBER,
    PLACE,
    TEXT,
    TOKEN,
    WHOLE,
    Row,
    Schema,
    numbers,
    read_table,
)
from moduv.datasets.prepare import (
    MOVING_SPEED,
    PrepareConfig,
    prepare,
    read_scan,
    required,
    write_camera,
    write_frame,
    write_points,
    write_poses,
)
from moduv.engine.errors import InputError
from moduv.engine.files import write_json, write_npz
from moduv.frames.camera import Intrinsics
from moduv.frames.layouts import BACKGROUND, MOVING, STATIC, pose_of

CAMERA, LIDAR = "CAM_FRONT", "LIDAR_TOP"
SENSOR = "calibrated_sensor"
DOWNLOAD = (
    "download the metadata and the camera and lidar blobs of a version, e.g. v1.0-mini, from "
    "nuscenes.org (account, terms CC BY-NC-SA 4.0) and unpack them there."
)
POSE: Schema = {"token": TOKEN, "rotation": ANY, "translation": numbers(3)}
TABLES: Mapping[str, Schema] = {
    "scene": {"token": TOKEN, "name": TOKEN, "first_sample_token": TOKEN},
    "sample": {"token": TOKEN, "timestamp": NUMBER},
    "sample_data": {
        **{"token": TOKEN, "sample_token": TOKEN, "ego_pose_token": TOKEN, "next": TEXT},
        **{"calibrated_sensor_token": TOKEN, "timestamp": NUMBER, "filename": PLACE},
        **{"is_key_frame": FLAG, "width": WHOLE, "height": WHOLE},
    },
    "calibrated_sensor": {**POSE, "sensor_token": TOKEN, "camera_intrinsic": ANY},
    "sensor": {"token": TOKEN, "channel": TEXT},
    "ego_pose": POSE,
    "sample_annotation": {
        **POSE,
        **{"sample_token": TOKEN, "size": numbers(3), "prev": TEXT, "next": TEXT},
    },
}
"""The tables that are read, and what their rows must have."""


def prepare_nuscenes(
    source: Path, out: Path, config: PrepareConfig, version: str = "v1.0-trainval"
) -> None:
    """Prepare the front camera of nuScenes.

    Args:
        source: folder with `samples/`, `sweeps/` and the version's tables.
        out: receives `scenes/<scene>/FRONT/rgb|depth|mask`, `odometry.txt` and a split.
        config: size of the shrunken frames; published: 288 x 512.
        version: folder of the tables.

    Raises:
        InputError: saying what to download when tables or files are missing.
    """
    tables = Tables(source / version)
    scenes = sorted(tables.rows["scene"], key=lambda scene: scene["name"])
    segments = [f"scenes/{scene['name']}" for scene in scenes]
    jobs = [
        (source, out / s, _scene(tables, scene), config)
        for s, scene in zip(segments, scenes, strict=True)
    ]
    prepare("prepare nuscenes", out, config, jobs, segments, _prepare_scene)


class Tables:
    """The tables of a version by name, and their rows by token."""

    def __init__(self, folder: Path) -> None:
        """Read them. Raises InputError naming a missing table or what a row lacks."""
        self.rows: dict[str, list[Row]] = {}
        for name, schema in TABLES.items():
            path = required(folder / f"{name}.json", DOWNLOAD)
            self.rows[name] = read_table(path, schema, DOWNLOAD)
        self._by_token = {
            name: {row["token"]: row for row in rows} for name, rows in self.rows.items()
        }
        self.of_sample: dict[str, list[Row]] = defaultdict(list)
        self.before: dict[str, Row] = {}
        for row in self.rows["sample_data"]:
            self.get("sample", row["sample_token"])
            self.of_sample[row["sample_token"]].append(row)
            self.before[row["next"]] = row
        self.annotations: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows["sample_annotation"]:
            self.get("sample", row["sample_token"])
            self.annotations[row["sample_token"]].append(row)

    def get(self, table: str, token: str) -> Row:
        """Return the row of a token. Raises InputError when the tables do not belong together."""
        row = self._by_token[table].get(token)
        if row is None:
            raise InputError(
                f"{table}.json: has no row {token!r} that another table names; {DOWNLOAD}"
            )
        return row

    def channel(self, row: Row) -> str:
        """Return the sensor's channel of a row of `sample_data`."""
        sensor = self.get("calibrated_sensor", row["calibrated_sensor_token"])["sensor_token"]
        return str(self.get("sensor", sensor)["channel"])

    def pose(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Return the poses (4, 4) of the sensor on the vehicle and of the vehicle in the world at a row's time."""
        sensor = self.get("calibrated_sensor", row["calibrated_sensor_token"])
        return _matrix(sensor), _matrix(self.get("ego_pose", row["ego_pose_token"]))


@dataclass(frozen=True)
class Frame:
    """A frame of the front camera; only key frames have lidar and boxes."""

    file: str
    milliseconds: float
    world_from_vehicle: np.ndarray
    camera_from_lidar: np.ndarray | None = None
    lidar: str = ""
    boxes: tuple[tuple[np.ndarray, np.ndarray, bool], ...] = ()
    """Lidar to box (4, 4), half the size (3,) in metres, whether it moves."""


@dataclass(frozen=True)
class Scene:
    """The front camera's frames of a scene, in order, and the camera."""

    frames: tuple[Frame, ...]
    sensor: Row
    width: int
    height: int


def _scene(tables: Tables, scene: Row) -> Scene:
    first = tables.get("sample", scene["first_sample_token"])
    row = next((r for r in tables.of_sample[first["token"]] if tables.channel(r) == CAMERA), None)
    if row is None:
        raise InputError(f"scene {scene['name']}: its first sample has no {CAMERA}; {DOWNLOAD}")
    chain = _chain(tables, row)
    cameras = {repr(tables.get(SENSOR, r[f"{SENSOR}_token"])["camera_intrinsic"]) for r in chain}
    sizes = {(int(r["width"]), int(r["height"])) for r in chain}
    times = np.diff([r["timestamp"] for r in chain])
    if len(cameras) > 1 or len(sizes) > 1 or (times <= 0).any():
        raise InputError(
            f"scene {scene['name']}: the frames of {CAMERA} have several cameras or sizes, or times that do "
            f"not grow; {DOWNLOAD}"
        )
    sensor = tables.get(SENSOR, chain[0][f"{SENSOR}_token"])
    source = f"{SENSOR}.json: 'camera_intrinsic' of {sensor['token']!r}"
    Intrinsics.from_matrix(sensor["camera_intrinsic"], *min(sizes), source, DOWNLOAD.rstrip("."))
    return Scene(tuple(_frame(tables, r) for r in chain), sensor, *min(sizes))


def _chain(tables: Tables, row: Row) -> list[Row]:
    """All frames that a frame's neighbours lead to, the first one first; tables have no order."""
    seen = {row["token"]}
    while earlier := tables.before.get(row["token"]):
        row = _unless_seen(earlier, seen)
    chain, seen = [row], {row["token"]}
    while chain[-1]["next"]:
        chain.append(_unless_seen(tables.get("sample_data", chain[-1]["next"]), seen))
    return chain


def _unless_seen(row: Row, seen: set[str]) -> Row:
    if row["token"] in seen:
        raise InputError(
            f"sample_data.json: 'next' of {row['token']!r} leads in a circle; {DOWNLOAD}"
        )
    seen.add(row["token"])
    return row


def _frame(tables: Tables, row: Row) -> Frame:
    to_vehicle, to_world = tables.pose(row)
    frame = Frame(row["filename"], row["timestamp"] / 1000, to_world)
    scans = [r for r in tables.of_sample[row["sample_token"]] if r["is_key_frame"]]
    scan = next((r for r in scans if tables.channel(r) == LIDAR), None)
    if not row["is_key_frame"] or scan is None:
        return frame
    lidar_to_vehicle, lidar_to_world = tables.pose(scan)
    world_from_lidar = lidar_to_world @ lidar_to_vehicle
    boxes = tuple(
        (
            np.linalg.inv(_matrix(box)) @ world_from_lidar,
            np.array(box["size"], np.float64)[[1, 0, 2]] / 2,  # width, length, height on disk
            _speed(tables, box) > MOVING_SPEED,
        )
        for box in tables.annotations[row["sample_token"]]
    )
    camera_from_lidar = np.linalg.inv(to_world @ to_vehicle) @ world_from_lidar
    return replace(frame, camera_from_lidar=camera_from_lidar, lidar=scan["filename"], boxes=boxes)


def _speed(tables: Tables, box: Row) -> float:
    """Metres a second between the neighbouring annotations of the object; 0 where it has none."""
    ends = [
        tables.get("sample_annotation", box[side]) if box[side] else box
        for side in ("prev", "next")
    ]
    times = [tables.get("sample", end["sample_token"])["timestamp"] / 1e6 for end in ends]
    moved = np.subtract(ends[1]["translation"], ends[0]["translation"])
    return float(np.linalg.norm(moved)) / (times[1] - times[0]) if times[1] > times[0] else 0.0


def _prepare_scene(job: tuple[Path, Path, Scene, PrepareConfig]) -> list[int]:
    source, segment, scene, config = job
    front = segment / "FRONT"
    matrix = np.array(scene.sensor["camera_intrinsic"], np.float64)
    kept = {key: scene.sensor[key] for key in ("camera_intrinsic", "translation", "rotation")}
    write_camera(front / "rgb/cam.json", matrix, scene.width, scene.height, **kept)
    times = [frame.milliseconds for frame in scene.frames]
    write_json(front / "rgb/ts.json", np.diff(times).tolist())
    write_poses(front / "odometry.txt", [frame.world_from_vehicle for frame in scene.frames])
    for index, frame in enumerate(scene.frames):
        image = required(source / frame.file, DOWNLOAD)
        size = scene.width, scene.height
        write_frame(image, front / "rgb", f"{index:06d}.jpg", config, size)
        if config.points and frame.camera_from_lidar is not None:
            _write_truth(source, front, f"{index:06d}", frame, scene, matrix)
    return list(range(len(scene.frames)))


def _write_truth(
    source: Path, front: Path, name: str, frame: Frame, scene: Scene, matrix: np.ndarray
) -> None:
    """Depth points (column, row, metres) and whether each lies on a moving or a static object."""
    assert frame.camera_from_lidar is not None
    scan = required(source / frame.lidar, DOWNLOAD)
    found = read_scan(scan, 5, DOWNLOAD)
    points = np.column_stack([found[:, :3], np.ones(len(found))])
    seen, inside = _project((points @ frame.camera_from_lidar.T)[:, :3], matrix, scene)
    labels = np.full(len(points), BACKGROUND, np.uint8)
    for box_from_lidar, half, moves in frame.boxes:
        within = (np.abs((points @ box_from_lidar.T)[:, :3]) <= half).all(1)
        labels[within] = MOVING if moves else STATIC
    write_points(front / f"depth/{name}.npy", seen[inside])
    write_npz(front / f"mask/{name}.npz", motion_label=labels[inside])


def _project(points: np.ndarray, matrix: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of the camera as (column, row, metres), and which of them the image shows, (N,)."""
    depth = points[:, 2]
    ahead = depth > 1  # nearer than a metre is the vehicle itself
    seen = points[:, :2] / np.where(ahead, depth, 1.0)[:, None]
    pixels = seen * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    inside = ahead & ((pixels >= 0) & (pixels < (scene.width, scene.height))).all(1)
    return np.column_stack([pixels, depth]), inside


def _matrix(row: Row) -> np.ndarray:
    """The pose (4, 4) that a row describes."""
    try:
        return pose_of(row["rotation"], row["translation"])
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"row {row['token']!r}: 'rotation' and 'translation' are no pose; {DOWNLOAD}"
        ) from None
