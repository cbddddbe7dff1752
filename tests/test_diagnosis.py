"""Unsuitable clips are recognised by their figures, and suitable ones are let through."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from moduv.engine.files import write_npz
from moduv.evaluation.consistency import carry_boxes, flow_between, temporal_consistency
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.runs.diagnosis import (
    DiagnosisLimits,
    FrameFigures,
    MotionFigures,
    inspect_frames,
    inspect_motion,
    label_problems,
    problems,
)

LIMITS = DiagnosisLimits(triplets=3)
GOOD = FrameFigures(triplets=900, moving_pairs=0.8, flow=0.01, dark=0.0, plain=0.0)


def write_clip(root: Path, step: int, factor: float = 1.0, blur: int = 0) -> list[FrameRef]:
    """A textured picture that shifts by `step` of 320 pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 80, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (640, 192), interpolation=cv2.INTER_CUBIC)
    if blur:
        wide = cv2.GaussianBlur(wide, (0, 0), blur)
    for index in range(6):
        image = (wide[:, step * index : step * index + 320] * factor).astype(np.uint8)
        write_image(FrameRef("clip", index).file(root, ".png"), image)
    return [FrameRef("clip", index) for index in range(1, 5)]


def test_a_driving_camera_by_day_is_suitable(tmp_path: Path) -> None:
    figures = inspect_frames(tmp_path, write_clip(tmp_path, step=4), LIMITS)
    assert figures.triplets == 4
    assert figures.flow == pytest.approx(4 / 320, rel=0.1)
    assert problems(figures, LIMITS) == []


@pytest.mark.parametrize(
    ("clip", "sentence"),
    [
        ({"step": 0}, r"camera moves in only 0% of .* moving vehicle"),
        ({"step": 4, "factor": 0.05}, r"100% of the frames are darker .* daylight"),
        ({"step": 4, "blur": 60}, r"100% of the frames show texture in fewer .* sky"),
    ],
)
def test_unsuitable_clips_are_told_apart(tmp_path: Path, clip: dict, sentence: str) -> None:
    figures = inspect_frames(tmp_path, write_clip(tmp_path, **clip), LIMITS)
    reasons = problems(figures, LIMITS)
    assert reasons
    assert any(re.search(sentence, reason) for reason in reasons)


def test_too_few_frames_are_counted() -> None:
    (reason,) = problems(replace(GOOD, triplets=48), DiagnosisLimits())
    assert reason.startswith("only 48 frames have both neighbours, and stage 1 needs 150")


def write_outputs(root: Path, mask: float, share: float, relief: float) -> list[FrameRef]:
    frames = [FrameRef("clip", index) for index in range(3)]
    for frame in frames:
        motion = np.zeros((20, 30), np.float32)
        motion[: round(20 * share)] = mask
        depth = np.exp(np.linspace(0, relief, 600)).reshape(20, 30).astype(np.float32)
        write_npz(frame.file(root, ".npz"), mot_mask=motion, depth=depth)
    return frames


@pytest.mark.parametrize(
    ("share", "relief", "sentence"),
    [
        (0.1, 2.0, ""),
        (0.9, 2.0, "cover 90% of the pixels"),
        (0.0, 2.0, "something in only 0% of the frames"),
        (0.1, 0.01, "depth is flat"),
    ],
)
def test_collapsed_masks_and_depth_are_recognised(
    tmp_path: Path, share: float, relief: float, sentence: str
) -> None:
    frames = write_outputs(tmp_path, 0.9, share, relief)
    reasons = problems(inspect_motion(tmp_path, frames, 0.5), DiagnosisLimits())
    assert [sentence in reason for reason in reasons] == ([True] if sentence else [])


def test_motion_figures_do_not_hide_behind_each_other() -> None:
    figures = MotionFigures(covered=0.8, masked_frames=1.0, relief=0.0)
    assert len(problems(figures, DiagnosisLimits())) == 2


def test_empty_label_sets_are_named() -> None:
    assert label_problems(20, 900, "L1", DiagnosisLimits()) == []
    (reason,) = label_problems(3, 900, "L1", DiagnosisLimits())
    assert reason.startswith("L1 has 3 instances in 900 frames")


# --- consistency without truth ------------------------------------------------------------------------


def square(x: int, y: int, side: int = 20, size: tuple[int, int] = (96, 160)) -> Instances:
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    box = np.array([[x, y, x + side, y + side]], np.float32)
    return Instances([rle.encode(mask)], box, np.array([0.9]), size)


def test_labels_that_follow_the_picture_are_consistent(tmp_path: Path) -> None:
    frames = [FrameRef("clip", index) for index in range(6)]
    write_clip(tmp_path, step=8)
    size = (192, 320)

    def following(frame: FrameRef) -> Instances:
        return square(200 - 8 * frame.index, 80, 30, size)

    def jumping(frame: FrameRef) -> Instances:
        return square(40 if frame.index % 2 else 200, 80, 30, size)

    sets = {
        "following": [following(frame) for frame in frames],
        "jumping": [jumping(frame) for frame in frames],
        "empty": [Instances([], np.zeros((0, 4)))] * len(frames),
    }
    found = temporal_consistency(sets, frames, tmp_path)
    assert found == {"following": 1.0, "jumping": 0.0, "empty": -1.0}


def test_boxes_are_carried_by_the_flow_of_their_masks(tmp_path: Path) -> None:
    write_clip(tmp_path, step=8)
    images = [read_image(FrameRef("clip", index).file(tmp_path, ".png")) for index in (0, 1)]
    carried = carry_boxes(square(100, 80, 30, (192, 320)), flow_between(*images))
    assert carried[0] * (320, 192, 320, 192) == pytest.approx([92, 80, 122, 110], abs=1)
