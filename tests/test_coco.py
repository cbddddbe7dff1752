"""COCO files of others: right, or refused in one sentence that names the file, the entry and the key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.commands.cli import main
from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.splits import write_split
from moduv.instances import rle
from moduv.instances.coco import Image, coco_instances, find_images, read_ground_truth
from moduv.instances.imported import import_labels
from moduv.instances.store import read_labels

HEIGHT, WIDTH = 96, 160
FRAMES = [FrameRef("clips/a", 1), FrameRef("clips/a", 2)]
Content = dict[str, Any]


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number: int, image: int, left: float, top: float, side: float) -> Content:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": side * side,
        "bbox": [left, top, side, side],
        "segmentation": square(left, top, side),
        "score": 0.5,
    }


def valid() -> Content:
    """Three squares in two images, as polygons, as text and as a list of runs."""
    content = {
        "images": [
            {"id": n, "file_name": f"clips/a/{n:06d}.jpg", "height": HEIGHT, "width": WIDTH}
            for n in (1, 2)
        ],
        "annotations": [
            annotation(1, 1, 10, 10, 20),
            annotation(2, 1, 100, 40, 30),
            annotation(3, 2, 50, 50, 40),
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:70, 100:130] = True
    content["annotations"][1]["segmentation"] = rle.encode(mask)
    runs = [50 * HEIGHT + 50, *[40, HEIGHT - 40] * 39, 40]
    counts = [*runs, HEIGHT * WIDTH - sum(runs)]
    content["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    return content


def save(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, what was said, and the error of a command."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    told = capsys.readouterr()
    assert told.err.count("moduv: error") == (1 if code else 0)
    return code, told.out, told.err.partition("moduv: error: ")[2]


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


# --- Broken entries, whoever reads them -----------------------------------------------------------


def change(**values: Any) -> Callable[[Content], Any]:
    return lambda entry: entry.update(values)


def runs(size: Any, counts: Any) -> Callable[[Content], Any]:
    return change(segmentation={"size": size, "counts": counts})


SIZE = [HEIGHT, WIDTH]
LONG = [v for n in range(100_000) for v in (n % 2 * WIDTH, n % 7)]
BROKEN: dict[str, tuple[Callable[[Content], Any], str]] = {
    "text as mask": (change(segmentation="mask"), "'segmentation' that is neither polygons nor"),
    "cut runs": (runs(SIZE, "P`0"), "runs that do not fill its mask of 96 x 160"),
    "no runs": (runs(SIZE, None), "runs that do not fill its mask"),
    "few runs": (runs(SIZE, [100, 7]), "runs that do not fill its mask"),
    "half runs": (runs(SIZE, [0.5] * 2 * HEIGHT * WIDTH), "runs that do not fill its mask"),
    "negative run": (runs(SIZE, [-1, HEIGHT * WIDTH + 1]), "runs that do not fill its mask"),
    "no size": (change(segmentation={"counts": [1, 2]}), "a mask without 'size'"),
    "size of text": (runs(["96", "160"], "Q1"), "a mask without 'size'"),
    "swapped size": (runs([WIDTH, HEIGHT], [WIDTH * HEIGHT]), "of 160 x 96 on an image of 96 x"),
    "line": (change(segmentation=[[1, 1, 5, 5]]), r"a polygon that is not \[x, y"),
    "odd": (change(segmentation=[[1, 1, 5, 5, 7, 7, 8]]), r"a polygon that is not \[x, y"),
    "NaN": (change(segmentation=[[1, 1, 5, 5, 7, float("nan")]]), r"a polygon that is not \[x"),
    "far": (change(segmentation=[[1, 1, 500, 5, 7, 9]]), "far outside its image of 96 x 160"),
    "long": (change(segmentation=[LONG]), r"polygons \d+ pixels around"),
    "negative box": (change(bbox=[1, 2, -3, 4]), r"has the 'bbox' \[1, 2, -3, 4\]"),
    "short box": (change(bbox=[1, 2, 3]), "has the 'bbox'"),
    "box of NaN": (change(bbox=[1, 2, float("nan"), 4]), r"has the 'bbox' \[1, 2, nan"),
    "box of text": (change(bbox=["1", 2, 3, 4]), "has the 'bbox'"),
    "box of flags": (change(bbox=[True, 2, 3, 4]), "has the 'bbox'"),
    "text as score": (change(score="high"), "has the 'score' 'high'"),
    "infinite score": (change(score=float("inf")), "has the 'score' inf"),
    "negative area": (change(area=-4), "has the 'area' -4"),
    "text as crowd": (change(iscrowd="0"), "has 'iscrowd' '0'"),
    "other image": (change(image_id=99), "has the unknown image_id 99"),
    "image true": (change(image_id=True), "has the unknown image_id True"),
    "image list": (change(image_id=[1]), r"has the unknown image_id \[1\]"),
    "no image": (lambda entry: entry.pop("image_id"), "lacks 'image_id'"),
    "same id": (change(id=1), "has an id that another one has"),
}
ONLY_LABELS: dict[str, tuple[Callable[[Content], Any], str]] = {
    "no mask": (change(segmentation=[]), "has no 'segmentation'"),
    "empty": (runs(SIZE, [HEIGHT * WIDTH]), "covers no pixel"),
    "outside": (change(segmentation=square(170, 100, 5)), "covers no pixel"),
    "high score": (change(score=1.5), "has the score 1.5"),
    "no id": (change(id=None), "lacks a whole number as 'id'"),
    "huge id": (change(id=1 << 64), "has the 'id' 18446744073709551616"),
}
ONLY_OBJECTS: dict[str, tuple[Callable[[Content], Any], str]] = {
    "no box": (lambda entry: entry.pop("bbox"), "lacks 'bbox'"),
    "moving": (change(moving="yes"), "has 'moving' 'yes'"),
}
DOORS: dict[str, Callable[[Path, Path], Any]] = {
    "labels": lambda path, out: import_labels(path, out),
    "truth": lambda path, out: evaluate(path, []),
    "predictions": lambda path, out: evaluate(valid(), path),
}


@pytest.mark.parametrize(
    ("door", "kind"),
    [(d, k) for d in DOORS for k in BROKEN | (ONLY_LABELS if d == "labels" else ONLY_OBJECTS)],
)
def test_a_broken_annotation_is_named_and_nothing_is_written(
    tmp_path: Path, door: str, kind: str
) -> None:
    damage, words = (BROKEN | ONLY_LABELS | ONLY_OBJECTS)[kind]
    content = valid()
    damage(content["annotations"][1])
    coco = save(tmp_path / "edited.json", content)
    with pytest.raises(InputError, match=rf"edited\.json: annotations\[1\].* {words}.*\.$") as told:
        DOORS[door](coco, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400
    assert not list(tmp_path.glob("out/clips/**/*.json"))
    damage(content["annotations"][2])
    with pytest.raises(InputError, match=rf"{words}.* \(2 annotations are broken\)"):
        DOORS[door](save(coco, content), tmp_path / "out")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"id": None}, r"images\[1\] lacks 'id'"),
        ({"id": True}, r"images\[1\] lacks 'id'"),
        ({"id": [2]}, r"images\[1\] lacks 'id'"),
        ({"id": 1}, r"images\[1\]: the image id 1 of 'clips/a/000002.jpg' occurs twice, first for"),
        ({"file_name": 7}, r"images\[1\]: 'file_name' is 7"),
        ({"width": 0}, r"'height' and 'width' are \(96, 0\)"),
        ({"height": None}, r"'clips/a/000002.jpg'\): 'height' and 'width' are \(None, 160\)"),
        ({"height": "96"}, r"'height' and 'width' are \('96', 160\)"),
        ({"height": 1 << 20, "width": 1 << 20}, "'height' and 'width' are"),
    ],
)
def test_a_broken_image_is_named(tmp_path: Path, door: str, values: Content, words: str) -> None:
    content = valid()
    content["images"][1].update(values)
    with pytest.raises(InputError, match=rf"edited\.json: .*{words}"):
        DOORS[door](save(tmp_path / "edited.json", content), tmp_path / "out")


@pytest.mark.parametrize("door", ["labels", "truth"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c.pop("images"), "lacks the list 'images'"),
        (lambda c: c.update(annotations=None), "lacks the list 'annotations'"),
        (lambda c: c["images"].clear(), "'images' is empty"),
        (lambda c: c["annotations"].append(7), r"annotations\[3\] is 7; write"),
        (lambda c: c.update(categories=7), "'categories' are no objects"),
        (lambda c: c["categories"].append({"id": 1}), "'categories' are no objects"),
    ],
)
def test_a_broken_data_set_is_named(
    tmp_path: Path, door: str, damage: Callable[[Content], Any], words: str
) -> None:
    content = valid()
    damage(content)
    with pytest.raises(InputError, match=rf"edited\.json: {words}"):
        DOORS[door](save(tmp_path / "edited.json", content), tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p[0].update(image_id=9), "predictions: entry 0 has the unknown image_id 9"),
        (lambda p: p[1].pop("segmentation"), "only 2 of 3 predictions have a 'segmentation'"),
        (lambda p: p.append("x"), "entry 3 is 'x'"),
    ],
)
def test_broken_results_are_named(damage: Callable[[list[Content]], Any], words: str) -> None:
    results = valid()["annotations"]
    damage(results)
    with pytest.raises(InputError, match=words):
        evaluate(valid(), results)


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


# --- Hostile files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../a/000001.jpg",
        "/tmp/a/000001.jpg",
        "C:\\a\\000001.jpg",
        "a/..\\..\\b/000001.jpg",
        "a\0b/000001.jpg",
        "\ud800/000001.jpg",
        "manifest.json/000001.jpg",
        "config.yaml/000001.jpg",
        "000001.jpg",
        "a/²1.jpg",
        f"a/{'9' * 5000}.jpg",
        "",
    ],
)
@pytest.mark.parametrize("by_names", [False, True])
def test_names_do_not_lead_out_of_the_label_set(
    tmp_path: Path, name: str, by_names: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    content, files = valid(), ["--out", str(tmp_path / "out/labels")]
    content["images"][1]["file_name"] = name
    if by_names:
        content["images"][1]["file_name"] = "x.jpg"
        segment, _, number = name.rpartition("/")
        lines = {"clips/a/000001.jpg": "clips/a 1", "x.jpg": f"{segment} {number[:-4]}"}
        files += ["--names", str(save(tmp_path / "names.json", lines))]
    coco = save(tmp_path / "edited.json", content)
    code, _, error = run(capsys, "labels", "import", "--coco", coco, *files)
    assert code == 2
    assert ("is given as" if by_names else "is not named as exported") in error
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    own = {"out/labels/config.yaml", "out/labels/.manifest.json"}
    assert left <= {"edited.json", "names.json", *own}


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [1 << 20, 1 << 20], "counts": [1 << 40]},
        {"size": [1 << 20, 1 << 20], "counts": [1 << 39, 1 << 39]},
        {"size": [1 << 16, 1 << 15], "counts": [1 << 31]},
        {"size": [1 << 200, 1], "counts": [1 << 200]},
        {"size": [-1, -1], "counts": [1]},
        {"size": [0, 0], "counts": []},
    ],
)
def test_masks_of_absurd_sizes_are_refused(tmp_path: Path, mask: Content) -> None:
    content = valid()
    del content["images"][1]["height"], content["images"][1]["width"]
    content["annotations"][2]["segmentation"] = mask
    coco = save(tmp_path / "edited.json", content)
    for read in DOORS.values():
        with pytest.raises(InputError, match=r"annotations\[2\].* (runs that do not fill|a mask)"):
            read(coco, tmp_path / "out")


def test_a_million_points_are_filled_where_they_are_a_plain_outline() -> None:
    angles = np.linspace(0, 2 * np.pi, 500_000, endpoint=False)
    circle = np.stack([80 + 30 * np.cos(angles), 48 + 30 * np.sin(angles)], 1).ravel().tolist()
    entry = {"id": 1, "bbox": [50, 18, 60, 60], "segmentation": [circle]}
    found = coco_instances([entry], (HEIGHT, WIDTH))
    assert found.areas()[0] == pytest.approx(np.pi * 900, rel=0.02)


# --- Any damage -----------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1 << 63, -(1 << 70), 10**400, 1e308, float("nan"), float("-inf"), 0.5, 1.0]),
    st.sampled_from(
        ["", "1", "\0", "\ud800", "clips/a/000001.png", [], {}, [[]], [None], {"a": 1}]
    ),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a file."""
    inside = content.items() if isinstance(content, dict) else enumerate(content)
    found = [path] if path else []
    for key, value in inside if isinstance(content, dict | list) else ():
        found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_damaged_field_is_refused_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = valid()
    known = places(content)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(known))
        parent = content
        try:
            for key in path:
                parent = parent[key]
            if data.draw(st.booleans()):
                parent[last] = data.draw(ODD)
            else:
                del parent[last]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier damage took it away
    root = tmp_path_factory.mktemp("damaged")
    coco = save(root / "edited.json", content)
    for truth, found in ((content, valid()), (valid(), content), (content, content)):
        try:
            metrics = evaluate(copy.deepcopy(truth), copy.deepcopy(found))
        except InputError:
            continue
        assert all(np.isfinite(value) for value in metrics.values())
    try:
        import_labels(coco, root / "labels")
    except InputError:
        assert not list(root.glob("labels/*/*/*.json"))
        return
    for image in read_ground_truth(valid()).images.values():
        frame = FrameRef("clips/a", int(image.id))
        if frame.file(root / "labels", ".json").is_file():
            labels = read_labels(root / "labels", frame)
            tight = rle.corners([rle.box(mask) for mask in labels.masks])
            assert (labels.boxes[:, :2] < tight[:, :2] + 5).all()
            assert (labels.boxes[:, 2:] > tight[:, 2:] - 5).all()
