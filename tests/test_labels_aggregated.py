"""L1 and L2: the reference's merge exactly, the dense definition in general, repairs on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.instances import rle
from moduv.instances.crops import crop_masks
from moduv.instances.instances import Instances, Predictions
from moduv.labels import bits
from moduv.labels.aggregated import aggregate_predictions


def soft_predictions(arrays: Any, name: str, *, as_bytes: bool = False) -> Predictions:
    masks = torch.from_numpy(arrays[f"{name}_masks"])
    return Predictions.from_dense(
        masks if as_bytes else masks.float() / 255,
        torch.from_numpy(arrays[f"{name}_boxes"]),
        torch.from_numpy(arrays[f"{name}_scores"]),
    )


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("case", range(1, 11))
def test_aggregated_labels_equal_the_reference(shared: Path, case: int, as_bytes: bool) -> None:
    arrays = np.load(shared / f"golden/l2/case_{case}.npz")
    expected = json.loads((shared / f"golden/l2/case_{case}.json").read_text())
    pair = (soft_predictions(arrays, name, as_bytes=as_bytes) for name in ("large", "small"))
    found = aggregate_predictions(*pair).to_json()
    assert found["masks"] == expected["masks"]
    assert np.allclose(
        np.reshape(found["boxes"], (-1, 4)), np.reshape(expected["boxes"], (-1, 4)), atol=1e-5
    )
    assert np.allclose(found["scores"], expected["scores"], atol=1e-5)


def blob(y: float, x: float, radius: float, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A disc with a soft rim, in steps of 1 / 8 so that sums are exact."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - y, columns - x)
    return (np.round(8 * np.clip((radius + 2 - distance) / 4, 0, 1)) / 8).astype(np.float32)


def predictions_of(masks: list[np.ndarray], scores: list[float]) -> Predictions:
    stacked = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 40, 60)
    boxes = torch.arange(4.0 * len(masks)).reshape(-1, 4)
    return Predictions.from_dense(stacked, boxes, torch.tensor(scores))


def dense_clean(soft: np.ndarray, limit: float, descending: bool) -> list[int]:
    """A mask against the union of all larger (descending) or smaller ones, on full-size arrays."""
    sums = soft.astype(float).sum((1, 2))
    order = sorted(range(len(soft)), key=lambda i: (-sums[i] if descending else sums[i], i))
    kept = []
    for place, index in enumerate(order):
        union = (soft[order[:place]] != 0).any(0)
        covered = (union & (soft[index] != 0)).sum()
        if sums[index] == 0 or covered / sums[index] <= limit:
            kept.append(index)
    return sorted(kept)


def dense_aggregate(large: Predictions, small: Predictions) -> list[tuple[str, int]]:
    """The published merge, step by step on full-size arrays; who survives, in order."""
    soft = {"L": large.masks.numpy(), "S": small.masks.numpy()}
    kept = {"L": dense_clean(soft["L"], 0.75, True), "S": dense_clean(soft["S"], 0.75, False)}
    hard = {name: soft[name] > 0.5 for name in soft}
    pairs = {}
    for i in kept["L"]:
        for j in kept["S"]:
            one, two = hard["L"][i], hard["S"][j]
            pairs[i, j] = np.float32((one & two).sum() / ((one | two).sum() + 1e-6))
    winners: set[tuple[str, int]] = set()
    met: set[tuple[str, int]] = set()
    for i, j in sorted(pairs, key=lambda pair: (-pairs[pair], pair)):
        if pairs[i, j] > 0.5:
            met |= {("L", i), ("S", j)}
            winners.add(("L", i) if large.scores[i] >= small.scores[j] else ("S", j))
    survivors = sorted(winners)

    def uncovered(name: str, union: np.ndarray) -> list[tuple[str, int]]:
        rest = [i for i in kept[name] if (name, i) not in met and hard[name][i].any()]
        shares = {i: (hard[name][i] & union).sum() / hard[name][i].sum() for i in rest}
        return [(name, i) for i in rest if shares[i] < 0.5]

    survivors += uncovered("L", hard["S"][kept["S"]].any(0))
    return survivors + uncovered(
        "S",
        np.any([hard[n][i] for n, i in survivors], 0) if survivors else np.zeros((40, 60), bool),
    )


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 100_000),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([8, 25, 60]),
    st.sampled_from([6, 14]),
)
def test_aggregation_equals_the_dense_definition(
    seed: int, large: int, small: int, spread: int, radius: int
) -> None:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Predictions:
        masks = [
            blob(
                20 + rng.uniform(-1, 1) * spread / 2,
                30 + rng.uniform(-1, 1) * spread,
                rng.uniform(1, radius),
            )
            for _ in range(count)
        ]
        return predictions_of(masks, sorted(rng.random(count).tolist(), reverse=True))

    both = {"L": draw(large), "S": draw(small)}
    merged = aggregate_predictions(both["L"], both["S"])
    expected = dense_aggregate(both["L"], both["S"])
    assert merged.scores is not None
    assert merged.scores.tolist() == [both[name].scores[i].item() for name, i in expected]
    assert merged.boxes.tolist() == [both[name].boxes[i].tolist() for name, i in expected]
    masks = [rle.encode(both[name].masks[i].numpy() > 0.5) for name, i in expected]
    assert merged.masks == masks
    assert merged.size == (40, 60)


def scores_of(instances: Instances) -> list[float]:
    assert instances.scores is not None
    return [round(score, 3) for score in instances.scores.tolist()]


def test_one_sided_predictions_survive() -> None:
    nothing = predictions_of([], [])
    found = predictions_of([blob(20, 15, 8), blob(20, 45, 6)], [0.9, 0.8])
    assert len(aggregate_predictions(nothing, nothing)) == 0
    for pair in ((found, nothing), (nothing, found)):
        merged = aggregate_predictions(*pair)
        assert scores_of(merged) == [0.9, 0.8]
        assert np.array_equal(merged.decode(), found.masks.numpy() > 0.5)


@pytest.mark.parametrize(("large", "small", "kept"), [(0.9, 0.8, 0), (0.8, 0.9, 1), (0.9, 0.9, 0)])
def test_of_a_pair_the_better_score_survives(large: float, small: float, kept: int) -> None:
    masks = [blob(20, 20, 9), blob(20, 21, 9)]
    merged = aggregate_predictions(
        predictions_of(masks[:1], [large]), predictions_of(masks[1:], [small])
    )
    assert np.array_equal(merged.decode(), [masks[kept] > 0.5])


def square(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((40, 60), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(("left", "count"), [(14, 2), (13, 1)])
def test_a_cover_of_exactly_the_self_filter_is_allowed(left: int, count: int) -> None:
    masks = [square(0, 0, 20, 20), square(left, 0, left + 8, 8)]
    pair = predictions_of(masks, [0.9, 0.8]), predictions_of([], [])
    assert len(aggregate_predictions(*pair)) == count


@pytest.mark.parametrize(("bottom", "count"), [(5, 2), (6, 1)])
def test_an_iou_of_exactly_the_threshold_is_no_match(bottom: int, count: int) -> None:
    large = predictions_of([square(0, 0, 10, 10)], [0.9])
    small = predictions_of([square(0, 0, 10, bottom)], [0.8])
    assert len(aggregate_predictions(large, small, cross_filter=1.1)) == count


def test_neighbours_whose_boxes_overlap_are_dropped_as_by_the_reference() -> None:
    masks = [blob(20, 20, 9), blob(20, 41, 9)]
    # A pasted mask is positive on nearly its whole box.
    for mask, (left, right) in zip(masks, [(4, 40), (22, 58)], strict=True):
        mask[5:36, left:right] = np.maximum(mask[5:36, left:right], 1 / 64)
    masks[0] *= np.float32(0.75)
    pair = predictions_of(masks, [0.95, 0.93]), predictions_of([], [])
    assert len(aggregate_predictions(*pair)) == 1


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_soft_masks_of_any_precision_are_merged(kind: torch.dtype) -> None:
    found = predictions_of([blob(20, 15, 8), blob(20, 45, 6)], [0.75, 0.5])
    other = Predictions.from_dense(
        found.masks.to(kind), found.boxes.to(kind), found.scores.to(kind)
    )
    assert (
        aggregate_predictions(other, other).to_json()
        == aggregate_predictions(found, found).to_json()
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 90), st.integers(0, 3), st.integers(0, 1000))
def test_packed_masks_hold_what_the_soft_masks_held(
    height: int, width: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    soft = rng.random((count, height, width)).astype(np.float32)
    soft[rng.random(soft.shape) < 0.6] = 0
    crops = crop_masks(torch.from_numpy(soft))
    packed = bits.pack(crops, (height, width), 0.3)
    flat = np.unpackbits(packed.binary.view(np.uint8), axis=1, bitorder="little")
    hard = soft > np.float32(0.3)
    assert np.array_equal(flat[:, : height * width].reshape(soft.shape), hard)
    assert not flat[:, height * width :].any()
    masks = [rle.decode(crop.encode(0.3, (height, width))) for crop in crops]
    assert np.array_equal(np.reshape(masks, soft.shape), hard)
    areas = [bits.common(row, row) for row in packed.support]
    assert areas == (soft != 0).sum((1, 2)).tolist()
    assert np.allclose(packed.mass, soft.sum((1, 2)), rtol=1e-5)


def test_a_diverged_detector_and_mismatched_sizes_are_refused() -> None:
    found = predictions_of([blob(20, 15, 8)], [0.9])
    diverged = Predictions.from_dense(found.masks * np.nan, found.boxes, found.scores)
    with pytest.raises(InputError, match="not finite"):
        aggregate_predictions(found, diverged)
    with pytest.raises(InputError, match="not finite"):
        diverged.to_instances()
    smaller = Predictions.from_dense(found.masks[:, :30], found.boxes, found.scores)
    with pytest.raises(ValueError, match="masks of"):
        aggregate_predictions(found, smaller)


def test_predicted_labels_are_strictly_above_the_thresholds() -> None:
    predictions = predictions_of([blob(20, x, 5) for x in (10, 30, 50)], [0.9, 0.5, 0.2])
    instances = predictions.to_instances(0.5)
    assert scores_of(instances) == [0.9]
    assert instances.boxes.tolist() == predictions.boxes[:1].tolist()
    assert (predictions.masks[0] == 0.5).any()
    assert np.array_equal(instances.decode()[0], predictions.masks[0].numpy() > 0.5)
    assert len(predictions.to_instances(0.95)) == 0


def test_detections_with_an_empty_mask_are_kept_as_the_reference_does() -> None:
    instances = predictions_of([np.zeros((40, 60), np.float32)], [0.9]).to_instances()
    assert instances.areas().tolist() == [0]
    assert Instances.from_json(instances.to_json()).to_json() == instances.to_json()
