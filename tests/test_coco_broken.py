"""Broken, hostile and damaged COCO files are refused in one sentence, whoever reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_world import HEIGHT, WIDTH, Content, run, save, square, valid
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.instances import rle
from moduv.instances.coco import read_ground_truth
from moduv.instances.imported import import_labels
from moduv.instances.store import read_labels

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
