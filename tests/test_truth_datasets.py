"""Ground truth of COCO, KITTI and nuImages: what counts, what is ignored, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw_samples as raw
import truth_samples as samples
from truth_samples import FORMS, SCENE, perfect, scores

from moduv.commands.cli import main
from moduv.datasets.coco import CocoTruth, convert_coco
from moduv.datasets.kitti import KittiTruth, convert_kitti
from moduv.datasets.nuscenes.truth import NuImagesTruth, convert_nuimages
from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.instances import rle

# --- COCO -----------------------------------------------------------------------------------------


def test_coco_results_of_other_tools_fit(tmp_path: Path) -> None:
    out = tmp_path / "truth.json"
    convert_coco(samples.write_coco(tmp_path / "source"), out, CocoTruth())
    results = [{**found, "image_id": 100 + found["image_id"]} for found in perfect()]
    assert evaluate(out, results)["mask/AP"] == pytest.approx(1)


def test_coco_categories_can_be_restricted(tmp_path: Path) -> None:
    source, out = samples.write_coco(tmp_path / "source"), tmp_path / "truth.json"
    words = ["truth", "coco", "--annotations", str(source), "--out", str(out)]
    main([*words, "--config.categories", '["car"]', "--config.empty_images", "false"])
    content = json.loads(out.read_text())
    assert {annotation["name"] for annotation in content["annotations"]} == {"car"}
    assert content["info"]["settings"]["categories"] == ["car"]
    main([*words, "--config.categories", '["person"]', "--config.empty_images", "false"])
    assert [image["id"] for image in json.loads(out.read_text())["images"]] == [101]


def test_unknown_coco_categories_are_named(tmp_path: Path) -> None:
    source = samples.write_coco(tmp_path / "source")
    with pytest.raises(InputError, match="has no category 'tank'"):
        convert_coco(source, tmp_path / "truth.json", CocoTruth(categories=("car", "tank")))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("segmentation", [[1, 2, 3, 4, 5, 6, 7]], "900 has a polygon that"),
        ("bbox", [1, 2, 3], "has the 'bbox'"),
    ],
)
def test_damaged_coco_annotations_are_named(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    source = samples.write_coco(tmp_path / "source")
    content = json.loads(source.read_text())
    content["annotations"][0][key] = value
    source.write_text(json.dumps(content))
    out = tmp_path / "truth.json"
    out.write_text("before")
    with pytest.raises(InputError, match=said):
        convert_coco(source, out, CocoTruth())
    assert out.read_text() == "before"


def test_a_coco_object_without_corners_is_not_judged(tmp_path: Path) -> None:
    source, out = samples.write_coco(tmp_path / "source"), tmp_path / "truth.json"
    content = json.loads(source.read_text())
    content["annotations"][0]["segmentation"] = [[4, 20, 28, 20]]
    source.write_text(json.dumps(content))
    convert_coco(source, out, CocoTruth())
    metrics = scores(FORMS["coco"], out, *perfect())
    assert metrics["count/objects"] == len(samples.objects()) - 1
    assert metrics["mask/AP"] == pytest.approx(1)


# --- KITTI ----------------------------------------------------------------------------------------


def kitti_truth(root: Path, *lines: str, **config: Any) -> list[dict[str, Any]]:
    source = samples.write_kitti_objects(root / "source")
    (source / "training/label_2/000003.txt").write_text("".join(lines))
    convert_kitti(source, root / "truth.json", KittiTruth(**config))
    content = json.loads((root / "truth.json").read_text())
    number = content["images"][-1]["id"]
    return [a for a in content["annotations"] if a["image_id"] == number]


def test_hard_kitti_objects_are_ignored(tmp_path: Path) -> None:
    car = SCENE[3][0]
    low = samples.Thing("car", 2, 2, 40, 20)
    lines = (
        samples.kitti_line(car),
        samples.kitti_line(car, occlusion=3),
        samples.kitti_line(car, truncation=0.4),
        samples.kitti_line(low),
    )
    level = {"min_height": 19, "max_occlusion": 2, "max_truncation": 0.3}
    found = kitti_truth(tmp_path, *lines, **level)
    assert [annotation["ignore"] for annotation in found] == [0, 1, 1, 1]


def test_misc_is_not_judged(tmp_path: Path) -> None:
    line = samples.kitti_line(SCENE[3][0]).replace("Car", "Misc")
    (found,) = kitti_truth(tmp_path, line)
    assert (found["name"], found["ignore"], found["iscrowd"]) == ("Misc", 1, 1)


@pytest.mark.parametrize(
    "line", ["Dog 0 0 0 1 2 3 4\n", "Car 0 0 0 1 2\n", "Car 0 0 0 9 2 3 4\n", "Car 0 0 0 a 2 3 4\n"]
)
def test_damaged_kitti_labels_are_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"000003\.txt: line 2 is no label of KITTI"):
        kitti_truth(tmp_path, samples.kitti_line(SCENE[3][0]), line)


def test_kitti_needs_no_images_to_be_evaluated(tmp_path: Path) -> None:
    source, out = samples.write_kitti_objects(tmp_path / "source"), tmp_path / "truth.json"
    for image in source.rglob("*.png"):
        image.unlink()
    convert_kitti(source, out, KittiTruth())
    metrics = scores(FORMS["kitti"], out, *perfect())
    assert metrics["box/AP"] == pytest.approx(1)


# --- nuImages -------------------------------------------------------------------------------------


def test_nuimages_tells_what_moves(tmp_path: Path) -> None:
    out = tmp_path / "truth.json"
    convert_nuimages(samples.write_nuimages(tmp_path / "source"), out, NuImagesTruth())
    results = [{**found, "image_id": (found["image_id"] + 1) // 2} for found in perfect()]
    metrics = evaluate(out, [found for found in results if found["bbox"] != SCENE[1][1].box])
    assert (metrics["count/moving"], metrics["count/static"]) == (1, 2)
    assert (metrics["box/recall_moving"], metrics["box/recall_static"]) == (0, 1)


def test_nuimages_of_other_cameras(tmp_path: Path) -> None:
    source, out = samples.write_nuimages(tmp_path / "source"), tmp_path / "truth.json"
    convert_nuimages(source, out, NuImagesTruth(cameras=()))
    names = [image["file_name"] for image in json.loads(out.read_text())["images"]]
    assert "samples/CAM_BACK/n003__1.jpg" in names
    assert len(names) == len(SCENE) + 1


def test_a_nuimages_object_without_mask_is_not_judged(tmp_path: Path) -> None:
    tables = samples.nuimages_tables()
    tables["object_ann"][0]["mask"] = None
    out = tmp_path / "truth.json"
    convert_nuimages(samples.write_nuimages(tmp_path / "source", tables), out, NuImagesTruth())
    car = json.loads(out.read_text())["annotations"][0]
    assert car["ignore"] == 1
    np.testing.assert_array_equal(rle.decode(car["segmentation"]), SCENE[1][0].mask())
    assert scores(FORMS["nuimages"], out, *perfect()[1:])["mask/AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": {"size": [raw.HEIGHT, raw.WIDTH], "counts": "AAAA"}},
        {"category_token": "unknown"},
        {"bbox": [1, 2, 3]},
    ],
)
def test_damaged_nuimages_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    tables = samples.nuimages_tables()
    tables["object_ann"][2].update(change)
    source = samples.write_nuimages(tmp_path / "source", tables)
    with pytest.raises(InputError, match=r"object_ann\.json: an object of .*n003__1\.jpg"):
        convert_nuimages(source, tmp_path / "truth.json", NuImagesTruth())


def test_nuscenes_tables_are_told_from_nuimages(tmp_path: Path) -> None:
    (tmp_path / "v1.0-mini").mkdir()
    for name in ("sample_data", "category", "attribute", "sample_annotation"):
        (tmp_path / f"v1.0-mini/{name}.json").write_text("[]")
    with pytest.raises(
        InputError, match=r"these are the tables of nuScenes.*nuscenes\.org/nuimages"
    ):
        convert_nuimages(tmp_path, tmp_path / "o.json", NuImagesTruth(), version="v1.0-mini")
