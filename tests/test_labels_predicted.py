"""Labels from predictions: views fused, boxes fitted to masks, thresholds chosen where views agree."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.instances.crops import Crop
from moduv.instances.instances import Instances, Predictions
from moduv.labels.agreement import agreed_score, found_again
from moduv.labels.predicted import (
    dice_threshold,
    fuse,
    with_fitted_boxes,
    with_fitted_masks,
    without_nested,
)

SIZE = (40, 60)
Box = tuple[int, int, int, int]


def seen(*found: tuple[Box, float], value: float = 0.9) -> Predictions:
    """What a detector says of one view: boxes with scores, filled by masks of one probability."""
    crops = [
        Crop(top, left, np.full((bottom - top, right - left), value, np.float32))
        for (left, top, right, bottom), _ in found
    ]
    boxes = torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4)
    return Predictions(crops, boxes, torch.tensor([score for _, score in found]), SIZE)


def test_an_object_has_the_mean_score_of_all_views_and_errors_of_one_view_sink() -> None:
    first = seen(((10, 10, 20, 20), 0.9), ((30, 5, 40, 15), 0.6))
    second = seen(((11, 10, 21, 20), 0.6))
    third = seen(((10, 10, 20, 20), 0.3), ((2, 30, 9, 38), 0.2))
    fused = fuse([first, second, third])
    np.testing.assert_allclose(fused.scores, [0.6, 0.2, 0.2 / 3], rtol=1e-6)
    np.testing.assert_allclose(fused.boxes[0], [10 + 1 / 3, 10, 20 + 1 / 3, 20], rtol=1e-6)
    np.testing.assert_allclose(fused.boxes[1], [30, 5, 40, 15])
    assert len(fuse([first, second, third], score=0.1)) == 2
    assert len(fuse([first, second, third], score=0.6)) == 0


def test_a_mask_is_the_mean_of_the_views_that_found_the_object() -> None:
    first, second = seen(((10, 10, 20, 20), 0.6)), seen(((10, 10, 20, 14), 0.2), value=0.1)
    (alone,) = fuse([first, seen()]).crops
    np.testing.assert_allclose(alone.pixels, 0.9, rtol=1e-6)
    # Boxes of 100 and 40 pixels do not overlap enough to be the same object.
    assert len(fuse([first, second])) == 2
    wide = seen(((12, 10, 22, 20), 0.2), value=0.5)
    (both,) = fuse([first, wide]).crops
    assert (both.top, both.left, both.pixels.shape) == (10, 10, (10, 12))
    np.testing.assert_allclose(both.pixels[0], [0.675] * 2 + [0.8] * 8 + [0.125] * 2, rtol=1e-5)


def test_a_detection_belongs_to_one_object_only() -> None:
    neighbours = seen(((10, 10, 20, 20), 0.9), ((13, 10, 23, 20), 0.8))
    between = seen(((11, 10, 21, 20), 0.6))
    np.testing.assert_allclose(fuse([neighbours, between]).scores, [0.75, 0.4], rtol=1e-6)


def test_nothing_and_a_single_view_stay_as_they_are() -> None:
    assert len(fuse([seen(), seen()])) == 0
    alone = seen(((1, 2, 3, 4), 0.5))
    assert fuse([alone]) is alone


boxes_of_views = st.lists(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 25), st.integers(2, 15), st.floats(0.06, 1.0)),
        max_size=5,
    ),
    min_size=2,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(boxes_of_views)
def test_fused_scores_fall_and_hold_all_that_views_say(
    given_views: list[list[tuple[int, int, int, float]]],
) -> None:
    views = [seen(*(((x, y, x + s, y + s), p) for x, y, s, p in view)) for view in given_views]
    fused = fuse(views)
    assert (fused.scores.diff() <= 1e-6).all()
    total = sum(float(view.scores.sum()) for view in views)
    assert float(fused.scores.sum()) == pytest.approx(total / len(views), rel=1e-4)
    assert max(map(len, views)) <= len(fused) <= sum(map(len, views))
    for crop in fused.crops:
        assert crop.pixels.max() <= 0.9 + 1e-4


def test_boxes_fit_masks_and_empty_masks_are_dropped() -> None:
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 5:9, 10:30] = True
    masks[2, 1, 1] = True
    rough = np.array([[8, 0, 33, 12], [0, 0, 5, 5], [0, 0, 4, 4]], np.float32)
    found = Instances.from_dense(masks, rough, np.array([0.3, 0.2, 0.1]))
    fitted = with_fitted_boxes(found.with_columns(track=[4, 5, 6]))
    assert fitted.boxes.tolist() == [[10, 5, 30, 9], [1, 1, 2, 2]]
    np.testing.assert_allclose(fitted.scores, [0.3, 0.1])
    assert fitted.columns["track"].tolist() == [4, 6]
    assert len(with_fitted_boxes(found[:0])) == 0


def test_of_an_unsure_mask_the_pixels_of_the_best_expected_dice_are_taken() -> None:
    unsure = np.array([[0.45] * 6 + [0.4] * 6 + [0.1] * 8], np.float32)
    crops = [Crop(3, 4, unsure), Crop(0, 0, np.array([[1, 1, 0.9, 0.2, 0]], np.float32))]
    crops += [Crop(0, 0, np.zeros((0, 0), np.float32)), Crop(2, 2, np.zeros((3, 3), np.float32))]
    found = Predictions(crops, torch.zeros(4, 4), torch.ones(4), SIZE)
    masks = [crop.pixels.sum() for crop in with_fitted_masks(found).crops]
    # None of the first has a probability above one half; the second is as sure as at one half.
    assert masks == [12, 3, 0, 0]
    assert found.to_instances().areas().tolist() == [0, 3, 0, 0]
    assert with_fitted_masks(found).to_instances().areas().tolist() == masks


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=40), st.randoms())
def test_no_other_number_of_pixels_promises_a_better_dice(
    values: list[float], random: Random
) -> None:
    random.shuffle(values)
    pixels = np.array(values)

    def promised(chosen: np.ndarray) -> float:
        return float(2 * pixels[chosen].sum() / (chosen.sum() + pixels.sum()))

    best = promised(pixels >= dice_threshold(pixels))
    for value in values:
        assert promised(pixels >= value) <= best + 1e-9
    sure = np.array([0.0] * 5 + [1.0] * 3)
    assert (sure >= dice_threshold(sure)).sum() == 3


def test_a_whole_wins_against_a_part_that_is_little_surer() -> None:
    def kept(score_of_part: float) -> list[list[float]]:
        whole, part = ((10, 10, 30, 30), 0.4), ((12, 12, 20, 20), score_of_part)
        return without_nested(seen(whole, part).to_instances(), 0.3).boxes.tolist()

    assert kept(0.5) == [[10, 10, 30, 30]]
    assert kept(0.8) == [[12, 12, 20, 20]]


def test_a_label_is_found_again_where_a_view_has_it() -> None:
    labels = seen(((10, 10, 20, 20), 0.9), ((30, 5, 40, 15), 0.6)).to_instances()
    shifted = seen(((12, 10, 22, 20), 0.3), ((36, 5, 46, 15), 0.9)).to_instances()
    assert found_again(labels, labels).tolist() == [True, True]
    assert found_again(labels, shifted).tolist() == [True, False]
    assert found_again(labels, seen().to_instances()).tolist() == [False, False]
    assert found_again(labels[:0], labels).tolist() == []


@pytest.mark.parametrize("place", [0.15, 0.4, 0.8])
def test_the_threshold_is_that_of_the_best_expected_f1(place: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    # A label is found again with a probability that rises through one half at `place`.
    chance = 1 / (1 + np.exp((place - scores) / 0.03))
    found = rng.random(4000) < chance
    threshold = agreed_score(scores, found)
    best = max(np.linspace(0, 1, 200), key=lambda t: f1(chance, scores > t))
    # F1 is flat around its best, so thresholds may differ where it hardly does.
    assert f1(chance, scores > threshold) > f1(chance, scores > best) - 0.005
    assert threshold == pytest.approx(place, abs=0.1)


def f1(chance: np.ndarray, kept: np.ndarray) -> float:
    """Expected F1 of the labels that are kept, each right with some chance."""
    return float(2 * chance[kept].sum() / (kept.sum() + chance.sum()))


def test_without_doubt_all_labels_are_kept_and_without_agreement_none() -> None:
    scores = np.array([0.1, 0.5, 0.9])
    assert agreed_score(scores, np.ones(3, bool)) == 0.0
    assert not (scores > agreed_score(scores, np.zeros(3, bool))).any()
    assert agreed_score(np.zeros(0), np.zeros(0, bool)) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8]), st.booleans()), min_size=1),
    st.randoms(),
)
def test_the_threshold_does_not_depend_on_the_order(
    judged: list[tuple[float, bool]], random: Random
) -> None:
    scores, found = np.array(judged).T
    order = np.array(random.sample(range(len(judged)), len(judged)))
    assert agreed_score(scores, found) == agreed_score(scores[order], found[order])
    # Of what is thrown away, no upper part is found more often than what is kept.
    kept = scores > agreed_score(scores, found)
    if found.any():
        assert found[kept].mean() >= found[~kept].mean() if kept.any() and (~kept).any() else True
        assert kept.any()
