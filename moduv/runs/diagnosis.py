"""Diagnose whether anything can be learned from clips: statistics of frames, motion masks and labels.

Stage 1 learns depth from a camera that moves and motion from what moves otherwise. Where one of them is
missing, the run says so in a sentence with the figure, before hours of training tell it in a worse way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from moduv.engine.files import read_npz
from moduv.engine.log import progress
from moduv.frames.clip import FrameRef
from moduv.frames.images import optical_flow, read_image, small_grey
from moduv.frames.splits import evenly
from moduv.frames.video import FLOW_WIDTH

SAMPLES = 120
"""Most frames that are looked at."""


@dataclass(frozen=True)
class DiagnosisLimits:
    """Thresholds beyond which clips are unsuitable."""

    triplets: int = 150
    """Fewest frames with both neighbours."""
    camera_motion: float = 0.0015
    """Median optical flow of a pair, in shares of the width, from which on the camera counts as moving."""
    moving_pairs: float = 0.1
    """Smallest share of the pairs in which it moves."""
    dark: float = 25.0
    """Mean grey level (of 255) below which a frame counts as night."""
    plain: float = 0.05
    """Share of pixels with texture below which a frame counts as empty (sky, fog, a covered lens)."""
    bad_frames: float = 0.5
    """Largest share of frames that are night or empty."""
    relief: float = 0.05
    """Smallest quartile distance of log depth in the usual frame; below, depth is flat."""
    covered: float = 0.5
    """Largest mean share of moving pixels."""
    masked_frames: float = 0.02
    """Smallest share of frames with any moving pixels."""
    labels: float = 0.02
    """Fewest instances a frame."""


@dataclass(frozen=True)
class FrameFigures:
    """Statistics of the frames of a split."""

    triplets: int
    moving_pairs: float
    """Share of the sampled pairs in which most of the picture moves."""
    flow: float
    """Usual median flow between neighbours, in shares of the width."""
    dark: float
    """Share of the sampled frames that are night."""
    plain: float
    """Share of the sampled frames without texture."""


@dataclass(frozen=True)
class MotionFigures:
    """Statistics of the motion outputs of a split."""

    covered: float | None
    """Mean share of moving pixels; None where stage 1 has no mask."""
    masked_frames: float | None
    """Share of frames with any; None likewise."""
    relief: float
    """Usual distance between the quartiles of log depth in a frame."""


def inspect_frames(data: Path, frames: Sequence[FrameRef], limits: DiagnosisLimits) -> FrameFigures:
    """Measure pairs of neighbours, spread over frames that have both.

    Raises InputError naming a frame that does not decode.
    """
    flows, dark, plain = [], [], []
    for frame in progress(evenly(frames, SAMPLES), desc="look at frames", unit="frame"):
        grey, later = (
            small_grey(read_image(f.image_path(data, small=True)), FLOW_WIDTH)
            for f in (frame, frame.neighbour(1))
        )
        flows.append(median_flow(grey, later))
        dark.append(float(grey.mean()) < limits.dark)
        plain.append(textured_share(grey) < limits.plain)
    return FrameFigures(
        triplets=len(frames),
        moving_pairs=float(np.mean(np.array(flows) > limits.camera_motion)),
        flow=float(np.median(flows)),
        dark=float(np.mean(dark)),
        plain=float(np.mean(plain)),
    )


def median_flow(before: np.ndarray, after: np.ndarray) -> float:
    """Median optical flow between two grey images (h, w) uint8, in shares of the width.

    The median belongs to the background as long as objects cover less than half of the picture, so
    it tells whether the camera moves.
    """
    lengths = np.linalg.norm(optical_flow(before, after), axis=-1)
    return float(np.median(lengths)) / before.shape[1]


def textured_share(grey: np.ndarray) -> float:
    """Share of the pixels of a grey image (h, w) uint8 whose neighbourhood has an edge."""
    smooth = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)
    rows, columns = np.gradient(smooth)
    return float((np.hypot(rows, columns) > 4).mean())


def inspect_motion(root: Path, frames: Sequence[FrameRef], threshold: float) -> MotionFigures:
    """Measure motion outputs, to detect collapsed masks or depth; above `threshold` a pixel moves."""
    covered, reliefs = [], []
    for frame in progress(frames, desc="look at masks", unit="frame"):
        output = read_npz(frame.file(root, ".npz"), ("depth",), ("mot_mask",))
        if "mot_mask" in output:
            covered.append(float((output["mot_mask"] > threshold).mean()))
        depth = np.maximum(output["depth"].astype(np.float32), 1e-6)
        low, high = np.quantile(np.log(depth), [0.25, 0.75])
        reliefs.append(float(high - low))
    return MotionFigures(
        covered=float(np.mean(covered)) if covered else None,
        masked_frames=float(np.mean(np.array(covered) > 0)) if covered else None,
        relief=float(np.median(reliefs)),
    )


CHECKS = (
    (
        *("triplets", "below", "triplets"),
        "only {0.triplets} frames have both neighbours, and stage 1 needs {1.triplets} at least; give more "
        "or longer clips, or keep more of their frames with --every 1.",
    ),
    (
        *("dark", "above", "bad_frames"),
        "{0.dark:.0%} of the frames are darker than grey level {1.dark:g} of 255; give clips by daylight, or "
        "brighten them first.",
    ),
    (
        *("plain", "above", "bad_frames"),
        "{0.plain:.0%} of the frames show texture in fewer than {1.plain:.0%} of their pixels, like sky, fog "
        "or a covered lens; point the camera at the street, or crop the frames.",
    ),
    (
        *("moving_pairs", "below", "moving_pairs"),
        "the camera moves in only {0.moving_pairs:.0%} of the looked-at pairs (usual flow {0.flow:.2%} of the "
        "width), and depth is learned from its motion; give clips from a moving vehicle, or a lower frame "
        "rate with --every N.",
    ),
    (
        *("relief", "below", "relief"),
        "depth is flat: between its quartiles lie {0.relief:.1%} in the usual frame; the camera may move too "
        "little or only turn; give other clips, or a lower frame rate with --every N.",
    ),
    (
        *("covered", "above", "covered"),
        "the motion masks cover {0.covered:.0%} of the pixels, so they tell nothing apart; check the field of "
        "view and the clips, or raise motion's weight mask_sparsity in a preset of yours.",
    ),
    (
        *("masked_frames", "below", "masked_frames"),
        "the motion masks show something in only {0.masked_frames:.0%} of the frames: nothing moves by "
        "itself; give clips with traffic, or lower mask_sparsity in a preset of yours.",
    ),
)
"""A figure, the limit that it must not pass, and what to say and do about it."""


def problems(figures: FrameFigures | MotionFigures, limits: DiagnosisLimits) -> list[str]:
    """Reasons why nothing can be learned, each with its measured value."""
    reasons = []
    for name, side, limit, sentence in CHECKS:
        value, bound = getattr(figures, name, None), getattr(limits, limit)
        if value is not None and (value < bound if side == "below" else value > bound):
            reasons.append(sentence.format(figures, limits))
    return reasons


def label_problems(instances: int, frames: int, name: str, limits: DiagnosisLimits) -> list[str]:
    """Reasons why a detector cannot be trained on a label set."""
    if instances >= limits.labels * frames:
        return []
    return [
        f"{name} has {instances} instances in {frames} frames; lower the label stage's thresholds, or give "
        "clips with more traffic."
    ]
