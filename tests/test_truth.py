"""Real data sets' ground truth, written in their public forms, becomes what `moduv evaluate` reads."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import raw_samples as raw
import torch
import truth_samples as samples
from truth_samples import CROWD, SCENE, SIGN

from moduv.commands.cli import COMMANDS, load_function, main
from moduv.commands.detect import DetectionConfig, detect_images
from moduv.datasets.coco import CocoTruth, convert_coco
from moduv.datasets.kitti import KittiTruth, convert_kitti
from moduv.datasets.nuscenes.truth import NuImagesTruth, convert_nuimages
from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.waymo.frame import Camera
from moduv.datasets.waymo.prepare import prepare_waymo
from moduv.datasets.waymo.truth import (
    WaymoTruth,
    convert_waymo,
    panoptic_objects,
    straight_box,
    straight_label,
)
from moduv.detector.model import build_detector
from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances import rle

WAYMO = WaymoTruth(workers=1)
DOCUMENTED = Path(__file__).parents[1] / "docs/reproduce.md"


@dataclass(frozen=True)
class Form:
    """A data set's form: how the scene is written in it, the command's words, what comes out."""

    write: Callable[[Path], Path]
    words: tuple[str, ...]
    image: str
    """Image name by frame number."""
    masks: bool
    images: int = len(SCENE)
    source: str = "--source"


FORMS = {
    "coco": Form(
        samples.write_coco, ("truth", "coco"), "{:012d}.jpg", True, source="--annotations"
    ),
    "kitti": Form(
        samples.write_kitti_objects, ("truth", "kitti"), "training/image_2/{:06d}.png", False
    ),
    "kitti tracking": Form(
        samples.write_kitti_tracking,
        ("truth", "kitti", "--labels", "label_02"),
        "training/image_02/0007/{:06d}.png",
        False,
        images=raw.FRAMES,
    ),
    "nuimages": Form(
        samples.write_nuimages, ("truth", "nuscenes"), "samples/CAM_FRONT/n003__{}.jpg", True
    ),
    "waymo v1 masks": Form(
        samples.write_waymo_records, ("truth", "waymo"), samples.SEGMENT + "/{:06d}.jpg", True
    ),
    "waymo v1 boxes": Form(
        samples.write_waymo_records,
        ("truth", "waymo", "--labels", "boxes"),
        samples.SEGMENT + "/{:06d}.jpg",
        False,
    ),
    "waymo v2 masks": Form(
        samples.write_waymo_tables, ("truth", "waymo"), samples.SEGMENT + "/{:06d}.jpg", True
    ),
    "waymo v2 boxes": Form(
        samples.write_waymo_tables,
        ("truth", "waymo", "--labels", "boxes"),
        samples.SEGMENT + "/{:06d}.jpg",
        False,
        images=raw.FRAMES,
    ),
}


@pytest.fixture(scope="module", params=FORMS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Form, Path]:
    form, root = FORMS[request.param], tmp_path_factory.mktemp("truth")
    out = root / "truth.json"
    main([*form.words, form.source, str(form.write(root / "source")), "--out", str(out)])
    return form, out


def scores(form: Form, truth: Path, *detections: dict[str, Any]) -> dict[str, float]:
    """What `moduv evaluate` says of detections that are exported as a COCO data set."""
    frames = sorted({found["image_id"] for found in detections})
    images = [{"id": n, "file_name": form.image.format(n)} for n in frames]
    annotations = [dict(found) for found in detections]
    if not form.masks:
        annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
    found, out = truth.with_name("found.json"), truth.with_name("metrics.json")
    found.write_text(json.dumps({"images": images, "annotations": annotations}))
    main(["evaluate", "--ground_truth", str(truth), "--predictions", str(found), "--out", str(out)])
    return json.loads(out.read_text())


def perfect() -> list[dict[str, Any]]:
    return [samples.detection(frame, thing) for frame, thing in samples.objects()]


def test_perfect_detections_are_perfect(converted: tuple[Form, Path]) -> None:
    form, truth = converted
    metrics = scores(form, truth, *perfect())
    assert metrics["box/AP"] == pytest.approx(1)
    assert metrics["count/objects"] == len(samples.objects())
    assert metrics["count/images"] == form.images
    assert ("mask/AP" in metrics) == form.masks
    assert metrics.get("mask/AP", 1) == pytest.approx(1)


def test_detections_in_ignored_regions_are_not_judged(converted: tuple[Form, Path]) -> None:
    form, truth = converted
    inside = samples.Thing("car", CROWD.left + 2, CROWD.top + 3, CROWD.right - 8, CROWD.bottom - 2)
    metrics = scores(form, truth, *perfect(), samples.detection(1, inside, 0.99))
    assert metrics["count/ignored"] == 1
    assert metrics["box/AP"] == pytest.approx(1)
    assert metrics.get("mask/AP", 1) == pytest.approx(1)


def test_what_cannot_move_and_what_is_missed_cost(converted: tuple[Form, Path]) -> None:
    form, truth = converted
    wrong = scores(form, truth, *perfect(), samples.detection(1, SIGN, 0.99))
    assert 0 < wrong["box/AP"] < 1
    assert wrong.get("mask/AP", 0.5) < 1
    missed = scores(form, truth, *perfect()[:-1])
    assert missed["box/recall"] == pytest.approx(2 / 3)


def test_boxes_and_masks_are_those_of_the_scene(converted: tuple[Form, Path]) -> None:
    form, truth = converted
    content = json.loads(truth.read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    image = next(i for i in content["images"] if i["file_name"] == form.image.format(1))
    assert (image["height"], image["width"]) == (raw.HEIGHT, raw.WIDTH)
    found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    things = [thing for thing in SCENE[1] if thing.kind != "sign"]
    by_box = {tuple(annotation["bbox"]): annotation for annotation in found}
    assert set(by_box) == {tuple(thing.box) for thing in things}
    for thing in things:
        annotation = by_box[tuple(thing.box)]
        assert annotation["iscrowd"] == annotation["ignore"] == (thing.kind == "crowd")
        assert annotation["category_id"] == 1
        assert annotation["area"] == thing.box[2] * thing.box[3]
        assert ("segmentation" in annotation) == form.masks
        if form.masks:
            np.testing.assert_array_equal(rle.decode(annotation["segmentation"]), thing.mask())


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


# --- Waymo ----------------------------------------------------------------------------------------


def test_waymo_frames_are_named_as_they_are_prepared(tmp_path: Path) -> None:
    """Labels and frames are numbered alike, so that `detect` finds them in a prepared folder."""
    source = samples.write_waymo_tables(tmp_path / "source")
    data, out = tmp_path / "data", tmp_path / "truth.json"
    prepare_waymo(source, data, PrepareConfig(height=32, width=64, workers=1), split="val")
    convert_waymo(source, out, WAYMO, write_frames=tmp_path / "split.txt")
    assert read_split(tmp_path / "split.txt") == [FrameRef(samples.SEGMENT, n) for n in SCENE]
    detect_images(weights(tmp_path), data, out, tmp_path / "found", DetectionConfig())
    metrics = evaluate(out, tmp_path / "found/detections.json")
    assert metrics["count/images"] == len(SCENE)
    assert metrics["count/predictions"] > 0


def test_panoptic_classes_are_mobile_ignored_or_nothing() -> None:
    label = np.zeros((4, 40), np.uint16) + 20_000
    kinds = {2: "car", 16: "pedestrian object", 27: "dynamic", 12: "bird", 17: None, 14: None}
    for place, kind in enumerate(kinds):
        label[1:3, 6 * place : 6 * place + 4] = kind * 1000 + 5
    found = {item.name: item for item in panoptic_objects(label, 1000)}
    assert set(found) == {name for name in kinds.values() if name}
    assert [found[name].ignore for name in ("car", "bird")] == [False, False]
    assert [found[name].ignore for name in ("pedestrian object", "dynamic")] == [True, True]
    assert found["pedestrian object"].box == (6, 1, 4, 2)


def test_labels_follow_frames_without_distortion() -> None:
    """The straightened label covers what a straightened picture of the object covers."""
    size = (240, 320)
    lens = np.array([200.0, 200.0, 160, 120, -0.33, 0.05, 0, 0, 0])
    camera = Camera(lens, np.eye(4), width=size[1], height=size[0])
    label = np.full(size, 20_000, np.uint16)
    label[20:60, 10:50] = 2_001
    picture = (label == 2_001).astype(np.uint8) * 255
    seen = cv2.undistort(picture, camera.matrix(), lens[4:9]) > 127
    moved = straight_label(label, camera) == 2_001
    assert (moved & seen).sum() / (moved | seen).sum() > 0.97
    assert (moved & (label == 2_001)).sum() / (moved | (label == 2_001)).sum() < 0.6
    left, top, width, height = straight_box((10, 20, 40, 40), camera)
    rows, columns = np.nonzero(seen)
    around = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    np.testing.assert_allclose([left, top, width, height], around, atol=2)


def test_waymo_can_be_written_without_distortion(tmp_path: Path) -> None:
    source = samples.write_waymo_records(tmp_path / "source")
    boxes: dict[str, np.ndarray] = {}
    for labels in ("masks", "boxes"):
        out = tmp_path / f"{labels}.json"
        convert_waymo(source, out, WaymoTruth(undistort=True, workers=1), labels=labels)
        found = json.loads(out.read_text())["annotations"]
        boxes[labels] = np.array(sorted(a["bbox"] for a in found if not a["ignore"]))
    # The sample's lens moves its border by less than half a pixel.
    np.testing.assert_allclose(boxes["masks"], boxes["boxes"], atol=1)


def test_waymo_frames_without_labels_are_left_out(tmp_path: Path) -> None:
    source, out = raw.write_waymo_records(tmp_path / "source"), tmp_path / "truth.json"
    with pytest.raises(InputError, match="no image that has ground truth"):
        convert_waymo(source, out, WAYMO, labels="boxes")
    assert not out.exists()


def test_missing_waymo_components_are_named(tmp_path: Path) -> None:
    source = samples.write_waymo_tables(tmp_path / "source")
    (source / "vehicle_pose/123.parquet").unlink()
    with pytest.raises(InputError, match="download the component 'vehicle_pose'"):
        convert_waymo(source, tmp_path / "truth.json", WAYMO)


def test_damaged_waymo_labels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "panoptic_png", lambda _: raw.encoded(0, ".png"))
    source = samples.write_waymo_records(tmp_path / "source")
    with pytest.raises(InputError, match="panoptic label of frame 1 is no PNG of 16 bits"):
        convert_waymo(source, tmp_path / "truth.json", WAYMO)


# --- All ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("coco", "000000000003.jpg"),
        ("kitti", "training/image_2 3"),
        ("kitti", "000003"),
        ("kitti tracking", "training/image_02/0007 3"),
        ("nuimages", "n003__3.jpg"),
        ("waymo v2 masks", f"{samples.SEGMENT} 3"),
    ],
)
def test_a_split_file_chooses_images(tmp_path: Path, name: str, line: str) -> None:
    form, out, split = FORMS[name], tmp_path / "truth.json", tmp_path / "split.txt"
    split.write_text(f"{line}\n")
    words = [form.source, str(form.write(tmp_path / "source")), "--split", str(split)]
    main([*form.words, *words, "--out", str(out)])
    metrics = scores(form, out, perfect()[-1])
    assert metrics["count/images"] == metrics["count/objects"] == 1
    assert metrics["box/AP"] == pytest.approx(1)


def test_a_line_of_a_split_names_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, split = samples.write_coco(tmp_path / "source"), tmp_path / "split.txt"
    content = json.loads(source.read_text())
    for image, name in zip(content["images"], ("left/000001.jpg", "right/1.png"), strict=True):
        image["file_name"] = name
    source.write_text(json.dumps(content))
    split.write_text("000001\n")
    with pytest.raises(InputError, match=r"'1' may be 'left/000001\.jpg' or 'right/1\.png'"):
        convert_coco(source, tmp_path / "truth.json", CocoTruth(), split)
    split.write_text("left/000001\n000007.jpg\n")
    convert_coco(source, tmp_path / "truth.json", CocoTruth(), split)
    assert "1 of 2 lines name no image that has ground truth, as '7'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["coco", "kitti", "nuimages", "waymo v1 masks", "waymo v2 boxes"])
def test_a_split_of_another_data_set_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    form, split = FORMS[name], tmp_path / "split.txt"
    split.write_text("train/segment-999 4\n")
    words = [form.source, str(form.write(tmp_path / "source")), "--split", str(split)]
    with pytest.raises(SystemExit) as stopped:
        main([*form.words, *words, "--out", str(tmp_path / "truth.json")])
    assert stopped.value.code == 2
    assert "split.txt: names no image that has ground truth" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [(f.words, f.source) for f in FORMS.values()])
def test_missing_downloads_are_named(
    tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, said, str(tmp_path / "nothing"), "--out", str(tmp_path / "truth.json")])
    assert stopped.value.code == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("coco", ["person", "car"]),
        ("kitti", ["Pedestrian", "Car"]),
        ("nuimages", ["human.pedestrian", "vehicle.car"]),
    ],
)
def test_the_documented_categories_are_the_data_set_s(
    tmp_path: Path, name: str, names: list[str]
) -> None:
    """The choice of the page, spelled as each data set spells it, finds all objects of the scene."""
    assert f"'{json.dumps(names)}'" in DOCUMENTED.read_text()
    form, out = FORMS[name], tmp_path / "truth.json"
    words = [*form.words, form.source, str(form.write(tmp_path / "source")), "--out", str(out)]
    main([*words, "--config.categories", json.dumps(names)])
    assert scores(form, out, *perfect())["count/objects"] == len(samples.objects())


@pytest.mark.parametrize("name", ["kitti", "kitti tracking", "nuimages"])
@pytest.mark.parametrize("key", ["categories", "ignored"])
def test_categories_of_another_data_set_are_refused(
    tmp_path: Path, name: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    form, out = FORMS[name], tmp_path / "truth.json"
    words = [*form.words, form.source, str(form.write(tmp_path / "source")), "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main([*words, f"--config.{key}", '["person"]'])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "has no category 'person' but" in said
    assert ("vehicle.car" if name == "nuimages" else "Pedestrian") in said
    assert not out.exists()


@pytest.mark.parametrize("option", [("categories", '["Tram"]'), ("min_height", "1000")])
def test_a_truth_without_objects_is_refused(
    tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = samples.write_kitti_objects(tmp_path / "source"), tmp_path / "truth.json"
    words = ["truth", "kitti", "--source", str(source), "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main([*words, f"--config.{option[0]}", option[1]])
    assert stopped.value.code == 2
    assert "no image has an object to be found" in capsys.readouterr().err
    assert not out.exists()


def test_the_documented_commands_exist() -> None:
    """Every command of the page that leads from the downloads to the table, with its options."""
    text = DOCUMENTED.read_text()
    defined: dict[str, str] = {}
    found = 0
    for line in (
        "".join(re.findall("```bash\n(.*?)```", text, re.S)).replace("\\\n", "").splitlines()
    ):
        words = shlex.split(line, comments=True)
        if len(words) == 1 and "=" in words[0]:
            name, _, value = words[0].partition("=")
            defined[f"${name}"] = value
        if not words or words[0] not in {"moduv", "$RUN"}:
            continue
        expanded = [part for word in words for part in defined.get(word, word).split()]
        name = next(" ".join(words[1:end]) for end in (3, 2) if " ".join(words[1:end]) in COMMANDS)
        accepted = inspect.signature(load_function(COMMANDS[name].function)).parameters
        options = {word[2:] for word in expanded if word.startswith("--")}
        options -= {"standalone", "nproc_per_node", "preset"}
        required = {n for n, p in accepted.items() if p.default is p.empty} - {"config"}
        assert options <= set(accepted), line
        assert required <= options, line
        found += 1
    assert found >= 20


def weights(folder: Path) -> Path:
    """A street detector that has learned nothing, so it finds something everywhere."""
    torch.manual_seed(0)
    path = folder / "weights.pth"
    torch.save(build_detector("street").state_dict(), path)
    return path


def test_detections_are_found_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moduv.commands.detect.PART", 1)
    source = samples.write_kitti_objects(tmp_path / "source")
    truth, out, model = tmp_path / "truth.json", tmp_path / "found", weights(tmp_path)
    convert_kitti(source, truth, KittiTruth())
    detect_images(model, source, truth, out, DetectionConfig(batch_size=2))
    before = (out / "detections.json").read_bytes()
    assert evaluate(truth, out / "detections.json")["count/predictions"] > 0
    for path in (out / "manifest.json", out / "parts/000001.json"):
        path.unlink()
    kept = (out / "parts/000000.json").stat().st_mtime_ns
    detect_images(model, source, truth, out, DetectionConfig(batch_size=2))
    assert (out / "detections.json").read_bytes() == before
    assert (out / "parts/000000.json").stat().st_mtime_ns == kept
    content = json.loads(truth.read_text())
    content["images"][0]["width"] += 2
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"000001\.png: is \(64, 96\) pixels .* \(64, 98\) in the"):
        detect_images(model, source, tmp_path / "other.json", tmp_path / "o", DetectionConfig())
    (source / "training/image_2/000001.png").unlink()
    with pytest.raises(InputError, match=r"000001\.png: no such image"):
        detect_images(model, source, truth, tmp_path / "again", DetectionConfig())
