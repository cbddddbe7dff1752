"""Prediction: masks pasted inside their boxes as torchvision pastes them, images read once."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, predict, write_world
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image

import moduv.detector.predictor as prediction
from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.pasting import paste_masks
from moduv.detector.predictor import Detector, View, stream
from moduv.frames.images import read_image
from moduv.instances import rle
from moduv.instances.crops import dense_masks

SIZE = (41, 60)
BORDERS = [
    (-7.3, -4.2, 12.5, 9.9),  # leaves the image on every side
    (50.1, 30.4, 66.0, 47.2),
    (-20.0, -20.0, 90.0, 70.0),
    (-0.4, -0.6, 0.3, 0.2),
    (10.0, 10.0, 10.4, 10.3),  # below 1 pixel
    (10.9, 10.9, 11.1, 30.0),
    (5.0, 7.0, 5.0, 7.0),
    (59.9, 40.9, 60.0, 41.0),
    (0.0, 0.0, 60.0, 41.0),
]
corner = st.tuples(st.floats(-30, 58, width=32), st.floats(-30, 39, width=32))
sides = st.tuples(st.floats(0, 70, width=32), st.floats(0, 70, width=32))


def assert_pasted_alike(boxes: torch.Tensor, side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(boxes), side, side, generator=generator)
    expected = paste_masks_in_image(masks[:, None], boxes, SIZE)[:, 0]
    crops = paste_masks(masks, boxes, SIZE)
    pasted = dense_masks(crops, SIZE)
    assert pasted.shape == expected.shape
    torch.testing.assert_close(pasted, expected, atol=1e-6, rtol=0)
    assert torch.equal(pasted > 0.5, expected > 0.5)
    for crop, mask in zip(crops, expected, strict=True):
        assert np.array_equal(rle.decode(crop.encode(0.5, SIZE)), mask.numpy() > 0.5)


@pytest.mark.parametrize("side", [14, 28])
def test_pasting_equals_torchvision_at_borders_and_below_a_pixel(side: int) -> None:
    assert_pasted_alike(torch.tensor(BORDERS), side, 0)
    assert_pasted_alike(torch.zeros(0, 4), side, 0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(corner, sides), min_size=1, max_size=4), st.integers(0, 1000))
def test_pasting_equals_torchvision(
    placed: list[tuple[tuple[float, float], tuple[float, float]]], seed: int
) -> None:
    boxes = torch.tensor([(x, y, x + w, y + h) for (x, y), (w, h) in placed])
    # Torchvision fails at boxes beside the image.
    boxes[:, 2:] = boxes[:, 2:].clamp(min=1)
    assert_pasted_alike(boxes, 28, seed)


def test_a_box_beside_the_image_has_no_pixels() -> None:
    boxes = torch.tensor([[-30.0, 5, -10, 20], [70, 5, 90, 20], [5, 60, 20, 80], [5, -9, 20, -4]])
    crops = paste_masks(torch.ones(4, 28, 28), boxes, SIZE)
    assert [crop.pixels.size for crop in crops] == [0, 0, 0, 0]
    assert not dense_masks(crops, SIZE).any()
    assert not any(rle.decode(crop.encode(0.5, SIZE)).any() for crop in crops)


@pytest.fixture(scope="module")
def models() -> list[MaskRCNN]:
    """Two untrained detectors, which find something everywhere."""
    torch.manual_seed(0)
    return [build_detector("street").eval() for _ in range(2)]


def lower(model: MaskRCNN, score: float) -> MaskRCNN:
    """The same model with another score threshold."""
    changed = copy.deepcopy(model)
    changed.roi_heads.score_thresh = score
    return changed


def test_detections_are_those_of_the_model_itself(tmp_path: Path, models: list[MaskRCNN]) -> None:
    refs = write_world(tmp_path, 3)
    model = models[0]
    for ref, found in predict(model, refs, tmp_path / "frames", score=0.3):
        image = torch.from_numpy(read_image(ref.image_path(tmp_path / "frames"))).permute(2, 0, 1)
        with torch.inference_mode():
            (expected,) = lower(model, 0.3)([image])
        assert len(found) == len(expected["scores"]) > 0
        torch.testing.assert_close(found.boxes, expected["boxes"])
        torch.testing.assert_close(found.scores, expected["scores"])
        torch.testing.assert_close(found.masks, expected["masks"][:, 0], atol=1e-6, rtol=0)
        results = found.to_instances().to_coco(1)
        for result, mask in zip(results, expected["masks"][:, 0], strict=True):
            assert np.array_equal(rle.decode(result["segmentation"]), mask.numpy() > 0.5)


def test_no_mask_is_larger_than_its_box(tmp_path: Path, models: list[MaskRCNN]) -> None:
    refs = write_world(tmp_path, 2)
    for _, found in predict(models[0], refs, tmp_path / "frames", score=0.3):
        assert found.size == (HEIGHT, WIDTH)
        for crop, (left, top, right, bottom) in zip(found.crops, found.boxes.tolist(), strict=True):
            height, width = crop.pixels.shape
            # Pasting adds one of the mask head's 14 pixels on either side.
            assert height <= (bottom - top) * 16 / 14 + 2
            assert width <= (right - left) * 16 / 14 + 2


def test_two_detectors_read_each_image_once(
    tmp_path: Path, models: list[MaskRCNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = write_world(tmp_path, 5)
    root = tmp_path / "frames"
    alone = [
        list(predict(model, refs, root, score=score, batch_size=2))
        for model, score in zip(models, (0.3, 0.4), strict=True)
    ]
    read: list[Path] = []

    def counted(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(prediction, "read_image", counted)
    paths = [ref.image_path(root) for ref in refs]
    detectors = [Detector(model) for model in models]
    together = list(stream(detectors, paths, [0.3, 0.4], batch_size=2))
    assert sorted(read) == sorted(paths)
    for (image, _), path in zip(together, paths, strict=True):
        assert np.array_equal(image, read_image(path))
    for position, found in enumerate(alone):
        for (_, pair), (_, one) in zip(together, found, strict=True):
            assert torch.equal(pair[position].boxes, one.boxes)
            assert torch.equal(pair[position].masks, one.masks)


def test_threads_share_a_detector_with_thresholds_of_their_own(models: list[MaskRCNN]) -> None:
    detector = Detector(models[0])
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    scores = [0.3, 0.45, 0.5, 0.6] * 4
    alone = {score: detector.predictions([image], score)[0] for score in set(scores)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda score: detector.predictions([image], score)[0], scores))
    assert len({len(one) for one in alone.values()}) > 1
    for score, one in zip(scores, found, strict=True):
        assert len(one) == len(alone[score])
        assert all(one.scores > score)


def test_a_mirrored_view_finds_in_the_image_what_lies_mirrored(models: list[MaskRCNN]) -> None:
    detector = Detector(models[0])
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    found = detector.seeing(View(flip=True)).predictions([image])[0]
    expected = detector.predictions([mirrored])[0]
    assert len(found) > 3
    torch.testing.assert_close(found.scores, expected.scores)
    x0, y0, x1, y1 = expected.boxes.unbind(1)
    torch.testing.assert_close(found.boxes, torch.stack([WIDTH - x1, y0, WIDTH - x0, y1], 1))
    torch.testing.assert_close(found.masks, expected.masks.flip(-1))


def test_a_larger_view_is_told_in_the_images_pixels(models: list[MaskRCNN]) -> None:
    detector = Detector(models[0])
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    found = detector.seeing(View(scale=1.5)).predictions([image])[0]
    large = build_like(models[0], min_size=round(HEIGHT * 1.5), max_size=round(WIDTH * 1.5))
    expected = Detector(large).predictions([image])[0]
    assert found.size == (HEIGHT, WIDTH)
    torch.testing.assert_close(found.boxes, expected.boxes)
    assert found.boxes[:, 2].max() > WIDTH * 0.8
    plain = detector.predictions([image])[0]
    assert plain.boxes.shape != found.boxes.shape or not torch.equal(plain.boxes, found.boxes)


def build_like(model: MaskRCNN, min_size: int, max_size: int) -> MaskRCNN:
    """The same network for an input of another size."""
    config = replace(detector_config("street"), min_size=min_size, max_size=max_size)
    other = build_detector(config)
    other.load_state_dict(model.state_dict())
    return other
