"""Training samples of the detector: what flips, shrinks and pastes may and may not change."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, instances_of, paint, write_world
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.detector.crops import CropMasks
from moduv.detector.data import LabelledFrames, labelled_frame
from moduv.detector.transforms import (
    GREY,
    AugmentationConfig,
    Canvas,
    LabelledFrame,
    Placement,
    augment,
    place_objects,
)
from moduv.engine.config import build, preset_names, read_preset
from moduv.engine.errors import InputError
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.instances.crops import Crop
from moduv.instances.instances import Instances
from moduv.instances.store import write_labels

PLAIN = AugmentationConfig(flip=0.0, jitter=0.0)
integer_box = st.tuples(
    st.integers(0, WIDTH - 30), st.integers(0, HEIGHT - 30), st.integers(4, 30), st.integers(4, 30)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes_strategy = st.lists(integer_box, min_size=1, max_size=5)


def frame_of(boxes: list[tuple[int, int, int, int]]) -> LabelledFrame:
    return labelled_frame(paint(boxes, np.random.default_rng(0)), instances_of(boxes), "a.json")


def tight_boxes(masks: CropMasks) -> np.ndarray:
    """Continuous boxes around the pixels of full-size masks."""
    boxes = []
    for mask in masks.dense().numpy():
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return np.array(boxes).reshape(-1, 4)


def no_other(_: np.random.Generator) -> LabelledFrame:
    raise AssertionError("no other frame is needed")


@settings(max_examples=40, deadline=None)
@given(boxes_strategy, st.integers(0, 10**6))
def test_flip_mirrors_boxes_with_the_image(
    boxes: list[tuple[int, int, int, int]], seed: int
) -> None:
    frame = frame_of(boxes)
    config = AugmentationConfig(flip=1.0, jitter=0.0)
    image, target = augment(frame, config, np.random.default_rng(seed), no_other)
    assert torch.equal(image, torch.from_numpy(frame.image[:, ::-1].copy()).permute(2, 0, 1))
    expected = [(WIDTH - right, top, WIDTH - left, bottom) for left, top, right, bottom in boxes]
    np.testing.assert_allclose(target["boxes"], expected)
    np.testing.assert_array_equal(tight_boxes(target["masks"]), expected)


@settings(max_examples=60, deadline=None)
@given(boxes_strategy, st.floats(0.25, 1.0), st.floats(0, 1), st.integers(0, 10**6))
def test_scale_jitter_keeps_size_and_agreement_of_boxes_and_masks(
    boxes: list[tuple[int, int, int, int]], factor: float, flip: float, seed: int
) -> None:
    config = AugmentationConfig(flip=flip, jitter_min=factor, jitter_max=factor)
    image, target = augment(frame_of(boxes), config, np.random.default_rng(seed), no_other)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert target["masks"].dense().shape == (len(target["boxes"]), HEIGHT, WIDTH)
    assert target["labels"].tolist() == [1] * len(target["boxes"])
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    assert (sides > config.min_side).all()
    tight = tight_boxes(target["masks"])
    # A mask of whole pixels can miss the exact box by half a pixel on either side.
    np.testing.assert_allclose(target["boxes"], tight, atol=0.51)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.95), st.integers(0, 10**6))
def test_the_canvas_around_a_shrunken_frame_is_grey(factor: float, seed: int) -> None:
    config = AugmentationConfig(jitter_min=factor, jitter_max=factor)
    white = LabelledFrame(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), np.zeros((0, 4)), [], (1, 1))
    image, target = augment(white, config, np.random.default_rng(seed), no_other)
    content = (image == 255).all(dim=0)
    assert ((image == 255) | (image == GREY)).all()
    assert content.sum() == round(HEIGHT * factor) * round(WIDTH * factor)
    assert len(target["boxes"]) == 0


def test_a_shrunken_frame_lies_anywhere_on_the_canvas() -> None:
    config = AugmentationConfig(flip=0.0, jitter_min=0.5, jitter_max=0.5)
    frame = frame_of([(0, 0, 20, 20)])
    corners = [
        augment(frame, config, np.random.default_rng(seed), no_other)[1]["boxes"][0, :2].tolist()
        for seed in range(300)
    ]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    assert (low <= (3, 3)).all()
    assert (high >= (WIDTH / 2 - 3, HEIGHT / 2 - 3)).all()


def test_jitter_follows_its_probability_and_range() -> None:
    config = AugmentationConfig(flip=0.0, jitter=0.5, jitter_min=0.5, jitter_max=0.8)
    frame = frame_of([(0, 0, 100, 50)])
    widths = np.array(
        [
            float(augment(frame, config, np.random.default_rng(s), no_other)[1]["boxes"][0, 2:3])
            - float(augment(frame, config, np.random.default_rng(s), no_other)[1]["boxes"][0, 0])
            for s in range(400)
        ]
    )
    plain = widths == 100
    assert 0.4 < plain.mean() < 0.6
    assert widths[~plain].min() >= 49
    assert widths[~plain].max() <= 81


def test_enlarged_frames_are_cropped_and_boxes_fit_what_is_left() -> None:
    frame = frame_of([(0, 0, 80, 90), (150, 80, 158, 94)])
    placed = Placement(2 * HEIGHT, 2 * WIDTH, top=0, left=-100)
    masks, boxes = place_objects(frame, placed, (HEIGHT, WIDTH))
    assert boxes[0].tolist() == [0, 0, 60, 96]
    assert masks[0].pixels.sum() == 60 * 96
    assert not masks[1].pixels.any()


def test_too_small_and_hidden_objects_are_no_targets() -> None:
    boxes = [(10, 10, 50, 50), (60, 10, 64, 14)]
    config = AugmentationConfig(flip=0.0, jitter_min=0.25, jitter_max=0.25)
    _, target = augment(frame_of(boxes), config, np.random.default_rng(0), no_other)
    assert len(target["boxes"]) == 1


def test_masks_of_another_size_land_where_their_boxes_do() -> None:
    boxes = [(20, 10, 60, 50)]
    image = paint(boxes, np.random.default_rng(0))
    small = instances_of([(10, 5, 30, 25)], HEIGHT // 2, WIDTH // 2)
    _, target = augment(
        labelled_frame(image, small, "a.json"), PLAIN, np.random.default_rng(0), no_other
    )
    np.testing.assert_array_equal(target["boxes"], boxes)
    np.testing.assert_array_equal(tight_boxes(target["masks"]), boxes)


def test_shrinking_the_mask_of_a_large_frame_equals_resizing_it() -> None:
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    disc = (yy - 40) ** 2 + (xx - 70) ** 2 < 30**2
    instances = Instances(
        [instances_of([(0, 0, 1, 1)]).masks[0]], np.array([[40, 10, 101, 71]]), None
    )
    frame = labelled_frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), instances, "a.json")
    frame.masks[0] = Crop(0, 0, disc)
    (small,), _ = place_objects(frame, Placement(HEIGHT // 2, WIDTH // 2), (HEIGHT, WIDTH))
    resized = cv2.resize(disc.astype(np.float32), (WIDTH // 2, HEIGHT // 2)) > 0.5
    assert small.pixels.shape == resized.shape
    assert (small.pixels & resized).sum() / (small.pixels | resized).sum() > 0.95


OFF = {"flip": 0.0, "jitter": 0.0, "paste": 0.0}
"""The options that change frames, and the values with which they do not."""
BOUNDS = {"jitter_min", "jitter_max", "min_side"}


def enabled_options() -> list[tuple[str, str, str]]:
    """Preset, section and option, wherever a preset enables an augmentation."""
    return [
        (preset, section, option)
        for preset in preset_names()
        for section, content in read_preset(preset).items()
        if isinstance(content, dict) and "augmentation" in content
        for option, value in content["augmentation"].items()
        if option in OFF and value != OFF[option]
    ]


def test_every_option_of_the_augmentation_is_known_here() -> None:
    assert {field.name for field in fields(AugmentationConfig)} == {*OFF, *BOUNDS}


@pytest.mark.parametrize(("preset", "section", "option"), enabled_options())
def test_every_option_that_a_preset_enables_changes_samples(
    preset: str, section: str, option: str
) -> None:
    config = build(AugmentationConfig, read_preset(preset)[section]["augmentation"], section)
    without = replace(config, **{option: OFF[option]})
    frame, other = frame_of([(10, 10, 60, 60)]), frame_of([(80, 20, 120, 60), (0, 0, 30, 30)])

    def sample(settings: AugmentationConfig, seed: int) -> torch.Tensor:
        return augment(frame, settings, np.random.default_rng(seed), lambda _: other)[0]

    # An option without effect takes no part in a sample: the same seed then gives the same one.
    assert any(not torch.equal(sample(config, seed), sample(without, seed)) for seed in range(20))


def test_pasted_objects_hide_what_is_below_them() -> None:
    canvas = Canvas.grey(HEIGHT, WIDTH)
    canvas.add(frame_of([(10, 10, 50, 50), (100, 10, 110, 20)]), Placement(HEIGHT, WIDTH))
    canvas.paste(
        frame_of([(30, 0, 60, 60), (95, 5, 120, 30)]), Placement(HEIGHT, WIDTH), np.array([0, 1])
    )
    assert canvas.boxes.tolist() == [[10, 10, 30, 50], [30, 0, 60, 60], [95, 5, 120, 30]]
    masks = CropMasks.pack(canvas.masks, canvas.size).dense().bool()
    assert not (masks[0] & masks[1]).any()
    red = (canvas.image == (220, 40, 30)).all(axis=2)
    np.testing.assert_array_equal(red[:, :90], masks[:2].any(0)[:, :90])


def test_no_mask_is_made_at_the_size_of_a_large_frame() -> None:
    """20 full-size masks would take 49 MB, twice as much as all of a sample's work may."""
    height, width = 1280, 1920
    rng = np.random.default_rng(0)
    lefts, tops = rng.integers(0, 1500, 20).tolist(), rng.integers(0, 1000, 20).tolist()
    boxes = [(x, y, x + 200, y + 150) for x, y in zip(lefts, tops, strict=True)]
    labels = instances_of(boxes, height, width)
    image = np.zeros((height, width, 3), np.uint8)
    config = AugmentationConfig(flip=1.0, jitter_min=0.9, jitter_max=0.9)
    tracemalloc.start()
    augment(labelled_frame(image, labels, "a.json"), config, rng, no_other)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25e6


