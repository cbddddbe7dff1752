"""Labels snapped to the image end where the colours end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moduv.engine.errors import InputError
from moduv.instances import rle
from moduv.instances.instances import Instances, Predictions
from moduv.labels.initial import InitialConfig
from moduv.labels.snapped import snap_to_image
from moduv.rounds.labelling import label_motion
from moduv.rounds.moving2mobile import MobileLabelsConfig


def scene() -> np.ndarray:
    image = np.random.default_rng(0).normal(110, 6, (60, 90, 3))
    image[20:40, 30:60] = np.random.default_rng(1).normal((200, 40, 40), 6, (20, 30, 3))
    return image.clip(0, 255).astype(np.uint8)


def instances(*boxes: tuple[int, int, int, int]) -> Instances:
    masks = np.zeros((len(boxes), 60, 90), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Instances([rle.encode(mask) for mask in masks], np.array(boxes), size=(60, 90))


def test_coarse_masks_take_the_object_s_outline() -> None:
    snapped = snap_to_image(instances((27, 18, 62, 43)), scene())
    assert snapped.boxes.tolist() == [[30, 20, 60, 40]]
    assert snapped.decode()[0].sum() == 20 * 30


def test_instances_without_colours_of_their_own_do_not_grow_over_the_frame() -> None:
    found = snap_to_image(instances((2, 45, 20, 58), (27, 18, 62, 43)), scene())
    assert found.boxes[-1].tolist() == [30, 20, 60, 40]
    assert (found.areas() < 60 * 90 / 3).all()


def test_doubtful_instances_without_colours_of_their_own_are_dropped() -> None:
    both = instances((2, 45, 20, 58), (27, 18, 62, 43))
    doubtful = snap_to_image(both, scene(), certain=np.array([False, False]))
    assert doubtful.boxes.tolist() == [[30, 20, 60, 40]]
    assert len(snap_to_image(both, scene(), certain=np.array([True, False]))) == 2


def test_scores_and_order_stay_and_boxes_fit_the_masks() -> None:
    given = instances((27, 18, 62, 43), (2, 45, 20, 58))
    scored = Instances(given.masks, given.boxes, np.array([0.3, 0.9]), given.size)
    found = snap_to_image(scored, scene())
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([0.3, 0.9])
    for mask, (left, top, right, bottom) in zip(found.decode(), found.boxes, strict=True):
        assert mask[int(top) : int(bottom), int(left) : int(right)].sum() == mask.sum() > 0


@pytest.mark.parametrize("snap", [False, True])
def test_l1_is_snapped_on_demand(snap: bool) -> None:
    masks = torch.zeros(1, 60, 90)
    masks[0, 18:43, 27:62] = 1
    found = Predictions.from_dense(masks, torch.tensor([[27.0, 18, 62, 43]]), torch.tensor([0.8]))
    labels = MobileLabelsConfig(snap=snap).select(scene(), found)
    assert labels.boxes.tolist() == [[30, 20, 60, 40] if snap else [27, 18, 62, 43]]


def test_same_input_same_labels() -> None:
    first, second = (snap_to_image(instances((25, 16, 64, 44)), scene()) for _ in range(2))
    assert first.masks == second.masks


def test_snapping_needs_the_frames(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give their folder with --data"):
        label_motion(tmp_path / "s.txt", tmp_path, tmp_path / "L0", InitialConfig(snap=True))


def test_nothing_stays_nothing() -> None:
    nothing = Instances([], np.zeros((0, 4)), size=(60, 90))
    assert len(snap_to_image(nothing, scene())) == 0
