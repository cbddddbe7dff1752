"""Depth errors of moving and static pixels: the reference's numbers, one scale an image, errors to act on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dynamic_golden import arrays, expected
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.evaluation.depth import METRICS, DepthProtocol, enlarge, mean_errors, region_errors
from moduv.evaluation.depth_regions import PROTOCOLS, dynamic_pixels, evaluate_depths, object_errors
from moduv.frames.clip import FrameRef
from moduv.runs.measure import measure_depth


def test_errors_are_the_references(shared: Path) -> None:
    case, numbers = arrays(shared, "evaluation"), expected(shared, "evaluation")
    found = region_errors(case["truth"], case["prediction"], case["dynamic"])
    assert list(found) == list(numbers)
    for region, errors in found.items():
        assert list(errors) == list(METRICS)
        assert np.allclose(list(errors.values()), numbers[region], rtol=1e-6)


def enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(array, np.ones((factor, factor), array.dtype))


def test_cityscapes_files_are_evaluated_as_by_the_reference(shared: Path) -> None:
    case, numbers = arrays(shared, "evaluation_files"), expected(shared, "evaluation_files")
    protocol, maps, objects = PROTOCOLS["cityscapes"], [], []
    for truth, disparity, masks in zip(
        *(case[k] for k in ("truth", "disparity", "masks")), strict=True
    ):
        # Frames are the upper 768 of 1024 rows; all of these masks are within them.
        true = enlarged(truth, 16)[:768]
        movers = [enlarged(mask, 16)[:768] > 0 for mask in masks]
        predicted = enlarged(disparity, 4)
        dynamic = dynamic_pixels(movers, protocol.smallest, (768, 2048))
        maps.append((true, 1 / enlarge(predicted, 768, 2048), dynamic))
        small = [cv2.resize(m.astype(np.uint8), (512, 192), interpolation=0) > 0 for m in movers]
        nearest = cv2.resize(true, (512, 192), interpolation=cv2.INTER_NEAREST)
        objects += object_errors(nearest, 1 / predicted, small[::2], protocol.depths)
    found = region_errors(*(np.stack(each) for each in zip(*maps, strict=True)), protocol.depths)
    found["objects"] = mean_errors([item.own for item in objects])
    assert len(objects) == 6, "the frame without masks has none"
    for region, errors in found.items():
        assert np.allclose(list(errors.values()), list(numbers[region].values()), rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_the_unit_of_a_prediction_does_not_matter(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 60, (6, 8))
    prediction, dynamic = truth * rng.uniform(0.5, 2, truth.shape), rng.random(truth.shape) < 0.3
    dynamic[0, 0], dynamic[0, 1] = True, False
    first, second = (region_errors(truth, p, dynamic) for p in (prediction, factor * prediction))
    for region in first:
        assert first[region] == pytest.approx(second[region])


def test_moving_pixels_do_not_get_a_scale_of_their_own() -> None:
    truth = np.full((10, 10), 20.0)
    dynamic = np.zeros((10, 10), bool)
    dynamic[:3] = True
    errors = region_errors(truth, np.where(dynamic, 2.0, 1.0), dynamic)
    assert errors["static"]["abs_rel"] == pytest.approx(0.0)
    assert errors["dynamic"]["abs_rel"] == pytest.approx(1.0)
    assert errors["all"]["abs_rel"] == pytest.approx(0.3)
    (item,) = object_errors(truth, np.where(dynamic, 2.0, 1.0), [dynamic])
    assert item.scale == pytest.approx(2.0)
    assert item.own["abs_rel"] == pytest.approx(0.0)


def test_images_without_movers_do_not_count_for_them() -> None:
    truth = np.full((2, 4, 4), 10.0)
    dynamic = np.zeros_like(truth)
    assert list(region_errors(truth, truth, dynamic)) == ["all", "static"]
    dynamic[1, 0] = 1
    prediction = np.where(dynamic > 0, 5.0, 10.0)
    assert region_errors(truth, prediction, dynamic)["dynamic"]["abs_rel"] == pytest.approx(0.5)


def test_bad_maps_are_named() -> None:
    truth = np.full((4, 4), 10.0)
    with pytest.raises(InputError, match=r"truth \(4, 4\), prediction \(4, 5\)"):
        region_errors(truth, np.ones((4, 5)), truth)
    with pytest.raises(InputError, match="not positive and finite"):
        region_errors(truth, np.full((4, 4), np.nan), truth)
    with pytest.raises(InputError, match=r"between 0\.001 and 80 m"):
        region_errors(truth * 100, truth, truth)
    with pytest.raises(InputError, match="inside the crop"):
        region_errors(truth, truth, truth, DepthProtocol(crop=(1.0, 1.0, 0.0, 1.0)))


def street_frame(root: Path) -> tuple[Path, Path, FrameRef]:
    """A frame with a wall at 20 m, a parked object at 8 m and a mover at 10 m that is seen at 15 m."""
    frame, truth = FrameRef("val/clip_0000", 1), np.full((12, 16), 20.0, np.float32)
    instances = np.zeros((12, 16), np.uint8)
    instances[2:5, 2:6], instances[6:9, 8:14] = 1, 2
    truth[instances == 1], truth[instances == 2] = 8, 10
    known = {"ids": np.array([1, 2]), "moving": np.array([False, True])}
    write_npz(frame.file(root / "truth", ".npz"), depth=truth, instances=instances, **known)
    depth = np.where(instances == 2, 15, truth) / 7
    write_npz(frame.file(root / "motion", ".npz"), depth=depth)
    split = root / "val.txt"
    split.write_text(frame.line() + "\n")
    return root / "motion", split, frame


def test_motion_outputs_are_measured_by_region(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motion, split, _ = street_frame(tmp_path)
    measure_depth(motion, tmp_path / "truth", split, out=tmp_path / "depth.json")
    metrics = json.loads((tmp_path / "depth.json").read_text())
    head, _, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[:3]] == ["all", "static", "dynamic"]
    assert rows[2][1 + head.index("abs_rel")] == "0.500"
    assert ["objects", "1"] in rows
    assert metrics["abs_rel_static"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["abs_rel_dynamic"] == pytest.approx(0.5, rel=1e-5)
    assert metrics["objects"] == 1
    assert metrics["object_scale_error"] == pytest.approx(np.log(1.5), rel=1e-5)
    assert metrics["object_too_far"] == 1
    assert metrics["object_abs_rel"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["dynamic_share"] == pytest.approx(18 / 192)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    motion, split, frame = street_frame(tmp_path)
    with pytest.raises(InputError, match="protocol 'kitti' is unknown; choose one of"):
        measure_depth(motion, tmp_path / "truth", split, protocol="kitti")
    write_npz(frame.file(motion, ".npz"), depth=np.full((12, 16), np.nan))
    with pytest.raises(InputError, match=r"000001\.npz: 'depth' is not positive and finite"):
        evaluate_depths(motion, tmp_path / "truth", [frame], PROTOCOLS["street"])
