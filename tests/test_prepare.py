"""Raw recordings become segments that stage 1 reads: frames, camera, depths, poses, what moves."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import raw_samples as raw
from prepare_world import CONFIG, FORMS, nuscenes

from moduv.datasets.kitti import prepare_kitti
from moduv.datasets.waymo.frame import SolidBox, motion_of_points
from moduv.datasets.waymo.prepare import prepare_waymo
from moduv.datasets.waymo.tables import read_tables
from moduv.depth.triplets import Triplets
from moduv.engine.errors import InputError
from moduv.frames import layouts
from moduv.frames.images import read_image
from moduv.frames.splits import read_split


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