def test_a_sample_depends_on_its_seed_only(tmp_path: Path) -> None:
    refs = write_world(tmp_path)
    rich = AugmentationConfig(jitter_min=0.3, paste=1.0)
    first = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", rich)
    second = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", rich, cache_bytes=0)
    second[(2, 5)]
    for seed in range(5):
        image, target = first[(0, seed)]
        same_image, same_target = second[(0, seed)]
        assert torch.equal(image, same_image)
        assert torch.equal(target["boxes"], same_target["boxes"])
        assert torch.equal(target["masks"].dense(), same_target["masks"].dense())
    assert not torch.equal(first[(0, 1)][0], first[(0, 2)][0])


def test_initial_labels_become_continuous(tmp_path: Path) -> None:
    refs = write_world(tmp_path, 1)
    inclusive = instances_of([(10, 20, 30, 50)])
    write_labels(tmp_path / "L0", refs[0], Instances(inclusive.masks, inclusive.boxes))
    _, target = LabelledFrames(tmp_path / "frames", refs, tmp_path / "L0", PLAIN)[(0, 0)]
    assert target["boxes"].tolist() == [[10, 20, 30, 50]]


def test_frames_without_labels_are_negatives(tmp_path: Path) -> None:
    refs = write_world(tmp_path)
    _, target = LabelledFrames(tmp_path / "frames", refs, None, PLAIN)[(0, 0)]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].dense().shape == (0, HEIGHT, WIDTH)


