"""Stage 1 is measured on the prepared real data sets and on the street world's poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from moduv.datasets.prepare import write_points
from moduv.datasets.truth import read_truth
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_npz
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames import layouts
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.runs.measure import measure_motion

WAYMO = FrameRef("val/segment-1024360143612057520_3580_000_3600_000", 1)
KITTI = FrameRef("2011_09_26/2011_09_26_drive_0001_sync/image_02", 1)
NUSCENES = FrameRef("scenes/scene-0001", 0)


@pytest.fixture(scope="module")
def tiny(shared: Path) -> Path:
    return shared / "real" / "dynamo_depth"


def write_output(root: Path, frame: FrameRef, mask: np.ndarray, depth: np.ndarray) -> None:
    write_npz(frame.file(root, ".npz"), mot_mask=mask, depth=depth, inv_K=np.eye(4))


def flat_output(root: Path, frame: FrameRef) -> None:
    """A road that comes nearer towards the bottom, and no motion."""
    depth = np.broadcast_to(40 / np.linspace(1, 8, 64)[:, None], (64, 96)).astype(np.float32)
    write_output(root, frame, np.full((64, 96), 0.2, np.float32), depth)


def test_perfect_masks_are_perfect_on_waymo(tiny: Path, tmp_path: Path) -> None:
    root = tiny / "tiny_waymo"
    labels = layouts.motion_labels(root, WAYMO.segment, 1)
    assert labels is not None
    height, width = labels.shape
    write_output(
        tmp_path / "m", WAYMO, (labels == 1).astype(np.float32), np.full((height, width), 10.0)
    )
    if (labels == 1).any():
        metrics, curves = evaluate_motion_outputs(tmp_path / "m", root, [WAYMO])
        assert curves is not None
        assert metrics["motion/AP"] == pytest.approx(1)
    points = layouts.depth_points(root, WAYMO.segment, 1)
    assert points is not None
    # A depth map that holds the lidar's values where it measured is without error there.
    depth = np.full((height, width), np.median(points[:, 2]))
    depth[points[:, 0].astype(int), points[:, 1].astype(int)] = points[:, 2]
    write_output(tmp_path / "d", WAYMO, np.zeros((height, width), np.float32), depth)
    metrics, _ = evaluate_motion_outputs(tmp_path / "d", root, [WAYMO])
    assert metrics["depth/d1"] > 0.97  # several points may share a pixel


@pytest.mark.parametrize(
    ("name", "frame"), [("tiny_waymo", WAYMO), ("tiny_kitti", KITTI), ("tiny_nuscenes", NUSCENES)]
)
def test_a_plain_road_is_better_than_nothing(
    tiny: Path, tmp_path: Path, name: str, frame: FrameRef
) -> None:
    flat_output(tmp_path / "road", frame)
    write_output(tmp_path / "wall", frame, np.full((64, 96), 0.2), np.full((64, 96), 10.0))
    road, wall = (
        evaluate_motion_outputs(tmp_path / kind, tiny / name, [frame])[0]["depth/abs_rel"]
        for kind in ("road", "wall")
    )
    assert road < wall


def test_nuscenes_labels_are_known_at_its_points_only(tiny: Path) -> None:
    truth = read_truth(tiny / "tiny_nuscenes", NUSCENES)
    assert truth is not None
    assert truth.labels is not None
    assert truth.points is not None
    assert 0 < (truth.labels != 3).sum() <= len(truth.points)
    assert read_truth(tiny / "tiny_nuscenes", NUSCENES.neighbour(1)) is None


def drive(root: Path, truth: Path, *, scale: float, sideways: bool = False) -> list[FrameRef]:
    """Outputs and true poses of a camera that drives a curve."""
    frames = [FrameRef("val/clip", index) for index in range(1, 6)]
    poses = []
    for index in range(8):
        pose = np.eye(4)
        pose[:3, :3] = cv2.Rodrigues(np.array([0, 0.1 * index, 0]))[0]
        pose[:3, 3] = [0.05 * index**2, 0, index]
        poses.append(pose)
    (truth / "val/clip").mkdir(parents=True)
    (truth / "val/clip/poses.txt").write_text(
        "".join(" ".join(map(str, pose.ravel())) + "\n" for pose in poses)
    )
    shape = (12, 16)
    for frame in frames:
        relative = [np.linalg.inv(poses[frame.index + o]) @ poses[frame.index] for o in (-1, 1)]
        stored = np.array(relative)
        stored[:, :3, 3] *= scale
        if sideways:
            stored[:, :3, 3] = stored[:, [2, 1, 0], 3]
        depth = np.full(shape, 5.0)
        depth[6:] = 2
        instances = np.zeros(shape, np.uint8)
        instances[2:5, 2:5] = 1
        write_npz(
            frame.file(truth, ".npz"),
            **{"depth": depth, "instances": instances, "ids": np.array([1])},
            moving=np.array([True]),
        )
        write_npz(
            frame.file(root, ".npz"),
            **{"mot_mask": (instances > 0).astype(np.float32), "depth": depth, "pose": stored},
        )
    return frames


def test_odometry_is_measured_up_to_scale(tmp_path: Path) -> None:
    frames = drive(tmp_path / "m", tmp_path / "t", scale=0.05)
    metrics, _ = evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames)
    assert metrics["odometry/ATE"] == pytest.approx(0, abs=1e-9)
    scattered, _ = evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames[::2])
    assert "odometry/ATE" not in scattered


def test_a_camera_that_drives_elsewhere_has_an_error(tmp_path: Path) -> None:
    frames = drive(tmp_path / "m", tmp_path / "t", scale=1, sideways=True)
    metrics, _ = evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames)
    assert metrics["odometry/ATE"] > 0.3


def test_the_command_writes_numbers_and_the_curve(tmp_path: Path) -> None:
    frames = drive(tmp_path / "m", tmp_path / "t", scale=1)
    write_split(tmp_path / "split.txt", frames)
    measure_motion(tmp_path / "m", tmp_path / "t", tmp_path / "split.txt", tmp_path / "out")
    assert read_json(tmp_path / "out/metrics.json")["motion/AP"] == pytest.approx(1)
    picture = (tmp_path / "out/precision_recall.svg").read_text()
    assert picture.startswith("<svg xmlns=")
    assert "polyline" in picture
    assert "var(" not in picture


def test_frames_without_any_truth_are_an_error(tiny: Path, tmp_path: Path) -> None:
    frame = FrameRef("scenes/scene-0099", 85)
    flat_output(tmp_path, frame)
    with pytest.raises(InputError, match="neither depth nor motion truth"):
        evaluate_motion_outputs(tmp_path, tiny / "tiny_nuscenes", [frame])


def nuscenes_like(
    root: Path, motion: Path, points: dict[int, list[list[float]]], labels: list[int]
) -> list[FrameRef]:
    """Frames of 24 x 32 pixels with outputs and depth points (column, row, metres), and labels."""
    frames = [FrameRef("scenes/s", index) for index in points]
    for frame in frames:
        front, name = root / "scenes/s/FRONT", f"{frame.index:06d}"
        write_image(front / f"rgb/original/{name}.jpg", np.zeros((24, 32, 3), np.uint8))
        found = np.array(points[frame.index], float).reshape(-1, 3)
        write_points(front / f"depth/{name}.npy", found)
        write_npz(front / f"mask/{name}.npz", motion_label=np.array(labels[: len(found)], np.uint8))
        write_output(motion, frame, np.full((12, 16), 0.5, np.float32), np.full((12, 16), 8.0))
    return frames


ROAD = [[3, 20, 8.0], [10, 20, 8.0], [20, 20, 8.0], [30, 20, 8.0]]


def test_frames_without_depth_points_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = [[c, r, 900.0] for c, r, _ in ROAD]
    frames = nuscenes_like(tmp_path / "t", tmp_path / "m", {0: ROAD, 1: [], 2: far}, [0, 1, 2, 0])
    metrics, _ = evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames)
    assert metrics["depth/abs_rel"] == pytest.approx(0)
    assert "depth: 2 of 3 frames left out, none of the 0 depth points" in capsys.readouterr().out
    with pytest.raises(InputError, match="no frame with depth points is left of 1: none of the 0"):
        evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames[1:2])


def test_points_and_labels_beyond_the_image_are_left_out(tmp_path: Path) -> None:
    beyond = {0: [*ROAD, [32, 20, 30.0]]}
    frames = nuscenes_like(tmp_path / "t", tmp_path / "m", beyond, [0, 1, 2, 0, 1])
    truth = read_truth(tmp_path / "t", frames[0])
    assert truth is not None
    assert truth.points is not None
    assert truth.labels is not None
    assert truth.points[:, 1].max() == 30
    assert (truth.labels == 1).sum() == 1
    metrics, _ = evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames)
    assert metrics["depth/abs_rel"] == pytest.approx(0)
    assert metrics["motion/base_rate"] == pytest.approx(1 / 4)


def test_points_of_another_image_are_named(tmp_path: Path) -> None:
    other = {3: [[c + 500, r, m] for c, r, m in ROAD]}
    frames = nuscenes_like(tmp_path / "t", tmp_path / "m", other, [0, 1, 2, 0])
    with pytest.raises(InputError, match="frame scenes/s 3: 4 of the 4 depth points lie beyond"):
        evaluate_motion_outputs(tmp_path / "m", tmp_path / "t", frames)
