"""Real data sets' ground truth, written in their public forms, becomes what `moduv evaluate` reads."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import raw_samples as raw
import truth_samples as samples
from detector_world import write_weights
from truth_samples import CROWD, FORMS, SCENE, SIGN, Form, perfect, scores

from moduv.commands.cli import COMMANDS, load_function, main
from moduv.commands.detect import DetectionConfig, detect_images
from moduv.datasets.coco import CocoTruth, convert_coco
from moduv.datasets.kitti import KittiTruth, convert_kitti
from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.instances import rle

DOCUMENTED = Path(__file__).parents[1] / "docs/reproduce.md"


@pytest.fixture(scope="module", params=FORMS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Form, Path]:
    form, root = FORMS[request.param], tmp_path_factory.mktemp("truth")
    out = root / "truth.json"
    main([*form.words, form.source, str(form.write(root / "source")), "--out", str(out)])
    return form, out


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


def test_detections_are_found_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moduv.commands.detect.PART", 1)
    source = samples.write_kitti_objects(tmp_path / "source")
    truth, out, model = tmp_path / "truth.json", tmp_path / "found", write_weights(tmp_path)
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
