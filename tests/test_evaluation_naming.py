"""Names against true names: what is right, what is unknown, what flips, and whether scores know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moduv.commands.cli import main
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.evaluation.naming import measure_names
from moduv.instances import rle

SIZE = (40, 200)


def entry(number: int, image: int, left: int, **more: Any) -> dict[str, Any]:
    box = [left, 0, 10, 10]
    mask = rle.from_box(box, SIZE)
    return {"id": number, "image_id": image, "bbox": box, "segmentation": mask, **more}


def content(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    images = [
        {"id": n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in (1, 2)
    ]
    return {"images": images, "annotations": annotations}


TRUTH = content(
    [
        entry(1, 1, 0, name="red car", track_id=1),
        entry(2, 2, 0, name="red car", track_id=1),
        entry(3, 1, 40, name="blue van", track_id=2),
        entry(4, 2, 40, name="blue van", track_id=2),
        entry(5, 1, 80, name="red car", track_id=3),
        entry(6, 1, 120, name="truck", track_id=4),
    ]
)
FOUND = content(
    [
        entry(1, 1, 0, name="red car", name_score=0.6, name_margin=0.4, score=0.9),
        entry(2, 2, 0, name="blue car", name_score=0.8, name_margin=0.2, score=0.9),
        entry(3, 1, 40, name="blue van", name_score=0.7, name_margin=0.3, score=0.9),
        entry(4, 2, 40, name="red car", name_score=0.9, name_margin=0.1, score=0.9),
        entry(5, 1, 80, name_score=0.2, name_margin=0.2, score=0.9),
        entry(6, 1, 160, name="truck", name_score=0.9, name_margin=0.5, score=0.9),
        entry(7, 1, 120, score=0.1),
    ]
)


def test_what_is_right_unknown_and_flips() -> None:
    found = measure_names(TRUTH, FOUND)
    assert (found["count/objects"], found["count/on_objects"], found["count/named"]) == (6, 5, 4)
    assert found["count/named_elsewhere"] == 1
    assert found["name/accuracy"] == pytest.approx(2 / 5)
    assert found["name/kind_accuracy"] == pytest.approx(3 / 5)
    assert found["name/kind_accuracy_macro"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["name/unknown"] == pytest.approx(1 / 5)
    assert found["name/recall"] == pytest.approx(2 / 6)
    assert found["name/majority"] == pytest.approx(3 / 5)
    assert (found["name/flips"], found["name/kind_flips"]) == (1, 0.5)
    assert found["name/track_accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_leads_and_scores_tell_right_names_from_wrong_ones() -> None:
    found = measure_names(TRUTH, FOUND)
    assert found["name/accuracy@1.0"] == 1 / 2
    assert found["name/accuracy@0.5"] == found["name/auroc"] == found["name/kind_auroc"] == 1
    assert found["name/auroc_score"] == found["name/kind_auroc_score"] == 0
    tied = content([{**a, "name_margin": 0.5} for a in FOUND["annotations"] if "name" in a])
    assert measure_names(TRUTH, tied)["name/auroc"] == 0.5
    right = content([FOUND["annotations"][0]])
    assert measure_names(TRUTH, right)["name/auroc"] == -1


def test_files_without_names_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "truth.json", TRUTH)
    write_json(tmp_path / "found.json", FOUND)
    options = ["--ground_truth", str(tmp_path / "truth.json"), "--predictions"]
    out = tmp_path / "metrics.json"
    main(["evaluate", "naming", *options, str(tmp_path / "found.json"), "--out", str(out)])
    assert read_json(out) == measure_names(TRUTH, FOUND)
    plain = content([entry(1, 1, 0, score=0.9)])
    with pytest.raises(InputError, match="run moduv name on it first"):
        measure_names(TRUTH, plain)
    with pytest.raises(InputError, match="none of its objects has a 'name'"):
        measure_names(plain, FOUND)
