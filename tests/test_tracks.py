"""Identities of a video's objects: one an object, none twice, through gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.instances.tracks import TrackConfig, Tracker


def box(x: float, y: float, size: float = 20.0) -> list[float]:
    return [x, y, x + size, y + 0.7 * size]


def follow(frames: list[list[list[float]]], **settings: float) -> list[list[int]]:
    tracker = Tracker(TrackConfig(**settings))  # type: ignore[arg-type]
    return [tracker.update(np.array(boxes).reshape(-1, 4)).tolist() for boxes in frames]


coordinate = st.integers(0, 100).map(float)
any_box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(list)
any_video = st.lists(st.lists(any_box, max_size=6), max_size=12)


@given(any_video)
def test_no_frame_has_an_identity_twice_and_identities_count_from_one(
    frames: list[list[list[float]]],
) -> None:
    found = follow(frames)
    assert [len(identities) for identities in found] == [len(boxes) for boxes in frames]
    assert all(len(set(identities)) == len(identities) for identities in found)
    used = {identity for identities in found for identity in identities}
    assert used == set(range(1, len(used) + 1))
    assert follow(frames) == found


@settings(max_examples=50)
@given(
    st.floats(-6, 6),
    st.floats(-4, 4),
    st.integers(1, TrackConfig.patience),
    st.integers(3, 8),
)
def test_a_moving_object_keeps_its_identity_through_a_gap(
    right: float, down: float, gap: int, before: int
) -> None:
    path = [[box(50 + right * t, 50 + down * t)] for t in range(before + gap + 4)]
    path[before : before + gap] = [[] for _ in range(gap)]
    found = follow(path)
    assert {identity for identities in found for identity in identities} == {1}


def test_an_object_is_forgotten_after_the_patience_and_its_identity_not_used_again() -> None:
    seen = [[box(10, 10)]]
    assert follow([*seen, [], [], *seen], patience=2)[-1] == [1]
    assert follow([*seen, [], [], [], *seen], patience=2)[-1] == [2]


def test_objects_that_pass_each_other_keep_their_identities() -> None:
    frames = [[box(10 + 8 * t, 30), box(90 - 8 * t, 36)] for t in range(11)]
    assert follow(frames) == [[1, 2]] * 11
    swapped = [boxes[::-1] if t % 2 else boxes for t, boxes in enumerate(frames)]
    assert follow(swapped) == [[2, 1] if t % 2 else [1, 2] for t in range(11)]


def test_all_pairs_are_chosen_together() -> None:
    # The best single pair, the first box with the second object, would leave the other two alone.
    found = follow([[box(0, 0), box(12, 0)], [box(7, 0), box(18, 0)]])
    assert found == [[1, 2], [1, 2]]


def test_a_cut_ends_every_object() -> None:
    tracker = Tracker()
    tracker.update(np.array([box(10, 10)]))
    tracker.forget()
    assert tracker.update(np.array([box(10, 10)])).tolist() == [2]


@pytest.mark.parametrize("wrong", [{"match_iou": 0}, {"patience": -1}, {"steadiness": 1.0}])
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="match_iou is"):
        TrackConfig(**wrong)  # type: ignore[arg-type]
