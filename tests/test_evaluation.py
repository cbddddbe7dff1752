"""The evaluation's promises: COCO's numbers, the published metrics, and errors one can act on."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.evaluation.detection import AREAS, evaluate
from moduv.evaluation.tables import format_table, show_metrics
from moduv.instances.coco import select_images

HEIGHT, WIDTH = 96, 160


def box_rle(box: list[float]) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    x, y, width, height = (max(0, round(value)) for value in box)
    mask[y : y + height, x : x + width] = 1
    rle = rle_codec.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def random_scene(seed: int, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth with crowds, ignored slivers, moving and static; noisy predictions of it."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [
            {"id": 7 + i, "file_name": f"val/clip/{i:06d}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(images)
        ],
        "categories": [{"id": 1, "name": "object"}, {"id": 2, "name": "other"}],
        "annotations": [],
    }
    predictions: list[dict[str, Any]] = []

    def predict(image_id: int, box: list[float]) -> None:
        predictions.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "bbox": box,
                "score": float(np.round(rng.random(), 1)),  # ties on purpose
                "segmentation": box_rle(box),
            }
        )

    for image in truth["images"]:
        for _ in range(rng.integers(0, 7)):
            size = rng.uniform(4, 70, 2)
            corner = rng.uniform(0, 1, 2) * (WIDTH - size[0], HEIGHT - size[1])
            box = [float(v) for v in (*corner, *size)]
            mask = box_rle(box)
            kind = rng.choice(["", "iscrowd", "ignore"], p=[0.8, 0.1, 0.1])
            truth["annotations"].append(
                {
                    "id": 100 + len(truth["annotations"]),
                    "image_id": image["id"],
                    "category_id": int(rng.integers(1, 3)),
                    "bbox": box,
                    "area": float(rle_codec.area(mask)),
                    "segmentation": mask,
                    "iscrowd": int(kind == "iscrowd"),
                    "ignore": int(kind == "ignore"),
                    "moving": int(rng.integers(0, 2)),
                }
            )
            for _ in range(rng.integers(0, 3)):
                predict(image["id"], [float(max(0.0, v + rng.normal() * 3)) for v in box])
        for _ in range(rng.integers(0, 3)):
            predict(image["id"], [float(v) for v in rng.uniform(3, 40, 4)])
    return truth, predictions


def reference(
    truth: dict[str, Any],
    predictions: list[dict[str, Any]],
    kind: str,
    areas: dict[str, tuple[float, float]],
    limits: list[int],
) -> tuple[np.ndarray, COCOeval]:
    """pycocotools' twelve numbers, one class, `ignore` read as crowd."""
    truth, predictions = copy.deepcopy((truth, predictions))
    for entry in truth["annotations"]:
        entry["category_id"] = 1
        entry["iscrowd"] = int(entry["iscrowd"] or entry["ignore"])
    for entry in predictions:
        # As is usual for masks: with a box, pycocotools would size the mask by it.
        del entry["segmentation" if kind == "box" else "bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(predictions), "bbox" if kind == "box" else "segm")
        evaluator.params.catIds = [1]
        evaluator.params.maxDets = limits
        evaluator.params.areaRng = [[0, 1e10], *(list(v) for v in areas.values())]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.params.areaRngLbl = ["all", "small", "medium", "large"]
        evaluator.summarize()
    return evaluator.stats, evaluator


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("preset", ["coco", "street"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_equal_pycocotools(kind: str, preset: str, seed: int) -> None:
    truth, predictions = random_scene(seed, images=20)
    metrics = evaluate(truth, predictions, areas=preset)
    expected, _ = reference(truth, predictions, kind, AREAS[preset], [1, 10, 100])
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    names += ["AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large"]
    ours = [metrics[f"{kind}/{name}"] for name in names]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    assert 0 < metrics[f"{kind}/AP"] < 1


def test_polygons_and_uncompressed_crowds_equal_pycocotools() -> None:
    truth, predictions = random_scene(7, images=20)
    for entry in truth["annotations"]:
        x, y, width, height = entry["bbox"]
        right, bottom = x + width, y + height
        if entry["iscrowd"]:
            runs = [round(x) * HEIGHT, round(width) * HEIGHT]
            counts = [*runs, HEIGHT * WIDTH - sum(runs)]
            entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
        else:
            cut = [x, y, right, y, right, bottom, x + width / 4, bottom, x, bottom - height / 4]
            entry["segmentation"] = [cut, [x, y, x + 1, y, x + 1, y + 1]]
    metrics = evaluate(truth, predictions)
    expected, _ = reference(truth, predictions, "mask", AREAS["coco"], [1, 10, 100])
    assert metrics["mask/AP"] == pytest.approx(expected[0], abs=1e-12)
    assert metrics["mask/AR@100"] == pytest.approx(expected[8], abs=1e-12)
    assert metrics["mask/AP50"] > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 12), kind=st.sampled_from(["box", "mask"]))
def test_matches_equal_pycocotools_for_any_limit(seed: int, limit: int, kind: str) -> None:
    truth, predictions = random_scene(seed)
    if not truth["annotations"] or not predictions:
        return
    metrics = evaluate(truth, predictions, max_detections=limit)
    _, evaluator = reference(truth, predictions, kind, AREAS["coco"], [1, 1, limit])
    recall = evaluator.eval["recall"][0, 0, 0, -1]
    assert metrics[f"{kind}/recall"] == pytest.approx(recall, abs=1e-12)
    objects = metrics["count/objects"]
    for groups in (("moving", "static"), ("small", "medium", "large")):
        found = sum(
            max(metrics[f"{kind}/recall_{group}"], 0) * metrics[f"count/{group}"]
            for group in groups
        )
        assert found == pytest.approx(max(metrics[f"{kind}/recall"], 0) * objects)


def two_cars() -> dict[str, Any]:
    """A moving car of 40 x 40 and a parked one of 10 x 10."""
    boxes = [[10.0, 10.0, 40.0, 40.0], [100.0, 60.0, 10.0, 10.0]]
    return {
        "images": [{"id": 1, "file_name": "val/c/000001.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": box_rle(box),
                "moving": 1 - i,
            }
            for i, box in enumerate(boxes)
        ],
    }


def test_recalls_tell_moving_from_static_and_small_from_large() -> None:
    truth = two_cars()
    box = truth["annotations"][0]["bbox"]
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "segmentation": box_rle(box)}]
    metrics = evaluate(truth, found, areas="street")
    for kind in ("box", "mask"):
        assert metrics[f"{kind}/recall"] == 0.5
        assert metrics[f"{kind}/recall_moving"] == 1
        assert metrics[f"{kind}/recall_static"] == 0
        assert metrics[f"{kind}/recall_small"] == 0
        assert metrics[f"{kind}/recall_static_small"] == 0
        assert metrics[f"{kind}/recall_moving_small"] == -1
        assert metrics[f"{kind}/precision_at_score"] == 1
        assert metrics[f"{kind}/F1_at_score"] == pytest.approx(2 / 3)


