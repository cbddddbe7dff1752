"""Initial labels snapped to the image end where the colours end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.labels import rle
from moduv.labels.instances import Instances
from moduv.labels.snapped import snap_to_image
from moduv.labels.store import InitialConfig, initial_labels


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


def test_same_input_same_labels() -> None:
    first, second = (snap_to_image(instances((25, 16, 64, 44)), scene()) for _ in range(2))
    assert first.masks == second.masks


def test_snapping_needs_the_frames(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give their folder with --data"):
        initial_labels(tmp_path / "s.txt", tmp_path, tmp_path / "L0", InitialConfig(snap=True))


def test_nothing_stays_nothing() -> None:
    nothing = Instances([], np.zeros((0, 4)), size=(60, 90))
    assert len(snap_to_image(nothing, scene())) == 0
