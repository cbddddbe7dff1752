"""Objects keep their identity by how they look: over jumps, gaps and crossings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.correspondence.network import CorrespondenceNet, TrainedNet
from moduv.correspondence.predict import Follower, PropagatedConfig
from moduv.correspondence.propagation import PropagationConfig
from moduv.correspondence.tracks import MaskTrackConfig, MaskTracker
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.instances.instances import Instances
from moduv.instances.tracks import Tracker

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)
Place = tuple[int, int, int]
"""Colour, top and left of a square."""


def frame(places: Sequence[Place], hidden: Sequence[int] = ()) -> tuple[np.ndarray, Instances]:
    """Squares on grey, and their masks but for those hidden from the detector."""
    image = np.full((64, 128, 3), 110, np.uint8)
    masks = []
    for colour, top, left in places:
        image[top : top + 20, left : left + 20] = COLOURS[colour]
        mask = np.zeros(image.shape[:2], bool)
        mask[top : top + 20, left : left + 20] = True
        masks += [mask] if colour not in hidden else []
    return image, Instances.from_dense(np.stack(masks) if masks else np.zeros((0, 64, 128), bool))


@pytest.fixture(scope="module")
def follower() -> Follower:
    """An untrained network, which knows colours."""
    torch.manual_seed(0)
    net = CorrespondenceNet(NetworkConfig(width=8, stride=4)).eval()
    return Follower(TrainedNet(net, "res3"), PropagatedConfig(), torch.device("cpu"))


def identities(tracker: MaskTracker | Tracker, frames: list[tuple[np.ndarray, Instances]]) -> list:
    return [tracker.assign(image, found).tolist() for image, found in frames]


def test_objects_that_jump_keep_their_identity_where_boxes_lose_it(follower: Follower) -> None:
    frames = [frame([(0, 4, 30 * t), (1, 40, 100 - 30 * t)]) for t in range(4)]
    assert identities(MaskTracker(follower), frames) == [[1, 2]] * 4
    assert identities(Tracker(), frames)[1] == [3, 4]


def test_an_object_that_is_not_detected_for_a_while_is_known_again(follower: Follower) -> None:
    places = [[(0, 10, 10 + 3 * t), (1, 40, 80)] for t in range(7)]
    frames = [frame(p, hidden=[0] if 2 <= t < 5 else []) for t, p in enumerate(places)]
    assert identities(MaskTracker(follower), frames) == [[1, 2]] * 2 + [[2]] * 3 + [[1, 2]] * 2
    config = MaskTrackConfig(propagation=PropagationConfig(context=2))
    assert identities(MaskTracker(follower, config), frames)[-1] == [3, 2]


def test_what_is_new_gets_a_new_identity_and_a_cut_forgets(follower: Follower) -> None:
    tracker = MaskTracker(follower, first=5)
    two = [(0, 4, 10), (1, 40, 60)]
    assert identities(tracker, [frame([]), frame(two), frame([*two, (2, 4, 90)])]) == [
        [],
        [5, 6],
        [5, 6, 7],
    ]
    tracker.forget()
    assert identities(tracker, [frame(two)]) == [[8, 9]]
    assert tracker.next_identity == 10


@settings(max_examples=10, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 100))
def test_the_order_of_detections_changes_nothing(order: list[int], seed: int) -> None:
    torch.manual_seed(0)
    net = CorrespondenceNet(NetworkConfig(width=8, stride=8)).eval()
    tracker = MaskTracker(
        Follower(TrainedNet(net, "res3"), PropagatedConfig(), torch.device("cpu"))
    )
    tops = np.random.default_rng(seed).integers(0, 40, 3).tolist()
    squares = [(colour, top, 40 * colour) for colour, top in enumerate(tops)]
    frames = [frame(squares), frame([squares[i] for i in order]), frame(squares)]
    assert identities(tracker, frames) == [[1, 2, 3], [i + 1 for i in order], [1, 2, 3]]


def test_no_identity_is_given_twice_in_a_frame(follower: Follower) -> None:
    image, found = frame([(0, 10, 10), (0, 12, 14), (0, 14, 18)])
    tracker = MaskTracker(follower)
    for _ in range(3):
        assert sorted(tracker.assign(image, found).tolist()) == [1, 2, 3]


def test_settings_that_mean_nothing_are_one_sentence() -> None:
    with pytest.raises(InputError, match="match_iou is 0"):
        MaskTrackConfig(match_iou=0)