def test_instances_of_unknown_motion_count_in_neither_recall() -> None:
    truth = two_cars()
    del truth["annotations"][1]["moving"]
    metrics = evaluate(truth, [])
    assert (metrics["count/moving"], metrics["count/static"], metrics["count/objects"]) == (1, 0, 2)
    assert metrics["box/recall_static"] == -1


def test_ignored_objects_are_neither_asked_for_nor_held_against_a_detection() -> None:
    truth = two_cars()
    truth["annotations"][1]["ignore"] = 1
    predictions = [
        {"image_id": 1, "category_id": 1, "bbox": entry["bbox"], "score": 0.9}
        for entry in truth["annotations"]
    ]
    metrics = evaluate(truth, predictions)
    assert metrics["box/AP"] == pytest.approx(1)
    assert metrics["box/precision_at_score"] == 1
    assert (metrics["count/objects"], metrics["count/ignored"]) == (1, 1)


def test_score_threshold_and_best_f1() -> None:
    truth = two_cars()
    boxes = [(truth["annotations"][0]["bbox"], 0.8), ([60.0, 5.0, 20.0, 20.0], 0.6)]
    boxes += [(truth["annotations"][1]["bbox"], 0.3), ([1.0, 70.0, 20.0, 20.0], 0.1)]
    predictions = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in boxes
    ]
    metrics = evaluate(truth, predictions, score_threshold=0.5)
    assert metrics["box/precision_at_score"] == 0.5
    assert metrics["box/recall_at_score"] == 0.5
    assert metrics["box/recall"] == 1
    assert metrics["box/best_F1"] == pytest.approx(2 * 2 / (3 + 2))
    assert metrics["box/best_F1_score"] == pytest.approx(0.1)
    again = evaluate(truth, predictions, score_threshold=metrics["box/best_F1_score"])
    assert again["box/F1_at_score"] == pytest.approx(metrics["box/best_F1"])


