"""Depth, motion and odometry metrics equal the reference, and stage 1 is compared with the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.datasets.truth import points_of_map
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.evaluation import depth, motion, odometry
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import MOVING, UNLABELLED


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(shared / "golden/metrics/metrics.npz") as archive:
        arrays = dict(archive)
    return arrays, json.loads((shared / "golden/metrics/metrics.json").read_text())


REFERENCE_NAMES = {
    "abs_rel": "de:abs_rel",
    "sq_rel": "de:sq_rel",
    "rmse": "de:rms",
    "rmse_log": "de:log_rms",
    "d1": "da:a1",
    "d2": "da:a2",
    "d3": "da:a3",
}


@pytest.mark.parametrize(
    ("key", "protocol"), [("depth_waymo", depth.WAYMO), ("depth_kitti", depth.KITTI)]
)
def test_depth_errors_equal_the_reference(
    golden: Any, key: str, protocol: depth.DepthProtocol
) -> None:
    arrays, expected = golden
    errors = depth.depth_errors(
        arrays["disp"][0, 0], arrays["depth_points"], 96, 160, protocol, arrays["labels"]
    )
    for ours, theirs in REFERENCE_NAMES.items():
        assert errors.overall[ours] == pytest.approx(expected[key][theirs], rel=1e-5)
        for label, (total, count) in expected[key][theirs + "_mask"].items():
            assert errors.counts[int(label)] == count
            assert errors.by_label[int(label)][ours] * count == pytest.approx(total, rel=1e-5)


def test_motion_segmentation_equals_the_reference(golden: Any) -> None:
    arrays, expected = golden
    meter = motion.MotionMeter()
    for mask, labels in zip(arrays["motion_pred"], arrays["motion_labels"], strict=True):
        meter.add(mask, labels)
    metrics, curve = meter.result()
    expected = expected["motion_segmentation"]
    np.testing.assert_allclose(curve.precision, expected["precision"], rtol=1e-6)
    np.testing.assert_allclose(curve.recall, expected["recall"], rtol=1e-6)
    assert metrics["motion/best_F1"] == pytest.approx(expected["best_f1"], rel=1e-6)
    assert metrics["motion/best_threshold"] == pytest.approx(expected["best_threshold"], rel=1e-6)


def test_odometry_equals_the_reference(golden: Any) -> None:
    arrays, expected = golden
    errors = odometry.track_errors(arrays["gt_poses"], arrays["pred_poses"])
    np.testing.assert_allclose(errors, expected["odometry_ate_track5_no_axis_shift"], rtol=1e-9)


@given(factor=st.floats(0.01, 100), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_median_scaling_makes_the_unit_irrelevant(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(2, 60, (12, 20))
    disparity = 1 / (truth * rng.uniform(0.8, 1.25, truth.shape))
    points = points_of_map(truth)
    one, other = (
        depth.depth_errors(d, points, 12, 20).overall for d in (disparity, disparity * factor)
    )
    assert one == pytest.approx(other, rel=1e-6)
    perfect = depth.depth_errors(factor / truth, points, 12, 20).overall
    assert perfect["abs_rel"] == pytest.approx(0, abs=1e-9)
    assert perfect["d1"] == 1


def test_depth_weighs_frames_equally_and_labels_by_points() -> None:
    labels = np.zeros((4, 4), int)
    labels[0, 0] = 1
    truth = np.full((4, 4), 10.0)
    good, bad = 1 / truth, 1 / truth
    bad[0, 0] = 1 / 20
    points = points_of_map(truth)
    errors = [depth.depth_errors(d, points, 4, 4, depth.WAYMO, labels) for d in (good, good, bad)]
    result = depth.summarise(errors, {0: "background", 1: "moving", 2: "static"})
    assert "abs_rel_static" not in result
    assert result["abs_rel"] == pytest.approx(1 / 16 / 3)
    assert result["abs_rel_moving"] == pytest.approx(1 / 3)
    assert result["abs_rel_background"] == 0
    assert result["scale_spread"] == 0


def test_depth_input_errors() -> None:
    points = np.array([[1.0, 1.0, 300.0]])
    with pytest.raises(InputError, match="none of the 1 depth points"):
        depth.depth_errors(np.ones((4, 4)), points, 4, 4)
    with pytest.raises(InputError, match="not positive"):
        depth.depth_errors(np.zeros((4, 4)), points * (1, 1, 0.1), 4, 4)


def test_points_beyond_the_image_do_not_count() -> None:
    rows, columns = np.indices((4, 4)).reshape(2, -1)
    inside = np.stack([rows, columns, np.full(16, 10.0)], 1)
    beyond = [[4, 0, 50], [0, 4, 50], [-1, 0, 50], [0, -1, 50]]
    disparity = np.full((4, 4), 1 / 10)
    found = depth.depth_errors(disparity, np.concatenate([inside, beyond]), 4, 4)
    assert found == depth.depth_errors(disparity, inside, 4, 4)
    other = np.concatenate([inside + np.array([0, 100, 0]), inside[:4]])
    with pytest.raises(InputError, match="16 of the 20 depth points lie beyond the frame of 4 x 4"):
        depth.depth_errors(disparity, other, 4, 4)


def exact_average_precision(values: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(positive[order])
    last = np.append(values[:-1] > values[1:], True)
    precision = (hits / np.arange(1, len(hits) + 1))[last]
    recall = (hits / hits[-1])[last]
    return float(np.diff(np.concatenate([[0.0], recall])) @ precision)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 4))
def test_motion_histogram_equals_sorting_all_pixels(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (frames, 20, 30))
    # On the grid of the histogram nothing is lost, so sorting must agree exactly.
    steps = 149 * 64
    masks = rng.integers(0, steps + 1, labels.shape) / steps
    masks = np.where(labels == 1, masks**0.5, masks)
    masks = np.round(masks * steps) / steps
    meter = motion.MotionMeter()
    for mask, label in zip(masks, labels, strict=True):
        meter.add(mask, label)
    metrics, curve = meter.result()
    counted = labels != UNLABELLED
    values, positive = masks[counted], labels[counted] == MOVING
    assert metrics["motion/base_rate"] == pytest.approx(positive.mean())
    expected = exact_average_precision(values, positive)
    assert metrics["motion/AP"] == pytest.approx(expected)
    assert metrics["motion/mean_moving"] == pytest.approx(values[positive].mean())
    for index in (0, 1, 70, 149):
        above = values > curve.thresholds[index]
        assert curve.recall[index] == pytest.approx(above[positive].mean())
    assert metrics["motion/frames"] == frames


def test_motion_input_errors() -> None:
    meter = motion.MotionMeter()
    with pytest.raises(InputError, match="no frame has a moving pixel"):
        meter.result()
    with pytest.raises(InputError, match="resize one"):
        meter.add(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="not logits"):
        meter.add(np.full((2, 2), np.nan), np.zeros((2, 2)))


def test_odometry_ignores_scale_and_refuses_unpaired_poses() -> None:
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(8, 3))
    scaled = poses.copy()
    scaled[:, :3, 3] *= 0.3
    np.testing.assert_allclose(odometry.track_errors(poses, scaled), 0, atol=1e-12)
    still = np.tile(np.eye(4), (8, 1, 1))
    assert np.isfinite(odometry.track_errors(poses, still)).all()
    with pytest.raises(InputError, match="give \\(N, 4, 4\\)"):
        odometry.track_errors(poses, scaled[:5])


def test_motion_outputs_are_compared_with_the_street_truth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [FrameRef("val/clip_0000", index) for index in (1, 2)]
    for frame in frames:
        instances = np.zeros((24, 40), np.uint8)
        instances[4:12, 5:15], instances[10:20, 25:35] = 3, 7
        depth_map = rng.uniform(5, 50, instances.shape).astype(np.float32)
        write_npz(
            frame.file(tmp_path / "truth", ".npz"),
            depth=depth_map,
            instances=instances,
            ids=np.array([3, 7]),
            moving=np.array([True, False]),
        )
        write_npz(
            frame.file(tmp_path / "motion", ".npz"),
            mot_mask=np.where(instances == 3, 0.9, 0.1).astype(np.float16),
            depth=depth_map / 40,
        )
    metrics, curve = evaluate_motion_outputs(tmp_path / "motion", tmp_path / "truth", frames)
    assert metrics["motion/AP"] == pytest.approx(1)
    assert metrics["motion/base_rate"] == pytest.approx(80 / 960)
    assert metrics["motion/mean_static"] == pytest.approx(0.1, abs=1e-3)
    assert metrics["depth/abs_rel"] == pytest.approx(0, abs=1e-5)
    assert metrics["depth/abs_rel_static"] == pytest.approx(0, abs=1e-5)
    assert metrics["motion/best_F1"] == pytest.approx(1)
    assert curve is not None
    json.dumps(metrics, allow_nan=False)
    with pytest.raises(InputError, match=r"000009\.npz: no such file"):
        evaluate_motion_outputs(
            tmp_path / "motion", tmp_path / "truth", [FrameRef("val/clip_0000", 9)]
        )
