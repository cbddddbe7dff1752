"""Raw recordings become segments that stage 1 reads: frames, camera, depths, poses, what moves."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import raw_samples as raw

from moduv.datasets.kitti import prepare_kitti
from moduv.datasets.nuscenes.prepare import prepare_nuscenes
from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.waymo.frame import SolidBox, motion_of_points
from moduv.datasets.waymo.prepare import prepare_waymo
from moduv.datasets.waymo.tables import read_tables
from moduv.depth.triplets import Triplets
from moduv.engine.errors import InputError
from moduv.frames import layouts
from moduv.frames.images import read_image
from moduv.frames.splits import read_split

CONFIG = PrepareConfig(height=32, width=64, workers=1)


def nuscenes(source: Path, out: Path, config: PrepareConfig) -> None:
    prepare_nuscenes(source, out, config, version="v1.0-mini")


FORMS: dict[str, tuple[Callable[[Path], Path], Callable[..., None], str]] = {
    "kitti": (raw.write_kitti, prepare_kitti, "2011_09_26/2011_09_26_drive_0009_sync/image_02"),
    "nuscenes": (raw.write_nuscenes, nuscenes, "scenes/scene-0001"),
    "waymo v1": (raw.write_waymo_records, prepare_waymo, "train/segment-123"),
    "waymo v2": (raw.write_waymo_tables, prepare_waymo, "train/segment-123"),
}


@pytest.fixture(scope="module", params=FORMS)
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str]:
    write, prepare, segment = FORMS[request.param]
    root = tmp_path_factory.mktemp("raw")
    prepare(write(root / "source"), root / "out", CONFIG)
    return request.param, root / "out", segment


def test_stage_1_reads_what_was_prepared(prepared: tuple[str, Path, str]) -> None:
    _, root, segment = prepared
    frames = read_split(root / "splits/all_files.txt")
    assert [frame.segment for frame in frames] == [segment] * (raw.FRAMES - 2)
    sample = Triplets(root, frames, CONFIG.height, CONFIG.width)[0, 0]
    assert sample["images"].shape == (3, 3, 32, 64)
    assert float(sample["K"][0, 0]) == pytest.approx(raw.FOCAL * 64 / raw.WIDTH)
    assert float(sample["K"][1, 2]) == pytest.approx(16)


def test_full_frames_are_kept_as_they_are(prepared: tuple[str, Path, str]) -> None:
    _, root, segment = prepared
    full = layouts.image_path(root, segment, 2)
    assert full.read_bytes() == raw.encoded(2, full.suffix)
    assert read_image(layouts.image_path(root, segment, 2, small=True)).shape == (32, 64, 3)


def test_depths_are_those_of_the_scene(prepared: tuple[str, Path, str]) -> None:
    _, root, segment = prepared
    points = layouts.depth_points(root, segment, 0)
    assert points is not None
    assert len(points) > 50
    rows, columns, metres = points.T
    np.testing.assert_allclose(metres, raw.WALL, atol=1e-3)
    assert rows.min() >= 0
    assert columns.min() >= 0
    assert rows.max() < raw.HEIGHT
    assert columns.max() < raw.WIDTH
    assert np.ptp(columns) > 0.7 * raw.WIDTH


def test_the_camera_drives_ahead(prepared: tuple[str, Path, str]) -> None:
    _, root, segment = prepared
    poses = layouts.camera_poses(root, segment)
    assert poses is not None
    steps = np.linalg.inv(poses[:-1]) @ poses[1:]
    np.testing.assert_allclose(steps[:, :3, 3], [[0, 0, raw.STEP]] * (raw.FRAMES - 1), atol=1e-6)


def test_waymo_depths_lie_where_the_beams_meet_the_wall(tmp_path: Path) -> None:
    source = raw.write_waymo_records(tmp_path / "source")
    prepare_waymo(source, tmp_path / "out", CONFIG)
    points = layouts.depth_points(tmp_path / "out", "train/segment-123", 1)
    assert points is not None
    # Straight ahead a beam meets the wall at 10 m x its slope above the lidar, 0.5 m above the camera.
    middle = points[np.abs(points[:, 1] - raw.WIDTH / 2) < 3]
    above = raw.WALL * np.tan(raw.BEAMS) + raw.LIDAR_HEIGHT - raw.CAMERA_HEIGHT
    expected = raw.HEIGHT / 2 - raw.FOCAL * above / raw.WALL
    visible = expected[(expected > 2) & (expected < raw.HEIGHT - 2)]
    for row in visible:
        assert np.abs(middle[:, 0] - row).min() < 0.5


def test_nuscenes_knows_what_moves(tmp_path: Path) -> None:
    nuscenes(raw.write_nuscenes(tmp_path / "source"), tmp_path / "out", CONFIG)
    points = layouts.depth_points(tmp_path / "out", "scenes/scene-0001", 0)
    labels = layouts.motion_labels(tmp_path / "out", "scenes/scene-0001", 0)
    assert points is not None
    assert labels is not None
    assert set(labels) == {0, 1, 2}
    # The moving box stands at y = -3 of the vehicle: on the right.
    assert (points[labels == 1, 1] > raw.WIDTH / 2).all()
    assert (points[labels == 2, 1] < raw.WIDTH / 2).all()
    assert layouts.time_steps(tmp_path / "out", "scenes/scene-0001", 1) == (1.0, 1.0)


@pytest.mark.parametrize("version", ["waymo v1", "waymo v2"])
def test_waymo_knows_what_moves(tmp_path: Path, version: str) -> None:
    write, prepare, segment = FORMS[version]
    prepare(write(tmp_path / "source"), tmp_path / "out", CONFIG)
    points = layouts.depth_points(tmp_path / "out", segment, 2)
    labels = layouts.motion_labels(tmp_path / "out", segment, 2)
    assert points is not None
    assert labels is not None
    # The wall's points in the camera, x to the right and y down, in metres.
    x, y = ((points[:, i] - c) * raw.WALL / raw.FOCAL for i, c in ((1, 48), (0, 32)))
    height, clear = np.abs(y) < 0.9, np.abs(np.abs(y) - 1) > 0.15  # of the boxes' upper edges
    expected = np.select([height & (np.abs(x - 3) < 1.5), height & (np.abs(x + 3) < 1.5)], [1, 2])
    np.testing.assert_array_equal(labels[clear], expected[clear])
    assert set(labels) == {0, 1, 2}


def test_waymo_frames_that_nobody_annotated_have_no_motion_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(raw, "BOXES", ())
    prepare_waymo(raw.write_waymo_records(tmp_path / "test"), tmp_path / "v1", CONFIG)
    assert layouts.motion_labels(tmp_path / "v1", "train/segment-123", 0) is None
    assert layouts.depth_points(tmp_path / "v1", "train/segment-123", 0) is not None
    assert "lidar_box" not in capsys.readouterr().out
    source = raw.write_waymo_tables(tmp_path / "tables")
    shutil.rmtree(source / "lidar_box")
    prepare_waymo(source, tmp_path / "v2", CONFIG)
    assert layouts.motion_labels(tmp_path / "v2", "train/segment-123", 0) is None
    assert "has no component lidar_box" in capsys.readouterr().out


def test_points_in_boxes_of_unknown_speed_are_not_judged() -> None:
    box = SolidBox(1, (5, 0, 0), (4, 2, 2), np.pi / 2, None)
    points = np.array([[5, 1.9, 0], [6.9, 0, 0], [5, 0, 1.1]])
    assert motion_of_points(points, [box]).tolist() == [3, 0, 0]
    slow, fast = replace(box, speed=1.0), replace(box, speed=1.01)
    assert motion_of_points(points, [slow]).tolist() == [2, 0, 0]
    assert motion_of_points(points, [slow, fast]).tolist() == [1, 0, 0]


def test_a_killed_preparation_continues(tmp_path: Path) -> None:
    source, out = raw.write_waymo_records(tmp_path / "source"), tmp_path / "out"
    prepare_waymo(source, out, CONFIG)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "manifest.json").unlink()
    (out / "train/segment-123/finished.json").unlink()
    front = out / "train/segment-123/FRONT"
    for path in (
        front / "mask/000001.npz",
        front / "depth/000002.npy",
        front / "rgb/downsample/000003.jpg",
    ):
        path.unlink()
    prepare_waymo(source, out, CONFIG)
    for path, content in files.items():
        if path.name != "manifest.json":
            assert path.read_bytes() == content, path


def test_a_download_may_come_in_pieces(tmp_path: Path) -> None:
    train, val = (raw.write_waymo_records(tmp_path / name) for name in ("train", "val"))
    out = tmp_path / "out"
    prepare_waymo(train, out, CONFIG, split="train")
    kept = (out / "train/segment-123/finished.json").stat().st_mtime_ns
    prepare_waymo(val, out, CONFIG, split="val")
    (train / "segment-123_with_camera_labels.tfrecord").rename(
        train / "segment-45_with_camera_labels.tfrecord"
    )
    prepare_waymo(train, out, CONFIG, split="train")
    segments = [frame.segment for frame in read_split(out / "splits/all_files.txt")]
    expected = ["train/segment-123", "train/segment-45", "val/segment-123"]
    assert sorted(set(segments)) == expected
    assert len(segments) == 3 * (raw.FRAMES - 2)
    assert (out / "train/segment-123/finished.json").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="another config"):
        prepare_waymo(val, out, replace(CONFIG, height=64), split="test")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (prepare_kitti, "cvlibs.net"),
        (nuscenes, "nuscenes.org"),
        (prepare_waymo, "waymo.com/open"),
    ],
)
def test_missing_downloads_are_named(
    tmp_path: Path, prepare: Callable[..., None], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        prepare(tmp_path, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_cut_recordings_are_named(tmp_path: Path, keep: float) -> None:
    source = raw.write_waymo_records(tmp_path / "source")
    (record,) = source.iterdir()
    record.write_bytes(record.read_bytes()[: int(keep * record.stat().st_size)])
    with pytest.raises(InputError, match=r"tfrecord: is cut or damaged at byte \d+"):
        prepare_waymo(source, tmp_path / "out", CONFIG)


def test_damaged_recordings_are_named(tmp_path: Path) -> None:
    source = raw.write_waymo_records(tmp_path / "source")
    (record,) = source.iterdir()
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    with pytest.raises(InputError, match="is cut or damaged"):
        prepare_waymo(source, tmp_path / "out", CONFIG)


def test_a_missing_component_is_named(tmp_path: Path) -> None:
    source = raw.write_waymo_tables(tmp_path / "source")
    (source / "vehicle_pose/123.parquet").unlink()
    with pytest.raises(InputError, match=r"download the component 'vehicle_pose'"):
        prepare_waymo(source, tmp_path / "out", CONFIG)


def test_kitti_without_calibration_is_named(tmp_path: Path) -> None:
    source = raw.write_kitti(tmp_path / "source")
    (source / "2011_09_26/calib_velo_to_cam.txt").write_text("R: 1 2 3\n")
    with pytest.raises(InputError, match=r"calib_velo_to_cam.txt: lacks 'R' with 9 numbers"):
        prepare_kitti(source, tmp_path / "out", CONFIG)
    (source / "2011_09_26/calib_imu_to_velo.txt").unlink()
    with pytest.raises(InputError, match=r"calib_imu_to_velo.txt: missing; download"):
        prepare_kitti(source, tmp_path / "out", CONFIG)


def test_the_way_of_a_kitti_camera_is_that_of_its_mount(tmp_path: Path) -> None:
    source = raw.write_kitti(tmp_path / "source")
    day = source / "2011_09_26"
    # The IMU is 0.8 m behind and 0.3 m right of the scanner, the camera 0.27 m ahead of and 0.5 m
    # left of it: 0.44 m left of camera 00, which is 0.06 m left of the scanner.
    (day / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: -0.8 -0.3 0\n")
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0.06 0 -0.27\n")
    cameras = (day / "calib_cam_to_cam.txt").read_text()
    f, cx, cy = raw.FOCAL, raw.WIDTH / 2, raw.HEIGHT / 2
    shifted = f"P_rect_02: {f} 0 {cx} {0.44 * f} 0 {f} {cy} 0 0 0 1 0\n"
    (day / "calib_cam_to_cam.txt").write_text(cameras.split("P_rect_02")[0] + shifted)
    places = [[3, 4, 0], [6, 8, 1], [9, 7, 1], [9, 7, 1]]
    angles = [[0.1, 0, np.pi / 2], [0, 0.1, 0.3], [0, 0, -2], [0.2, 0.1, -2]]
    raw.write_oxts(day / "2011_09_26_drive_0009_sync", places, angles)
    prepare_kitti(source, tmp_path / "out", CONFIG)
    found = layouts.camera_poses(tmp_path / "out", FORMS["kitti"][2])
    assert found is not None
    mount = np.array([[0, 0, 1, 1.07], [-1, 0, 0, 0.8], [0, -1, 0, 0], [0, 0, 0, 1]])
    vehicle = []
    for place, (roll, pitch, yaw) in zip(places, angles, strict=True):
        pose = np.eye(4)
        turns = [
            cv2.Rodrigues(np.array(a, float))[0] for a in ((0, 0, yaw), (0, pitch, 0), (roll, 0, 0))
        ]
        pose[:3, :3], pose[:3, 3] = turns[0] @ turns[1] @ turns[2], place
        vehicle.append(pose)
    expected = np.linalg.inv(vehicle[0] @ mount) @ np.array(vehicle) @ mount
    np.testing.assert_allclose(np.linalg.inv(found[0]) @ found, expected, atol=1e-4)


@pytest.mark.parametrize("content", ["49 8 110 0 0 nan 1", "49 8 110", "a b c d e f"])
def test_broken_places_of_kitti_are_named(tmp_path: Path, content: str) -> None:
    source = raw.write_kitti(tmp_path / "source")
    path = source / "2011_09_26/2011_09_26_drive_0009_sync/oxts/data/0000000002.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"2.txt: does not begin with a place and three angles"):
        prepare_kitti(source, tmp_path / "out", CONFIG)
    path.unlink()
    with pytest.raises(InputError, match=r"oxts.data: lacks 0000000002.txt"):
        prepare_kitti(source, tmp_path / "out", CONFIG)


def test_kitti_without_places_has_no_poses(tmp_path: Path) -> None:
    source = raw.write_kitti(tmp_path / "source")
    shutil.rmtree(source / "2011_09_26/2011_09_26_drive_0009_sync/oxts")
    (source / "2011_09_26/calib_imu_to_velo.txt").unlink()
    prepare_kitti(source, tmp_path / "out", CONFIG)
    assert layouts.camera_poses(tmp_path / "out", FORMS["kitti"][2]) is None


@pytest.mark.parametrize(
    ("table", "key"),
    [("scene", "token"), ("sample_data", "sample_token"), ("sample_annotation", "size")],
)
def test_rows_of_nuscenes_that_lack_something_are_named(
    tmp_path: Path, table: str, key: str
) -> None:
    path = raw.write_nuscenes(tmp_path / "source") / f"v1.0-mini/{table}.json"
    rows = json.loads(path.read_text())
    del rows[-1][key]
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=rf"{table}.json: row {len(rows) - 1} lacks '{key}'"):
        nuscenes(tmp_path / "source", tmp_path / "out", CONFIG)


@pytest.mark.parametrize("rotation", [[0, 0, 0, 0], [1, 0, 0], "north"])
def test_rotations_of_nuscenes_that_are_none_are_named(tmp_path: Path, rotation: object) -> None:
    path = raw.write_nuscenes(tmp_path / "source") / "v1.0-mini/ego_pose.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows[:-1], {**rows[-1], "rotation": rotation}]))
    with pytest.raises(InputError, match=r"row 'p3': 'rotation' and 'translation' are no pose"):
        nuscenes(tmp_path / "source", tmp_path / "out", CONFIG)


@pytest.mark.parametrize("group", [1, 2, 9])
def test_range_images_may_lie_in_any_order(tmp_path: Path, group: int) -> None:
    from pyarrow.parquet import read_table as read
    from pyarrow.parquet import write_table as write

    source = raw.write_waymo_tables(tmp_path / "source")
    expected = [frame.points for frame in read_tables(source, "123", ["lidar"])]
    for component in ("lidar", "lidar_pose"):
        path = source / component / "123.parquet"
        write(read(path).take([2, 0, 3, 1]), path, row_group_size=group)
    found = [frame.points for frame in read_tables(source, "123", ["lidar"])]
    assert len(found) == raw.FRAMES
    np.testing.assert_array_equal(found, expected)


def test_one_range_image_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import total_allocated_bytes

    def most_held(frames: int) -> int:
        """Bytes held by Python and by Arrow while a segment is read."""
        monkeypatch.setattr(raw, "FRAMES", frames)
        source = raw.write_waymo_tables(tmp_path / str(frames))
        before, held = total_allocated_bytes(), 0
        tracemalloc.start()
        for _ in read_tables(source, "123", ["lidar"]):
            held = max(held, total_allocated_bytes() - before)
        held += tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    monkeypatch.setattr(raw, "COLUMNS", 800)
    assert most_held(16) < 1.5 * most_held(4)


def test_cut_tables_are_named(tmp_path: Path) -> None:
    path = raw.write_waymo_tables(tmp_path / "source") / "lidar/123.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"lidar.123.parquet: not readable"):
        prepare_waymo(tmp_path / "source", tmp_path / "out", CONFIG)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table as read
    from pyarrow.parquet import write_table as write

    path = raw.write_waymo_tables(tmp_path / "source") / "lidar/123.parquet"
    column = "[LiDARComponent].range_image_return1.shape"
    write(read(path).drop_columns([column]), path)
    with pytest.raises(InputError, match=r"lacks '\[LiDARComponent\].range_image_return1.shape'"):
        prepare_waymo(tmp_path / "source", tmp_path / "out", CONFIG)


def test_a_calibration_of_another_lidar_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = raw.write_waymo_tables(tmp_path / "source")
    monkeypatch.setattr(raw, "BEAMS", raw.BEAMS[:5])
    other = raw.write_waymo_tables(tmp_path / "other") / "lidar_calibration/123.parquet"
    shutil.copy(other, source / "lidar_calibration/123.parquet")
    with pytest.raises(InputError, match="the components of segment 123 do not fit each other"):
        prepare_waymo(source, tmp_path / "out", CONFIG)


def test_kitti_frames_may_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = raw.write_kitti(tmp_path / "source")
    data = source / "2011_09_26/2011_09_26_drive_0009_sync/image_02/data"
    for index, path in enumerate(sorted(data.iterdir())):
        path.with_suffix(".JPG" if index % 2 else ".jpg").write_bytes(raw.encoded(index, ".jpg"))
        if index:
            path.unlink()
    (data / "0000000001 (copy).jpg").write_bytes(raw.encoded(1, ".jpg"))
    (data / "._0000000001.jpg").write_bytes(b"none")
    prepare_kitti(source, tmp_path / "out", CONFIG)
    segment = FORMS["kitti"][2]
    assert layouts.frame_numbers(tmp_path / "out", segment) == list(range(raw.FRAMES))
    for index in range(raw.FRAMES):
        assert layouts.image_path(tmp_path / "out", segment, index).is_file()
        assert layouts.depth_points(tmp_path / "out", segment, index) is not None
    told = capsys.readouterr().out
    for part in ("1 images whose names are no numbers", "1 second images of a frame"):
        assert part in told


def test_kitti_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    source = raw.write_kitti(tmp_path / "source")
    day = source / "2011_09_26"
    text = (day / "calib_cam_to_cam.txt").read_text()
    size = f"S_rect_02: {raw.WIDTH} {raw.HEIGHT}"
    (day / "calib_cam_to_cam.txt").write_text(text.replace(size, "S_rect_02: 1242 375"))
    with pytest.raises(
        InputError, match=r"png: is of 96 x 64 pixels, and calibrated for 1242 x 375"
    ):
        prepare_kitti(source, tmp_path / "out", CONFIG)
    shutil.rmtree(day / "2011_09_26_drive_0009_sync/image_02")
    with pytest.raises(InputError, match=r"have no frames image_02/data/\*\.png or \*\.jpg"):
        prepare_kitti(source, tmp_path / "none", CONFIG)


def change_rows(source: Path, table: str, change: Callable[[list[dict]], object]) -> None:
    path = source / f"v1.0-mini/{table}.json"
    rows = json.loads(path.read_text())
    changed = change(rows)
    path.write_text(json.dumps(rows if changed is None else changed))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_table_of_nuscenes_does_not_matter(tmp_path: Path, seed: int) -> None:
    source = raw.write_nuscenes(tmp_path / "source")
    nuscenes(source, tmp_path / "sorted", CONFIG)
    order = np.random.default_rng(seed).permutation
    change_rows(source, "sample_data", lambda rows: [rows[i] for i in order(len(rows))])
    nuscenes(source, tmp_path / "mixed", CONFIG)
    for path in (tmp_path / "sorted/scenes").rglob("*.*"):
        if path.is_file():
            again = tmp_path / "mixed" / path.relative_to(tmp_path / "sorted")
            assert path.read_bytes() == again.read_bytes()


def test_chains_of_nuscenes_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    for name, change, said in (
        ("circle", lambda rows: rows[raw.FRAMES - 1].update(next="d0"), "leads in a circle"),
        ("times", lambda rows: rows[2].update(timestamp=0), "times that do not grow"),
        ("sizes", lambda rows: rows[2].update(width=1600), "several cameras or sizes"),
        ("images", lambda rows: [{**r, "width": 1600} for r in rows], "calibrated for 1600 x 64"),
    ):
        source = raw.write_nuscenes(tmp_path / name)
        change_rows(source, "sample_data", change)
        with pytest.raises(InputError, match=said):
            nuscenes(source, tmp_path / f"{name}-out", CONFIG)


def test_cameras_of_nuscenes_that_are_none_are_refused(tmp_path: Path) -> None:
    source = raw.write_nuscenes(tmp_path / "source")
    matrix = np.array([[raw.FOCAL, 0, 48], [0, raw.FOCAL, 32], [0, 0, 1]]).T.tolist()
    change_rows(source, "calibrated_sensor", lambda rows: rows[0].update(camera_intrinsic=matrix))
    with pytest.raises(InputError, match=r"'camera_intrinsic' of 'cc' .* as if written by columns"):
        nuscenes(source, tmp_path / "out", CONFIG)


def test_kitti_as_jpg(shared: Path, tmp_path: Path) -> None:
    prepare_kitti(shared / "cases/kitti_as_jpg/raw", tmp_path, CONFIG)
    assert len(read_split(tmp_path / "splits/all_files.txt")) == 3


def test_nuscenes_sweeps_before_the_first_row(shared: Path, tmp_path: Path) -> None:
    nuscenes(shared / "cases/nuscenes_sweep_before_key_frame/raw", tmp_path, CONFIG)
    assert len(list((tmp_path / "scenes/scene-0001/FRONT/rgb/original").iterdir())) == 7
    assert len(read_split(tmp_path / "splits/all_files.txt")) == 5