def test_label_set_is_found_by_file_name(tmp_path: Path) -> None:
    truth = two_cars()
    labels = {
        "images": [{"id": 55, "file_name": "val/c/000001.png"}],
        "annotations": [{**copy.deepcopy(e), "image_id": 55} for e in truth["annotations"]],
    }
    for entry in labels["annotations"]:
        entry.pop("moving")
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "labels.json", labels)
    metrics = evaluate(tmp_path / "truth.json", str(tmp_path / "labels.json"))
    assert metrics["mask/AP"] == pytest.approx(1)
    assert metrics["box/recall_static"] == 1
    json.dumps(metrics, allow_nan=False)


def test_no_predictions_is_a_result() -> None:
    metrics = evaluate(two_cars(), [])
    assert metrics["box/AP"] == metrics["mask/AP"] == metrics["box/recall"] == 0
    assert metrics["box/precision_at_score"] == -1


def test_masks_are_left_out_where_a_side_has_none() -> None:
    truth = two_cars()
    predictions = [{"image_id": 1, "bbox": [1.0, 1, 5, 5], "score": 1.0}]
    assert "mask/AP" not in evaluate(truth, predictions)
    for entry in truth["annotations"]:
        del entry["segmentation"]
    assert "mask/AP" not in evaluate(truth, [])


def test_select_images_restricts_the_truth() -> None:
    truth, _ = random_scene(3)
    names = [truth["images"][4]["file_name"], truth["images"][1]["file_name"]]
    part = select_images(truth, names)
    assert [image["file_name"] for image in part["images"]] == names
    ids = {image["id"] for image in part["images"]}
    assert {entry["image_id"] for entry in part["annotations"]} <= ids
    with pytest.raises(InputError, match="no image 'val/x'"):
        select_images(truth, ["val/x.jpg"])


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        evaluate(tmp_path / "absent.json", [])
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"half\.json: not readable as JSON"):
        evaluate(two_cars(), tmp_path / "half.json")
    with pytest.raises(InputError, match="areas is 'huge'"):
        evaluate(two_cars(), [], areas="huge")
    with pytest.raises(InputError, match=r"image 'val/d/1\.jpg' is not in"):
        evaluate(two_cars(), {"images": [{"id": 1, "file_name": "val/d/1.jpg"}], "annotations": []})


def test_counts_are_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_metrics({"objects": 1541, "share": 0.25}, tmp_path / "metrics.json")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["objects", "1,541"],
        ["share", "0.2500"],
    ]
    assert read_json(tmp_path / "metrics.json") == {"objects": 1541, "share": 0.25}


def test_tables_align_in_text_and_markdown() -> None:
    rows = {"L0": {"a": 0.25, "n": 1234}, "Moving2Mobile": {"a": -1.0}}
    text = format_table(rows, {"n": "objects", "a": "AP"}).splitlines()
    assert text[0].split() == ["objects", "AP"]
    assert text[2].split() == ["L0", "1,234", "0.250"]
    assert text[3].split() == ["Moving2Mobile", "–", "–"]
    assert len({len(line) for line in text}) == 1
    markdown = format_table(rows, {"n": "n", "a": "a"}, markdown=True).splitlines()
    assert markdown[2] == "| L0            | 1,234 | 0.250 |"
    assert len({len(line) for line in markdown}) == 1
    assert set(markdown[1]) == set("|- :")


def test_detection_areas_are_data() -> None:
    truth, predictions = random_scene(5)
    metrics = evaluate(truth, predictions, areas={"tiny": (0, 100), "rest": (100, 1e10)})
    assert {"box/AP_tiny", "mask/AR_rest", "count/tiny", "box/recall_static_tiny"} <= metrics.keys()
