"""Folders prepared for the original are read in place: Waymo Open, nuScenes, KITTI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moduv.depth.triplets import Triplets
from moduv.engine.errors import InputError
from moduv.frames import layouts
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef, with_neighbours
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import read_split

WAYMO = FrameRef("val/segment-1024360143612057520_3580_000_3600_000", 1)
NUSCENES = FrameRef("scenes/scene-0001", 1)
KITTI = FrameRef("2011_09_26/2011_09_26_drive_0001_sync/image_02", 1)
TINY = {
    "tiny_waymo": (WAYMO, (1280, 1920), (320, 480)),
    "tiny_nuscenes": (NUSCENES, (900, 1600), (288, 512)),
    "tiny_kitti": (KITTI, (375, 1242), (192, 640)),
}


@pytest.fixture(scope="module")
def tiny(shared: Path) -> Path:
    return shared / "real" / "dynamo_depth"


@pytest.mark.parametrize("name", TINY)
def test_full_and_small_frames_are_found(tiny: Path, name: str) -> None:
    frame, full, small = TINY[name]
    assert read_image(frame.image_path(tiny / name)).shape[:2] == full
    assert read_image(frame.image_path(tiny / name, small=True)).shape[:2] == small
    clip = [frame.neighbour(offset) for offset in (-1, 0, 1)]
    assert with_neighbours(clip, tiny / name) == ([frame], 2)


@pytest.mark.parametrize("name", TINY)
def test_triplets_are_read_in_place(tiny: Path, name: str) -> None:
    frame, full, (height, width) = TINY[name]
    sample = Triplets(tiny / name, [frame], height, width)[0, 0]
    assert sample["images"].shape == (3, 3, height, width)
    x, y = float(sample["K"][0, 0]) * full[1] / width, float(sample["K"][1, 1]) * full[0] / height
    assert x == pytest.approx(y, rel=1e-3)  # square pixels in the full frame


@pytest.mark.parametrize(("name", "index"), [("tiny_waymo", 1), ("tiny_kitti", 1)])
def test_depth_points_lie_in_the_frame(tiny: Path, name: str, index: int) -> None:
    frame, (height, width), _ = TINY[name]
    points = layouts.depth_points(tiny / name, frame.segment, index)
    assert points is not None
    assert len(points) > 10_000
    rows, columns, metres = points.T
    assert rows.max() < height
    assert columns.max() < width
    assert rows.max() > 0.9 * height  # the road in front of the car
    assert columns.max() > 0.9 * width
    # What is lower in the picture is nearer: the ground.
    low = rows > np.quantile(rows, 0.9)
    assert np.median(metres[low]) < np.median(metres[~low])


def test_depth_points_of_nuscenes_are_at_key_frames(tiny: Path) -> None:
    root = tiny / "tiny_nuscenes"
    assert layouts.depth_points(root, NUSCENES.segment, 1) is None
    points = layouts.depth_points(root, NUSCENES.segment, 0)
    labels = layouts.motion_labels(root, NUSCENES.segment, 0)
    assert points is not None
    assert labels is not None
    assert len(points) == len(labels)


def test_motion_labels_of_waymo_are_of_pixels(tiny: Path) -> None:
    labels = layouts.motion_labels(tiny / "tiny_waymo", WAYMO.segment, 1)
    assert labels is not None
    assert labels.shape == (1280, 1920)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_intervals_become_time_steps(tiny: Path) -> None:
    assert layouts.time_steps(tiny / "tiny_nuscenes", NUSCENES.segment, 2) == (1.0, 0.5)
    assert layouts.time_steps(tiny / "tiny_waymo", WAYMO.segment, 1) is None
    with pytest.raises(InputError, match="none beside frame 9999"):
        layouts.time_steps(tiny / "tiny_nuscenes", NUSCENES.segment, 9999)


@pytest.mark.parametrize("name", ["tiny_waymo", "tiny_nuscenes"])
def test_the_camera_drives_where_it_looks(tiny: Path, name: str) -> None:
    poses = layouts.camera_poses(tiny / name, TINY[name][0].segment)
    assert poses is not None
    steps = np.linalg.inv(poses[:-1]) @ poses[1:]
    forward = steps[:, :3, 3]
    driven = forward[np.linalg.norm(forward, axis=1) > 0.3]  # metres a frame
    directions = driven / np.linalg.norm(driven, axis=1, keepdims=True)
    assert np.median(directions[:, 2]) > 0.95


def test_kitti_split_lines_name_the_camera(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("2011_09_26/2011_09_26_drive_0001_sync 1 r\n")
    (frame,) = read_split(tmp_path / "split.txt")
    assert frame == FrameRef("2011_09_26/2011_09_26_drive_0001_sync/image_03", 1)
    assert frame.image_path(tiny / "tiny_kitti").is_file()


def broken_segment(tmp_path: Path) -> Path:
    for folder in ("rgb/original", "depth"):
        (tmp_path / "clip/FRONT" / folder).mkdir(parents=True)
    return tmp_path / "clip/FRONT"


def test_broken_files_are_named(tmp_path: Path) -> None:
    front = broken_segment(tmp_path)
    with pytest.raises(InputError, match=r"cam.json: no intrinsics"):
        layouts.intrinsics(tmp_path, "clip", 480, 320)
    np.save(front / "depth/000001.npy", np.zeros((4, 2)))
    with pytest.raises(InputError, match=r"000001.npy: is no \(N, 3\) array"):
        layouts.depth_points(tmp_path, "clip", 1)
    (front / "odometry.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"odometry.txt: is no list of 4 x 4"):
        layouts.camera_poses(tmp_path, "clip")
    for number in ("nan", "inf", "1"):  # sixteen ones are no pose
        (front / "odometry.txt").write_text(" ".join([number] * 16) + "\n")
        with pytest.raises(InputError, match=r"odometry.txt: is no list of 4 x 4"):
            layouts.camera_poses(tmp_path, "clip")
    (front / "odometry.txt").write_text(" ".join(map(str, np.eye(4).ravel())) + "\n")
    (front / "rgb/cam.json").write_text(json.dumps({"intrinsic_mat": [[1, 0, 0.5]]}))
    with pytest.raises(InputError, match="lacks 'extrinsic'"):
        layouts.camera_poses(tmp_path, "clip")
    (front / "rgb/ts.json").write_text("[100, -1]")
    with pytest.raises(InputError, match="no list of milliseconds"):
        layouts.time_steps(tmp_path, "clip", 1)


def test_kitti_without_calibration_is_named(tiny: Path, tmp_path: Path) -> None:
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    shutil.copytree(tiny / "tiny_kitti" / drive / "image_02", tmp_path / drive / "image_02")
    with pytest.raises(InputError, match=r"calib_cam_to_cam.txt: lacks 'S_rect_02'"):
        layouts.intrinsics(tmp_path, f"{drive}/image_02", 640, 192)


@pytest.mark.parametrize("focal", ["0", "nan", "-700", "inf"])
def test_kitti_cameras_need_a_focal_length(tmp_path: Path, focal: str) -> None:
    (tmp_path / "drive/image_02/rgb/original").mkdir(parents=True)
    (tmp_path / "drive/calib_cam_to_cam.txt").write_text(
        f"S_rect_02: 1242 375\nP_rect_02: {focal} 0 600 0 0 700 180 0 0 0 1 0\n"
    )
    with pytest.raises(InputError, match=r"'P_rect_02' are no size and camera with positive focal"):
        layouts.intrinsics(tmp_path, "drive/image_02", 640, 192)


@pytest.mark.parametrize("name", ["000001.npz", "000001_motion.npz"])
def test_damaged_motion_labels_are_named(tmp_path: Path, name: str) -> None:
    mask = broken_segment(tmp_path) / "mask" / name
    mask.parent.mkdir()
    mask.write_bytes(b"junk")
    with pytest.raises(InputError, match=rf"{name}: not readable as npz"):
        layouts.motion_labels(tmp_path, "clip", 1)
    np.savez(mask, **{"motion": np.ones((2, 2)), "motion_label": np.ones(2)})
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(InputError, match=rf"{name}: not readable as npz"):
        layouts.motion_labels(tmp_path, "clip", 1)


def test_masks_of_something_else_are_no_motion_labels(tmp_path: Path) -> None:
    mask = broken_segment(tmp_path) / "mask/000001.npz"
    mask.parent.mkdir()
    np.savez(mask, semantic=np.ones((2, 2)))
    assert layouts.motion_labels(tmp_path, "clip", 1) is None


@pytest.mark.parametrize(
    "matrix",
    [
        [[2000, 0, 960], [0, 2000, 640], [0, 0, 1]],  # pixels
        [[1.04, 0, 0.5], [0, 2000, 640], [0, 0, 1]],  # half of it
        [[1.04, 0, 960], [0, 1.56, 640], [0, 0, 1]],
    ],
)
def test_cameras_in_pixels_are_refused(tmp_path: Path, matrix: list[list[float]]) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/cam.json").write_text(json.dumps({"intrinsic_mat": matrix}))
    with pytest.raises(
        InputError, match=r"cam.json: 'intrinsic_mat' is not normalised.*divide the"
    ):
        layouts.intrinsics(tmp_path, "clip", 480, 320)


def test_the_longest_lens_is_read_back(tmp_path: Path) -> None:
    camera = Intrinsics.from_field_of_view(3, 1242, 375)
    camera.to_cam_json(tmp_path / "clip/cam.json")
    found = layouts.intrinsics(tmp_path, "clip", 1242, 375)
    assert found.fx == pytest.approx(camera.fx)
    assert found.fy == pytest.approx(camera.fy)


def test_an_unknown_camera_is_assumed_on_demand(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / f"clip/{index:06d}.jpg", np.full((48, 96, 3), 90, np.uint8))
    frame = FrameRef("clip", 1)
    with pytest.raises(InputError, match="set the camera's field of view"):
        Triplets(tmp_path, [frame], 32, 64)[0, 0]
    sample = Triplets(tmp_path, [frame], 32, 64, field_of_view=90)[0, 0]
    assert float(sample["K"][0, 0]) == pytest.approx(32)  # half the width at 90 degrees
    assert float(sample["K"][1, 1]) == pytest.approx(32)


def test_a_camera_of_other_sides_is_refused_where_frames_are_read(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / f"clip/{index:06d}.jpg", np.full((90, 160, 3), 90, np.uint8))
    content = {"intrinsic_mat": [[1, 0, 0.5], [0, 1, 0.28], [0, 0, 1]]}  # both rows by the width
    (tmp_path / "clip/cam.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="gives 160 x 90 pixels focal lengths of 160 and 90"):
        Triplets(tmp_path, [FrameRef("clip", 1)], 32, 64)[0, 0]


def test_frames_in_capitals_are_found(tmp_path: Path) -> None:
    for index, suffix in enumerate(("JPG", "PNG", "webp", "TIF")):
        path = tmp_path / f"store/{index:06d}.{suffix}"
        write_image(path, np.full((48, 96, 3), 90, np.uint8))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/clip").symlink_to("../store")
    frames = [FrameRef("clip", index) for index in range(4)]
    assert with_neighbours(frames, tmp_path / "data") == (frames[1:3], 2)


def test_kitti_calibrations_of_several_cameras_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drive/image_02/rgb/original").mkdir(parents=True)
    camera = "P_rect_02: {} 0 600 0 0 700 180 0 0 0 1 0\n"
    path = tmp_path / "drive/calib_cam_to_cam.txt"
    path.write_text("S_rect_02: 1242 375\n" + 2 * camera.format(700))
    assert layouts.intrinsics(tmp_path, "drive/image_02", 1242, 375).fx == 700
    path.write_text(path.read_text() + camera.format(710))
    with pytest.raises(InputError, match="has 'P_rect_02' of several cameras"):
        layouts.intrinsics(tmp_path, "drive/image_02", 640, 192)
    path.write_text("S_rect_02: 1242 375\nP_rect_02: 700 0 1300 0 0 700 180 0 0 0 1 0\n")
    with pytest.raises(InputError, match=r"'P_rect_02' has its principal point at .* outside"):
        layouts.intrinsics(tmp_path, "drive/image_02", 640, 192)