def test_missing_labels_and_other_aspects_are_named(tmp_path: Path) -> None:
    refs = write_world(tmp_path)
    dataset = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", PLAIN)
    refs[1].file(tmp_path / "labels", ".json").unlink()
    with pytest.raises(InputError, match=r"000001\.json: no such file"):
        dataset[(1, 0)]
    write_labels(tmp_path / "labels", refs[1], instances_of([(1, 1, 9, 9)], 90, 90))
    with pytest.raises(
        InputError, match=r"000001\.json: 'masks' are 90 x 90 but the image is 96 x"
    ):
        dataset[(1, 0)]
    refs[2].image_path(tmp_path / "frames").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"000002\.png"):
        dataset[(2, 0)]


def test_labels_of_a_rounded_aspect_are_accepted(tmp_path: Path) -> None:
    ref = FrameRef("kitti/drive", 7)
    write_image(ref.file(tmp_path, ".png"), np.zeros((375, 1242, 3), np.uint8))
    write_labels(tmp_path / "L", ref, instances_of([(64, 48, 128, 96)], 192, 640))
    _, target = LabelledFrames(tmp_path, [ref], tmp_path / "L", PLAIN)[(0, 0)]
    np.testing.assert_allclose(target["boxes"], [[124.2, 93.75, 248.4, 187.5]])


def test_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="jitter_min"):
        AugmentationConfig(jitter_min=0.8, jitter_max=0.5)
