"""CorLoc, DecRate, AP, ARI and mBO: equal to the reference's, and what the corrected form mends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduv.commands.cli import main
from moduv.engine.files import read_json, write_json
from moduv.evaluation.localisation import (
    AP_EXTRA,
    Frame,
    box_iou,
    corloc,
    corrected,
    decrate,
    mean_average_precision,
    mean_overlap,
    measure_localisation,
    one_to_one,
    published,
)
from moduv.evaluation.masks import (
    adjusted_rand,
    foreground_rand,
    mask_measures,
    published_classes,
    published_mask_boxes,
    published_masks,
)
from moduv.instances import rle

CASES = [
    *("perfect", "empty_frames", "no_predictions", "wrong_class", "duplicates", "one_for_two"),
    *("exactly_half", "inclusive_16", "empty_mask_box", "all_classes", "argmax_only", "random"),
]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden/naming"


def frame(predicted: Any, true: Any, ignored: Any = None) -> Frame:
    """Boxes of one class, by falling score."""
    boxes = [np.array(side, float).reshape(-1, 4) for side in (predicted, true)]
    ones = [np.ones(len(side), int) for side in boxes]
    scores = 1 - 0.1 * np.arange(len(boxes[0]))
    others = None if ignored is None else np.array(ignored, float)
    return Frame(boxes[0], ones[0], scores, boxes[1], ones[1], others)


@pytest.mark.parametrize("name", CASES)
def test_published_measures_are_the_references(name: str, golden: Path) -> None:
    case = read_json(golden / "detection_metrics.json")[name]
    frames = [
        Frame(
            np.array(predicted["boxes"], float).reshape(-1, 4),
            np.array(predicted["labels"], int),
            np.array(predicted["scores"], float),
            np.array(true["boxes"], float).reshape(-1, 4),
            np.array(true["labels"], int),
        )
        for predicted, true in zip(case["predictions"], case["truth"], strict=True)
    ]
    expected = case["result"]
    for threshold, key in ((0.5, "ap50"), (0.75, "ap75")):
        mean, each = mean_average_precision(frames, threshold, AP_EXTRA)
        assert mean == pytest.approx(expected[key], abs=1e-5)
        known = {n: v for n, v in enumerate(expected[f"{key}_per_class"]) if v is not None}
        assert each == pytest.approx(known, abs=1e-5)
    assert published(frames)["AP50"] == pytest.approx(expected["ap50"], abs=1e-5)
    assert corloc(frames) == pytest.approx(expected["corloc"], abs=1e-5)
    assert decrate(frames) == pytest.approx(expected["decrate"], abs=1e-5)
    assert decrate(frames, one_to_one) == pytest.approx(expected["hungarian_decrate"], abs=1e-5)
    assert mean_overlap(frames) == pytest.approx(expected["best_overlap_iou"], abs=1e-5)
    assert mean_overlap(frames, one_to_one) == pytest.approx(expected["hungarian_iou"], abs=1e-5)
    assert sum(len(f.true) > 0 for f in frames) == expected["frames_counted"]


def test_masks_are_measured_as_by_the_reference(golden: Path) -> None:
    expected, arrays = read_json(golden / "mask_metrics.json"), np.load(golden / "mask_metrics.npz")
    soft, true = arrays["prediction"], arrays["target"].astype(bool)
    slots = np.moveaxis(np.eye(soft.shape[2], dtype=bool)[soft.argmax(2)], -1, 2)
    for masks, kind in ((slots, "argmax"), (soft >= 1.0, "threshold")):
        pairs = [[m.swapaxes(0, 1) for m in side] for side in (true, masks)]
        for single, matching in ((True, "hungarian"), (False, "best_overlap")):
            found = published_masks(*pairs, one_to_one=single)
            for name, value in found.items():
                key = f"mask_{name}_{matching}_{kind}"
                assert value == pytest.approx(expected[key], abs=1e-5), key
    maps = [(t.argmax(1).ravel(), s.argmax(1).ravel()) for t, s in zip(true, soft, strict=True)]
    foreground = [foreground_rand(*pair) for pair in maps]
    assert foreground == pytest.approx(expected["per_clip_ari_foreground"], abs=1e-5)
    measured = mask_measures([t for t, _ in maps], [s for _, s in maps])
    assert measured["ARI"] == pytest.approx(expected["ari_all"], abs=1e-5)
    assert measured["FG-ARI"] == pytest.approx(expected["ari_foreground"], abs=1e-5)


def test_boxes_around_masks_are_measured_as_by_the_reference(golden: Path) -> None:
    expected, arrays = read_json(golden / "mask_metrics.json"), np.load(golden / "mask_metrics.npz")
    soft, true = (
        arrays[name].reshape(-1, *arrays[name].shape[2:]) for name in ("prediction", "target")
    )
    slots = np.moveaxis(np.eye(soft.shape[1], dtype=bool)[soft.argmax(1)], -1, 1)
    for masks, kind in ((slots, "argmax"), (soft >= 1.0, "threshold")):
        for single, matching in ((True, "hungarian"), (False, "best_overlap")):
            found = published_mask_boxes(true.astype(bool), masks, one_to_one=single)
            for name, value in found.items():
                number = expected[f"box_{name}_{matching}_{kind}"]
                assert value == pytest.approx(
                    np.nan if number is None else number, abs=1e-5, nan_ok=True
                )
    whole = true[4:].astype(bool)
    assert published_mask_boxes(whole, whole, one_to_one=True)["iou"] == 1


@pytest.mark.parametrize(
    ("matching", "name"),
    [
        ("hungarian", "hungarian"),
        ("background", "hungarian_unmatched_background"),
        ("foreground", "hungarian_ignore_background"),
        ("majority", "majority"),
    ],
)
def test_classes_are_matched_over_a_data_set_as_by_the_reference(
    matching: str, name: str, golden: Path
) -> None:
    expected = read_json(golden / "mask_metrics.json")[f"semantic_{name}"]
    arrays = np.load(golden / "mask_metrics.npz")
    slots = arrays["prediction"].argmax(2).reshape(6, -1)
    predicted = np.take_along_axis(arrays["predicted_class"], slots, 1)
    # A pixel's class is the value of the one mask that it lies in.
    true = arrays["semantic_target"].max(2).reshape(6, -1)
    ious, accuracy = published_classes(true, predicted, 4, matching)
    assert ious == pytest.approx(expected["iou"], abs=1e-5)
    assert accuracy == pytest.approx(expected["accuracy"], abs=1e-5)
    assert not any(expected["empty"])


def test_rand_indices_of_the_reference_where_they_are_hardly_defined(golden: Path) -> None:
    expected = read_json(golden / "mask_metrics.json")["ari_edge_cases"]
    one, two = np.ones(6, int), np.array([1, 1, 1, 2, 2, 2])
    cases = {
        "one_cluster_each": (one, one),
        "two_equal": (two, 3 - two),
        "true_one_predicted_two": (one, two),
        "no_foreground": (0 * one, two),
        "one_point": (one[:1], two[:1]),
    }
    assert {name: foreground_rand(*pair) for name, pair in cases.items()} == expected


def test_rand_indices_where_they_are_hardly_defined() -> None:
    same, two = np.zeros(6, int), np.array([0, 0, 0, 1, 1, 1])
    assert adjusted_rand(same, same) == adjusted_rand(two, 1 - two) == 1
    assert adjusted_rand(same, two) == 0
    assert foreground_rand(same, two) == adjusted_rand(same[:1], two[:1]) == 1
    assert adjusted_rand(np.arange(6), np.arange(6)) == 1


@given(st.integers(0, 10_000))
def test_the_rand_index_counts_pairs_and_no_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 3, 12), rng.integers(0, 4, 12)
    upper = np.triu_indices(12, 1)
    a, b = ((x[:, None] == x)[upper] for x in (first, second))
    expected = a.sum() * b.sum() / len(a)
    possible = (a.sum() + b.sum()) / 2 - expected
    value = adjusted_rand(first, second)
    assert value == pytest.approx((a & b).sum() / possible - expected / possible if possible else 1)
    assert value == pytest.approx(adjusted_rand(rng.permutation(4)[second], first))


def test_the_overlap_of_objects_leaves_the_background_out() -> None:
    true = np.array([[0, 0, 1, 1], [0, 0, 2, 2]])
    found = np.array([[5, 5, 7, 7], [5, 5, 7, 8]])
    assert mask_measures([true], [found])["mBO"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    empty = np.zeros((2, 4), int)
    assert mask_measures([empty], [empty]) == {"ARI": 1.0, "FG-ARI": -1.0, "mBO": -1.0}


def test_confetti_costs_precision_and_one_box_finds_one_object() -> None:
    true = [[0, 0, 10, 10], [20, 0, 30, 10]]
    right = frame(true, true)
    assert corrected([right]) == dict.fromkeys(corrected([right]), 1.0) | {"boxes_a_frame": 2.0}
    confetti = frame([*true, *([n, 40, n + 5, 45] for n in range(18))], true)
    assert published([confetti])["CorLoc"] == corrected([confetti])["CorLoc"] == 1
    assert corrected([confetti])["precision"] == pytest.approx(0.1)
    assert corrected([confetti])["boxes_a_frame"] == 20
    shared_box = frame([[0, 0, 20, 10]], [[0, 0, 11, 10], [9, 0, 20, 10]])
    assert published([shared_box])["DecRate"] == 1
    assert corrected([shared_box])["DecRate"] == 0.5


def test_every_object_counts_alike_and_half_is_enough() -> None:
    few, many = frame([[0, 0, 9, 9]], [[0, 0, 9, 9]]), frame([], [[0, 0, 9, 9]] * 3)
    assert published([few, many])["DecRate"] == 0.5
    assert corrected([few, many])["DecRate"] == 0.25
    half = frame([[0, 0, 10, 20]], [[0, 0, 20, 20]])
    assert published([half])["CorLoc"] == 0
    assert corrected([half])["CorLoc"] == corrected([half])["AP50"] == 1


def test_boxes_without_area_and_boxes_on_ignored_objects_do_not_count() -> None:
    one = frame(
        [[0, 0, 10, 10], [0, 0, 0, 0], [40, 0, 50, 10], [80, 0, 90, 10]],
        [[0, 0, 10, 10]],
        ignored=[[38, 0, 52, 12]],
    )
    found = corrected([one])
    assert (found["boxes_a_frame"], found["precision"], found["AP50"]) == (2, 0.5, 1)
    assert corrected([])["AP50"] == published([])["CorLoc"] == -1
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]


def test_files_are_measured_by_names_and_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry(number: int, box: list[int], **more: Any) -> dict[str, Any]:
        mask = rle.from_box(box, (40, 60))
        return {"id": number, "image_id": 1, "bbox": box, "segmentation": mask, **more}

    images = [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}]
    objects = [
        entry(1, [0, 0, 10, 10], name="car"),
        entry(2, [20, 0, 10, 10], name="bus"),
        entry(3, [40, 0, 10, 10], name="bus", ignore=1),
    ]
    found = [
        entry(1, [0, 0, 10, 10], name="car", score=0.9),
        entry(2, [20, 0, 10, 10], name="car", score=0.8),
        entry(3, [40, 0, 10, 10], score=0.7),
        entry(4, [0, 30, 10, 10], score=0.2),
    ]
    write_json(tmp_path / "truth.json", {"images": images, "annotations": objects})
    write_json(tmp_path / "found.json", found)
    paths = [tmp_path / "truth.json", tmp_path / "found.json"]
    metrics = measure_localisation(*paths)
    assert metrics["corrected/AP50"] == 0.5
    assert metrics["corrected/AP50_agnostic"] == metrics["corrected/precision"] == 1
    assert metrics["published/CorLoc"] == metrics["mask/ARI"] == metrics["mask/mBO"] == 1
    assert measure_localisation(*paths, score=0.0)["corrected/precision"] == pytest.approx(2 / 3)
    options = ["--ground_truth", str(paths[0]), "--predictions", str(paths[1])]
    main(["evaluate", "localisation", *options, "--out", str(tmp_path / "metrics.json")])
    assert read_json(tmp_path / "metrics.json") == metrics
    told = capsys.readouterr().out
    assert "1 of 3 predictions are of no true class (no name)" in told
    write_json(paths[1], [{**found[0], "name": "lorry"}, found[1]])
    measure_localisation(*paths)
    assert "1 of 2 predictions are of no true class (lorry)" in capsys.readouterr().out
