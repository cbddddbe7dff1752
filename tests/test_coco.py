"""COCO files of others: right, or refused in one sentence that names the file, the entry and the key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from coco_world import FRAMES, HEIGHT, WIDTH, run, save, square, valid
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.frames.splits import write_split
from moduv.instances.coco import Image, coco_instances, find_images
from moduv.instances.imported import import_labels
from moduv.instances.store import read_labels

# --- The cases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "box", "told"),
    [
        ("import_box_as_corners", [100, 50, 150, 90], r"1 annotations have a 'bbox'.*\[100"),
        ("import_box_beyond_image", [150, 10, 160, 30], "1 annotations have a 'bbox'"),
        ("import_box_stale", [10, 10, 30, 30], "1 annotations have a 'bbox'.*the masks' are taken"),
        ("import_json_with_bom", [10, 10, 30, 30], "1 instances"),
    ],
)
def test_boxes_end_up_around_their_masks(
    shared: Path,
    tmp_path: Path,
    case: str,
    box: list[int],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = shared / "cases" / case
    files = ("--coco", given / "edited.json", "--split", given / "split.txt")
    code, said, _ = run(capsys, "labels", "import", *files, "--out", tmp_path)
    assert code == 0
    assert re.search(told, said)
    assert read_labels(tmp_path, FRAMES[0]).boxes.tolist() == [box]


def test_a_size_that_is_not_the_image_s_is_refused(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, labels = shared / "cases/import_size_of_unturned_photo", tmp_path / "labels"
    split = ("--split", given / "split.txt")
    run(capsys, "labels", "import", "--coco", given / "edited.json", *split, "--out", labels)
    for command, out in (("export", "o.json"), ("show", "shown")):
        files = ("--labels", labels, *split, "--data", given / "data", "--out", tmp_path / out)
        code, _, error = run(capsys, "labels", command, *files)
        assert code == 2
        assert re.search(r"000001\.json: 'masks' are 160 x 96 but the image is 96 x 160", error)


def test_names_that_no_split_confirms_are_told(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = ("--coco", shared / "cases/import_with_images_prefix/edited.json")
    _, said, _ = run(capsys, "labels", "import", *coco, "--out", tmp_path / "labels")
    assert re.search(r"without --split .* 1 frames .* exist: images/clips/a\n", said)
    write_split(tmp_path / "split.txt", FRAMES)
    split = ("--split", tmp_path / "split.txt")
    code, _, error = run(capsys, "labels", "import", *coco, *split, "--out", tmp_path / "other")
    assert code == 2
    assert "1 of 1 images are of frames like 'images/clips/a 1' that the split lacks" in error


def test_evaluated_cases_are_right_or_refused(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "metrics.json"
    for case in ("evaluate_height_null", "evaluate_png_and_jpg"):
        path = shared / "cases" / case / "truth.json"
        words = ("--ground_truth", path, "--predictions", path, "--out", out)
        code, _, error = run(capsys, "evaluate", *words)
        if case == "evaluate_height_null":
            assert code == 2
            assert re.search(r"images\[0\] \('a/1\.jpg'\): 'height' and 'width' are", error)
    metrics = json.loads(out.read_text())
    keys = ("box/AP", "box/precision_at_score", "box/recall_at_score")
    assert [metrics[key] for key in keys] == [pytest.approx(1)] * 3


# --- What contradicts itself --------------------------------------------------------------------------


def test_one_size_is_asked_of_an_image(tmp_path: Path) -> None:
    """Of ground truth and predictions, and of masks where no size is given."""
    other = valid()
    other["images"][1].update(height=2 * HEIGHT, width=2 * WIDTH)
    other["annotations"].pop()
    with pytest.raises(InputError, match="is 192 x 320 and in ground truth 96 x 160"):
        evaluate(valid(), other)
    content = valid()
    for image in content["images"]:
        del image["height"], image["width"]
    content["annotations"][0]["segmentation"] = {"size": [4, 4], "counts": [5, 11]}
    with pytest.raises(InputError, match="a mask of 96 x 160 on an image of 4 x 4"):
        evaluate(content, [])
    content["annotations"][0]["segmentation"] = square(10, 10, 20)
    with pytest.raises(InputError, match="polygons on an image without 'height' and 'width'"):
        import_labels(save(tmp_path / "edited.json", content), tmp_path / "out")


def test_what_is_said_twice_and_differently_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    truth = valid()
    assert evaluate(truth, truth)["mask/AP"] == pytest.approx(1)
    assert "annotations" not in capsys.readouterr().out
    truth["annotations"][0].update(bbox=[10, 10, 30, 30], area=4000)  # corners, area of another
    truth["annotations"][1].update(bbox=[101, 41, 28, 28])  # as predicted boxes are
    truth["annotations"][2].update(category_id=5)
    evaluate(truth, [])
    said = capsys.readouterr().out
    first = r"first annotations\[0\] with id 1"
    assert re.search(rf"1 annotations have a 'bbox' .*, {first}: \[10.*; the file's are", said)
    assert re.search(rf"1 annotations have an 'area' .*, {first}: 4000 and 400; the file's", said)
    assert re.search(r"1 annotations have a 'category_id' that 'categories' lacks, first 5", said)
    del truth["annotations"][1]["segmentation"]
    del truth["annotations"][1]["score"]
    assert "mask/AP" not in evaluate(truth, [])
    boxes = [{k: v for k, v in a.items() if k != "segmentation"} for a in truth["annotations"]]
    evaluate(valid(), {"images": truth["images"], "annotations": boxes})
    said = capsys.readouterr().out
    assert "1 objects have no mask" in said
    assert "1 of 3 predictions have no 'score'" in said


@pytest.mark.parametrize(
    "box",
    [
        [10, 10, 30, 30],
        [20, 20, 20, 20],
        [0.06, 0.1, 0.12, 0.2],
        [12, 14, 12, 12],
        [10, 10, 80, 60],
        [100, 10, 20, 20],
        [10, 10, 200, 20],
    ],
    ids=["corners", "centre", "normalised", "grown", "shrunk", "moved", "beyond"],
)
def test_a_box_that_is_not_the_mask_s_is_replaced(tmp_path: Path, box: list[float]) -> None:
    content = valid()
    content["annotations"][0].update(bbox=box, score=None)
    import_labels(save(tmp_path / "edited.json", content), tmp_path / "out")
    assert read_labels(tmp_path / "out", FRAMES[0]).boxes[0].tolist() == [10, 10, 30, 30]
    content["annotations"][0].update(bbox=[9, 8, 24, 30], score=0.5)  # as predicted boxes are
    import_labels(save(tmp_path / "found.json", content), tmp_path / "kept")
    assert read_labels(tmp_path / "kept", FRAMES[0]).boxes[0].tolist() == [9, 8, 33, 38]


# --- Names ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.from_regex(r"(a|b)?/?[ab](\.1)?(\.jpg|\.PNG)?", fullmatch=True), unique=True))
def test_whole_names_find_their_image_and_shortened_ones_only_where_they_are_unique(
    names: list[str],
) -> None:
    images = [Image(number, name, None, {}) for number, name in enumerate(names)]
    assert find_images(names, images, "truth") == images
    for image in images:
        stem = re.sub(r"\.(jpg|PNG)$", "", image.name)
        same = [name for name in names if re.sub(r"\.(jpg|PNG)$", "", name) == stem]
        wanted = f"{stem}.bmp".replace("/", "\\")
        if len(same) == 1:
            assert find_images([wanted], images, "truth") == [image]
        else:
            with pytest.raises(InputError, match="name every image in full"):
                find_images([wanted], images, "truth")
    assert find_images(["c/a.jpg"], images, "truth") == [None]


def test_two_predictions_for_one_image_are_refused() -> None:
    found = valid()
    found["images"][1]["file_name"] = "clips/a/000001.png"
    with pytest.raises(InputError, match=r"000001\.jpg' and 'clips/a/000001\.png' both fit"):
        evaluate(valid(), found)


def test_a_million_points_are_filled_where_they_are_a_plain_outline() -> None:
    angles = np.linspace(0, 2 * np.pi, 500_000, endpoint=False)
    circle = np.stack([80 + 30 * np.cos(angles), 48 + 30 * np.sin(angles)], 1).ravel().tolist()
    entry = {"id": 1, "bbox": [50, 18, 60, 60], "segmentation": [circle]}
    found = coco_instances([entry], (HEIGHT, WIDTH))
    assert found.areas()[0] == pytest.approx(np.pi * 900, rel=0.02)
