"""KITTI is prepared with its cameras and their poses; what is broken is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import raw_samples as raw
from prepare_world import CONFIG, FORMS

from moduv.datasets.kitti import prepare_kitti
from moduv.engine.errors import InputError
from moduv.frames import layouts
from moduv.frames.splits import read_split


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


def test_kitti_as_jpg(shared: Path, tmp_path: Path) -> None:
    prepare_kitti(shared / "cases/kitti_as_jpg/raw", tmp_path, CONFIG)
    assert len(read_split(tmp_path / "splits/all_files.txt")) == 3
