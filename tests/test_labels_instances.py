"""Instances: run lengths, the official form on disk, and what is refused when reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from moduv.engine.errors import InputError
from moduv.frames.clip import FrameRef
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import check, read_labels

FRAME = FrameRef("train/a", 3)


def block(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (40, 60)) -> Any:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def official() -> dict[str, Any]:
    """Two objects as the official L0 has them: inclusive boxes, no scores."""
    masks = [rle.encode(block(9, 14, 22, 27)), rle.encode(block(34, 14, 47, 27))]
    return {"masks": masks, "boxes": [[9, 14, 21, 26], [34, 14, 46, 26]]}


def write_raw(root: Path, text: str) -> Path:
    path = FRAME.file(root, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
@example(1, 1, 0.0, 0)
@example(1, 1, 1.0, 0)
def test_run_lengths_equal_pycocotools(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    encoded = rle.encode(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert encoded == {"size": [height, width], "counts": expected}
    assert rle.is_whole(encoded)
    assert np.array_equal(rle.decode(encoded), mask)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
@example(1, 1, 0.0, 0)
@example(3, 4, 1.0, 0)
def test_crops_are_the_bounding_rectangle(
    height: int, width: int, density: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    top, left, crop = rle.decode_crop(rle.encode(mask))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not mask.any():
        assert crop.shape == (0, 0)
        return
    assert (top, left) == (rows[0], columns[0])
    assert np.array_equal(crop, mask[top : rows[-1] + 1, left : columns[-1] + 1])


def test_long_runs_survive() -> None:
    mask = block(1000, 300, 1900, 1280, (1280, 1920))
    assert np.array_equal(rle.decode(rle.encode(mask)), mask)
    assert Instances([rle.encode(mask)], np.zeros((1, 4))).areas().tolist() == [mask.sum()]


def test_official_files_come_back_as_they_were(shared: Path) -> None:
    paths = [p for name in ("l0", "l2") for p in (shared / "golden" / name).glob("*.json")]
    assert len(paths) == 19
    for path in paths:
        content = json.loads(path.read_text())
        instances = Instances.from_json(content, path)
        again = instances.to_json()
        assert again.keys() == content.keys()
        assert again["masks"] == content["masks"]
        assert np.allclose(
            np.reshape(again["boxes"], (-1, 4)), np.reshape(content["boxes"], (-1, 4))
        )
        if "scores" not in content:
            assert json.dumps(again["boxes"]) == json.dumps(content["boxes"])


def test_boxes_without_scores_are_inclusive_on_disk_and_continuous_in_memory() -> None:
    instances = Instances.from_json(official())
    assert instances.boxes[0].tolist() == [9, 14, 22, 27]
    assert instances.to_json() == official()
    # The continuous box of a mask is its extent: edges at full size are not short by a label pixel.
    assert instances.boxes_at(160, 240)[0].tolist() == [36, 56, 88, 108]
    larger = instances.resized(160, 240)
    assert np.array_equal(larger.decode()[0], block(36, 56, 88, 108, (160, 240)))
    assert larger.size == (160, 240)


def test_boxes_with_scores_are_kept_as_they_are() -> None:
    content = {**official(), "scores": [0.5, 0.75]}
    instances = Instances.from_json(content)
    assert instances.boxes.tolist() == content["boxes"]
    assert instances.to_json() == content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("masks", None, "lacks the list 'masks'"),
        ("boxes", {"a": 1}, "lacks the list 'boxes'"),
        ("boxes", [[0, 0, 1, 1]], "'boxes' has 1 entries for 2 masks"),
        ("boxes", [[0, 0, 1], [0, 0, 1]], "'boxes' entry 0 is not made of 4 finite numbers"),
        ("boxes", [[0, 0, 1, 1], [0, 0, 1, float("nan")]], "'boxes' entry 1 is not made of"),
        ("boxes", [[0, 0, 1, 1], [0, 0, 1, 10**400]], "'boxes' entry 1 is not made of"),
        ("boxes", [[0, 0, 1, 1], [0, 0, 1, "2"]], "'boxes' entry 1 is not made of"),
        ("boxes", [[0, 0, 1, 1], [5, 0, 1, 1]], "'boxes' entry 1 is not left, top, right, bottom"),
        ("scores", [1.0], "'scores' has 1 entries for 2 masks"),
        ("scores", [0.5, float("inf")], "'scores' entry 1 is not made of 1 finite numbers"),
        ("scores", None, "lacks the list 'scores'"),
        ("masks", [{"size": [40, 60], "counts": "abc"}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [40, 60], "counts": ""}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [40, 60], "counts": "\u00e9"}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [0, 0], "counts": "0"}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [40, 60]}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [40], "counts": "a"}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [1, 2], "'masks' entry 0 is no whole"),
    ],
)
def test_broken_labels_name_file_and_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    write_raw(tmp_path, json.dumps({**official(), key: value}))
    with pytest.raises(InputError, match=rf"000003\.json: {message}.*; make the labels again"):
        read_labels(tmp_path, FRAME)
    assert len(check(tmp_path, [FRAME, FRAME.neighbour(1)])) == 2


@pytest.mark.parametrize("other", [[41, 60], [40, 61], [60, 40]])
def test_masks_of_another_size_than_they_say_are_refused(other: list[int]) -> None:
    content = official()
    content["masks"][1] = {**content["masks"][1], "size": other}
    # 60 x 40 holds as many pixels as 40 x 60, but not beside a mask of 40 x 60.
    with pytest.raises(InputError, match="'masks'"):
        Instances.from_json(content)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_or_whole(data: st.DataObject) -> None:
    text = json.dumps({**official(), "scores": [0.25, 0.75]})
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 4))
    replacement = data.draw(st.text('09aoP[]{}",:-\\', max_size=4))
    damaged = text[:start] + replacement + text[start + length :]
    try:
        instances = Instances.from_json(json.loads(damaged), "labels.json")
    except (json.JSONDecodeError, InputError):
        return
    assert instances.decode().shape == (len(instances), *(instances.size or (0, 0)))
    assert np.isfinite(instances.boxes).all()
    assert instances.areas().tolist() == instances.decode().sum((1, 2)).tolist()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"masks": [{"si', "\x00"])
def test_half_written_files_are_refused(tmp_path: Path, text: str) -> None:
    write_raw(tmp_path, text)
    with pytest.raises(InputError, match=r"000003\.json: "):
        read_labels(tmp_path, FRAME)


def test_instances_can_be_selected_compared_and_joined() -> None:
    instances = Instances.from_json({**official(), "scores": [0.25, 0.75]})
    assert instances.scores is not None
    better = instances[instances.scores > 0.5]
    assert better.boxes.tolist() == instances.boxes[1:].tolist()
    assert np.allclose(instances.iou(better), [[0], [1]])
    assert instances.areas().tolist() == instances.decode().sum((1, 2)).tolist()
    empty = instances[:0]
    assert (len(empty), empty.size, empty.decode().shape) == (0, (40, 60), (0, 40, 60))
    assert empty.iou(instances).shape == (0, 2)
    assert empty.areas().shape == (0,)
    joined = Instances.concatenate([better, empty, instances])
    assert joined.to_json()["scores"] == [0.75, 0.25, 0.75]
    assert joined.masks == better.masks + instances.masks
    assert Instances.concatenate([empty, empty]).to_json() == empty.to_json()


def test_instances_that_do_not_belong_together_are_refused() -> None:
    one, other = Instances.from_json(official()), Instances.from_json(official()).resized(80, 120)
    with pytest.raises(ValueError, match="sizes"):
        Instances.concatenate([one, other])
    with pytest.raises(ValueError, match="compared"):
        one.iou(other)
    with pytest.raises(ValueError, match="lengths"):
        Instances(one.masks, one.boxes[:1])
