"""Masks as crops teach the mask head exactly what full-size masks would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, write_world
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from moduv.detector.crops import CropMasks
from moduv.detector.data import LabelledFrames
from moduv.detector.heads import CropTransform
from moduv.detector.model import build_detector
from moduv.detector.transforms import AugmentationConfig
from moduv.instances.crops import Crop

SIZE = (40, 60)


def sixteenths(limit: int) -> st.SearchStrategy[float]:
    """Coordinates that keep their value when a crop's corner is subtracted."""
    return st.integers(0, 16 * limit).map(lambda number: number / 16)


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int] = SIZE) -> list[Crop]:
    """Noise in rectangles of any kind: single pixels, lines, empty ones, at the border, all of the image."""
    crops = []
    for _ in range(draw(st.integers(1, 4))):
        top, bottom = sorted(draw(st.tuples(*[st.integers(0, size[0])] * 2)))
        left, right = sorted(draw(st.tuples(*[st.integers(0, size[1])] * 2)))
        noise = np.random.default_rng(draw(st.integers(0, 99))).random((bottom - top, right - left))
        crops.append(Crop(top, left, noise < draw(st.sampled_from([0.3, 0.7, 1.0]))))
    return crops


@st.composite
def regions(draw: st.DrawFn, coordinate: Any = sixteenths) -> list[tuple[float, ...]]:
    """Boxes inside the image, also without extent, at the border, and far from any mask."""
    boxes = []
    for _ in range(draw(st.integers(1, 6))):
        left, right = sorted(draw(st.tuples(*[coordinate(SIZE[1])] * 2)))
        top, bottom = sorted(draw(st.tuples(*[coordinate(SIZE[0])] * 2)))
        boxes.append((left, top, right, bottom))
    return boxes


def full_size(crops: list[Crop], size: tuple[int, int] = SIZE) -> Tensor:
    dense = np.zeros((len(crops), *size), np.uint8)
    for mask, crop in zip(dense, crops, strict=True):
        height, width = crop.pixels.shape
        mask[crop.top : crop.top + height, crop.left : crop.left + width] = crop.pixels
    return torch.from_numpy(dense)


@settings(max_examples=150, deadline=None)
@given(masks(), regions(), st.integers(0, 99), st.sampled_from([1, 7, 28]))
@example([Crop(0, 0, np.ones(SIZE, bool))], [(0.0, 0.0, 60.0, 40.0)], 0, 28)
@example([Crop(39, 59, np.ones((1, 1), bool))], [(59.0, 39.0, 60.0, 40.0)], 0, 28)
@example([Crop(20, 30, np.ones((1, 1), bool))], [(30.5, 20.5, 30.5, 20.5)], 0, 28)
@example([Crop(20, 60, np.ones((4, 0), bool))], [(50.0, 10.0, 60.0, 40.0)], 0, 7)
def test_targets_are_those_of_full_size_masks(
    crops: list[Crop], boxes: list[tuple[float, ...]], seed: int, side: int
) -> None:
    matched = torch.from_numpy(np.random.default_rng(seed).integers(0, len(crops), len(boxes)))
    packed = CropMasks.pack(crops, SIZE)
    expected = project_masks_on_boxes(full_size(crops), torch.tensor(boxes), matched, side)
    targets = packed.targets(torch.tensor(boxes), matched, side)
    torch.testing.assert_close(targets, expected, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_targets_of_arbitrary_boxes_differ_by_rounding_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crops = [Crop(12, 31, rng.random((25, 22)) < 0.6), Crop(0, 44, rng.random((9, 16)) < 1)]
    corners = np.sort(rng.uniform(0, 1, (12, 2, 2)), axis=1) * (SIZE[1], SIZE[0])
    boxes = torch.from_numpy(corners.reshape(12, 4).astype(np.float32))
    matched = torch.from_numpy(rng.integers(0, 2, 12))
    expected = project_masks_on_boxes(full_size(crops), boxes, matched, 28)
    targets = CropMasks.pack(crops, SIZE).targets(boxes, matched, 28)
    torch.testing.assert_close(targets, expected, atol=1e-4, rtol=0)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.tuples(st.integers(8, 70), st.integers(8, 70)), st.integers(6, 90))
def test_resizing_is_that_of_full_size_masks(
    data: st.DataObject, size: tuple[int, int], short_side: int
) -> None:
    crops = data.draw(masks(size))
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0]] * len(crops))
    image = torch.rand(3, *size)
    settings_ = (short_side, 100, [0.5] * 3, [0.25] * 3)
    images, (ours,) = CropTransform(*settings_)(
        [image], [{"boxes": boxes, "masks": CropMasks.pack(crops, size)}]
    )
    same_images, (theirs,) = GeneralizedRCNNTransform(*settings_)(
        [image], [{"boxes": boxes, "masks": full_size(crops, size)}]
    )
    assert torch.equal(images.tensors, same_images.tensors)
    assert torch.equal(ours["boxes"], theirs["boxes"])
    assert torch.equal(ours["masks"].dense(), theirs["masks"])


def test_images_of_8_bits_are_scaled() -> None:
    image = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    transform = CropTransform(8, 8, [0.5] * 3, [0.25] * 3)
    torch.testing.assert_close(transform([image])[0].tensors, transform([image / 255])[0].tensors)


@pytest.mark.parametrize("objects", [3, 0])
def test_losses_and_gradients_are_those_of_full_size_masks(tmp_path: Path, objects: int) -> None:
    refs = write_world(tmp_path, 3)[:1]
    labels = tmp_path / "labels" if objects else None
    dataset = LabelledFrames(tmp_path / "frames", refs, labels, AugmentationConfig())
    images, targets = dataset.collate([dataset[(0, 7)]])
    dense = [{**target, "masks": target["masks"].dense()} for target in targets]
    torch.manual_seed(0)
    model = build_detector("street")
    results = []
    for form in (targets, dense):
        torch.manual_seed(1)
        model.zero_grad()
        losses = model(images, form)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append(({k: v.detach() for k, v in losses.items()}, gradients))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert (ours["loss_mask"] > 0) == (objects > 0)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_gradients, their_gradients, atol=1e-5, rtol=1e-3)


def test_samples_of_workers_are_those_of_one_process(tmp_path: Path) -> None:
    refs = write_world(tmp_path)
    dataset = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", AugmentationConfig())
    batches = [[(0, 3), (1, 4)], [(3, 5), (2, 6)]]
    loader = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=2,
    )
    for batch, (images, targets) in zip(batches, loader, strict=True):
        for item, image, target in zip(batch, images, targets, strict=True):
            expected, expected_target = dataset[item]
            assert torch.equal(image, expected)
            assert image.shape == (3, HEIGHT, WIDTH)
            assert torch.equal(target["masks"].dense(), expected_target["masks"].dense())
