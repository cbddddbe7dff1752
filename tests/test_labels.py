"""Pseudo-labels: L0 and L2 as the reference makes them, and label files that are whole or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.frames.clip import FrameRef
from moduv.frames.splits import write_split
from moduv.labels import rle
from moduv.labels.aggregated import aggregate_predictions
from moduv.labels.initial import extract_instances, ranges
from moduv.labels.instances import Instances, Predictions
from moduv.labels.predicted import from_predictions
from moduv.labels.store import (
    InitialConfig,
    check,
    initial_labels,
    read_labels,
    statistics,
    write_labels,
)

L0_CASES = [
    "constrange_6",
    "empty_8",
    "full_7",
    "grid_3",
    "plain_1",
    "plain_2",
    "plain_5",
    "thin_4",
    "waymo_real",
]


@pytest.mark.parametrize("case", L0_CASES)
def test_initial_labels_equal_the_reference(shared: Path, case: str) -> None:
    arrays = np.load(shared / f"golden/l0/{case}.npz")
    instances = extract_instances(arrays["mot_mask"], arrays["depth"], arrays["inv_K"])
    assert instances.to_json() == json.loads((shared / f"golden/l0/{case}.json").read_text())


@pytest.mark.parametrize("case", range(1, 11))
def test_aggregated_labels_equal_the_reference(shared: Path, case: int) -> None:
    arrays = np.load(shared / f"golden/l2/case_{case}.npz")
    expected = json.loads((shared / f"golden/l2/case_{case}.json").read_text())
    large, small = (soft_predictions(arrays, name) for name in ("large", "small"))
    found = aggregate_predictions(large, small).to_json()
    assert [mask["counts"] for mask in found["masks"]] == [m["counts"] for m in expected["masks"]]
    assert np.allclose(found["boxes"], np.reshape(expected["boxes"], (-1, 4)).tolist(), atol=1e-5)
    assert np.allclose(found["scores"], expected["scores"], atol=1e-5)


def soft_predictions(arrays: Any, name: str) -> Predictions:
    return Predictions(
        torch.from_numpy(arrays[f"{name}_masks"].astype(np.float32) / 255),
        torch.from_numpy(arrays[f"{name}_boxes"]),
        torch.from_numpy(arrays[f"{name}_scores"]),
    )


def slow_initial_labels(
    moving: np.ndarray, distance: np.ndarray, window: int, eps: float, min_samples: int
) -> list[set[tuple[int, int]]]:
    """DBSCAN over the directed neighbourhood, pixel by pixel."""
    height, width = moving.shape

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        return [
            (qy, qx)
            for qy in range(y - window // 2, y + window // 2)
            for qx in range(x - window // 2, x + window // 2)
            if 0 <= qy < height and 0 <= qx < width and moving[qy, qx]
            if abs(distance[y, x] - distance[qy, qx]) <= np.float32(eps)
        ]

    taken: set[tuple[int, int]] = set()
    clusters = []
    for start in zip(*np.nonzero(moving), strict=True):
        if start in taken or len(neighbours(*start)) < min_samples:
            continue
        cluster, queue = {start}, [start]
        taken.add(start)
        while queue:
            pixel = queue.pop()
            if len(neighbours(*pixel)) < min_samples:
                continue
            new = [q for q in neighbours(*pixel) if q not in taken]
            taken.update(new)
            cluster.update(new)
            queue += new
        clusters.append(cluster)
    return clusters


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 6]), st.floats(0.3, 1.0), st.floats(0.2, 1.0))
def test_initial_labels_equal_plain_clustering(
    seed: int, window: int, share: float, density: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((17, 23)) < density).astype(np.float32)
    depth = np.round(rng.random((17, 23)), 1).astype(np.float32) * 0.1 + 1
    inv_K = np.linalg.inv([[20.0, 0, 11], [0, 20.0, 8], [0, 0, 1]])
    min_samples = max(1, round(share * window**2))
    found = extract_instances(
        mask, depth, inv_K, window=window, eps=0.05, min_samples=min_samples, smallest_extent=-1
    )
    expected = slow_initial_labels(mask > 0.1, ranges(depth, inv_K), window, 0.05, min_samples)
    assert [set(zip(*np.nonzero(m), strict=True)) for m in found.decode()] == expected
    for box, pixels in zip(found.boxes, expected, strict=True):
        rows, columns = zip(*pixels, strict=True)
        assert box.tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


@pytest.mark.parametrize("key", ["mot_mask", "depth", "inv_K"])
def test_numbers_that_are_not_finite_name_file_and_key(tmp_path: Path, key: str) -> None:
    arrays = {"mot_mask": np.ones((8, 8)), "depth": np.ones((8, 8)), "inv_K": np.eye(4)}
    arrays[key][2, 2] = np.nan
    frame = FrameRef("train/a", 3)
    write_npz(frame.file(tmp_path / "motion", ".npz"), **arrays)
    write_split(tmp_path / "split.txt", [frame])
    with pytest.raises(
        InputError, match=rf"000003\.npz: '{key}' holds numbers that are not finite"
    ):
        initial_labels(
            tmp_path / "split.txt", tmp_path / "motion", tmp_path / "L0", InitialConfig()
        )
    assert not list((tmp_path / "L0").rglob("*0003.json"))


def test_mask_and_depth_of_different_size_are_refused() -> None:
    with pytest.raises(InputError, match="not images of one size"):
        extract_instances(np.ones((8, 8)), np.ones((8, 9)), np.eye(4))
    with pytest.raises(ValueError, match="must be even"):
        extract_instances(np.ones((8, 8)), np.ones((8, 8)), np.eye(4), window=9)


def test_initial_labels_resume_and_replace_half_written_files(tmp_path: Path, shared: Path) -> None:
    source = shared / "real/dynamo_outputs"
    frame = FrameRef("train/segment-1255991971750044803_1700_000_1720_000", 45)
    write_split(tmp_path / "split.txt", [frame, FrameRef("train/none", 1)])
    broken = frame.file(tmp_path / "L0", ".json")
    broken.parent.mkdir(parents=True)
    broken.write_text('{"masks": [{"si')
    initial_labels(tmp_path / "split.txt", source, tmp_path / "L0", InitialConfig(workers=1))
    expected = json.loads((shared / "golden/l0/waymo_real.json").read_text())
    assert json.loads(broken.read_text()) == expected
    manifest = json.loads((tmp_path / "L0/manifest.json").read_text())
    assert manifest["results"]["instances"] == 6
    assert manifest["results"]["without_motion_output"] == 1


def test_split_without_motion_output_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "split.txt", [FrameRef("train/a", 3)])
    with pytest.raises(InputError, match="run the motion stage first"):
        initial_labels(
            tmp_path / "split.txt", tmp_path / "motion", tmp_path / "L0", InitialConfig()
        )


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.float32)


def predictions_of(masks: list[np.ndarray], scores: list[float]) -> Predictions:
    stacked = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 40, 60)
    boxes = torch.arange(4.0).repeat(len(masks), 1)
    return Predictions(stacked, boxes, torch.tensor(scores))


def test_one_sided_predictions_survive() -> None:
    nothing = predictions_of([], [])
    found = predictions_of([disc(40, 60, 20, 20, 8), disc(40, 60, 20, 45, 6)], [0.9, 0.8])
    assert len(aggregate_predictions(nothing, nothing)) == 0
    for pair in ((found, nothing), (nothing, found)):
        merged = aggregate_predictions(*pair)
        assert merged.scores is not None
        assert merged.scores.tolist() == pytest.approx([0.9, 0.8])
        assert np.array_equal(merged.decode(), np.stack([m.numpy() > 0.5 for m in found.masks]))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 5))
def test_aggregation_invents_nothing(seed: int, large: int, small: int) -> None:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Predictions:
        masks = [disc(40, 60, *rng.uniform((0, 0, 2), (40, 60, 12))) for _ in range(count)]
        return predictions_of(masks, sorted(rng.random(count).tolist(), reverse=True))

    both = draw(large), draw(small)
    merged = aggregate_predictions(*both)
    known = {rle.encode(mask.numpy() > 0.5)["counts"] for p in both for mask in p.masks}
    assert len(merged) <= large + small
    assert {mask["counts"] for mask in merged.masks} <= known
    assert merged.size == (40, 60)


def test_same_object_is_kept_once_with_the_better_score() -> None:
    one, two = disc(40, 60, 20, 20, 9), disc(40, 60, 20, 21, 9)
    merged = aggregate_predictions(predictions_of([one], [0.91]), predictions_of([two], [0.95]))
    assert merged.scores is not None
    assert merged.scores.tolist() == pytest.approx([0.95])


def test_predicted_labels_are_strictly_above_the_threshold() -> None:
    predictions = predictions_of([disc(40, 60, 20, x, 5) for x in (10, 30, 50)], [0.9, 0.5, 0.2])
    instances = from_predictions(predictions, 0.5)
    assert len(instances) == 1
    assert np.array_equal(instances.decode()[0], predictions.masks[0].numpy() > 0.5)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
def test_run_lengths_equal_pycocotools(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    encoded = rle.encode(mask)
    assert (
        encoded["counts"]
        == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    )
    assert rle.is_whole(encoded)
    assert np.array_equal(rle.decode(encoded), mask)


def official() -> dict[str, Any]:
    masks = [rle.encode(disc(40, 60, 20, x, 6)) for x in (15, 40)]
    return {"masks": masks, "boxes": [[9, 14, 21, 26], [34, 14, 46, 26]]}


def test_official_files_come_back_as_they_were(shared: Path) -> None:
    for path in [*(shared / "golden/l0").glob("*.json"), *(shared / "golden/l2").glob("*.json")]:
        content = json.loads(path.read_text())
        again = Instances.from_json(content, path).to_json()
        assert again["masks"] == content["masks"]
        assert np.allclose(again["boxes"], content["boxes"])


def test_boxes_without_scores_are_read_as_inclusive() -> None:
    instances = Instances.from_json(official())
    assert instances.boxes[0].tolist() == [9, 14, 22, 27]
    assert instances.boxes_at(80, 120)[0].tolist() == [18, 28, 44, 54]
    assert instances.to_json() == official()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("masks", None, "lacks the list 'masks'"),
        ("boxes", [[0, 0, 1, 1]], "'boxes' has 1 entries for 2 masks"),
        ("boxes", [[0, 0, 1], [0, 0, 1]], "'boxes' entry 0"),
        ("boxes", [[0, 0, 1, 1], [0, 0, 1, float("nan")]], "'boxes' entry 1"),
        ("scores", [1.0], "'scores' has 1 entries"),
        ("masks", [{"size": [40, 60], "counts": "abc"}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [{"size": [40, 60]}] * 2, "'masks' entry 0 is no whole"),
        ("masks", [1, 2], "'masks' entry 0 is no whole"),
    ],
)
def test_broken_labels_name_file_and_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    frame = FrameRef("train/a", 3)
    path = frame.file(tmp_path, ".json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**official(), key: value}))
    with pytest.raises(InputError, match=rf"000003\.json: {message}"):
        read_labels(tmp_path, frame)
    assert len(check(tmp_path, [frame, FrameRef("train/a", 4)])) == 2


def test_label_sets_are_counted(tmp_path: Path) -> None:
    frames = [FrameRef("train/a", index) for index in range(3)]
    write_labels(tmp_path, frames[0], Instances.from_json(official()))
    for frame in frames[1:]:
        write_labels(tmp_path, frame, Instances([], np.zeros((0, 4)), np.zeros(0)))
    numbers = statistics(tmp_path, frames)
    assert (numbers["frames"], numbers["instances"], numbers["empty_frames"]) == (3, 2, 2)


def test_instances_can_be_selected_and_compared() -> None:
    instances = Instances.from_json({**official(), "scores": [0.25, 0.75]})
    assert len(instances[:1]) == 1
    better = instances[instances.scores > 0.5]
    assert better.boxes.tolist() == instances.boxes[1:].tolist()
    assert np.allclose(instances.iou(instances), np.eye(2))
    assert instances.areas().tolist() == instances.decode().sum((1, 2)).tolist()
