"""What happens inside a stage, as named pictures of one frame."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from moduv.engine.files import read_npz
from moduv.frames.images import read_image
from moduv.instances.instances import Instances
from moduv.labels.evidence.config import EvidenceConfig
from moduv.labels.initial import InitialConfig, initial_labels, ranges
from moduv.visual.drawing import (
    draw_depth,
    draw_flows,
    draw_instances,
    draw_motion,
    draw_ranges,
    enlarge,
    shared_colors,
)


def initial_label_steps(
    output: Path, image: Path, config: InitialConfig, *, width: int = 480
) -> dict[str, np.ndarray]:
    """How L0 is made of one frame: depth, mask, moving pixels by range, clusters, labels.

    Args:
        output: stage 1's file of the frame.
        image: the frame.
        config: parameters of the clustering; where they do not snap, clusters are the labels.
        width: the pictures are at least so wide.

    Raises:
        InputError: when a file is missing or broken.
    """
    arrays = read_npz(output, ("mot_mask", "depth", "inv_K"))
    mask, depth = (arrays[name].astype(np.float32) for name in ("mot_mask", "depth"))
    moving = mask > config.motion_threshold
    picture, source = read_image(image), str(output)
    large = enlarge(picture, width)
    pictures = {
        "frame": large,
        "depth": enlarge(draw_depth(depth), width),
        "motion mask": draw_motion(large, mask, threshold=config.motion_threshold),
        "moving pixels, by range": draw_ranges(large, ranges(depth, arrays["inv_K"]), moving),
    }
    label = partial(
        initial_labels, arrays["mot_mask"], arrays["depth"], inv_K=arrays["inv_K"], source=source
    )
    sets = {"clusters": label(config=replace(config, snap=False))}
    if config.snap:
        sets["snapped to the image"] = label(image=picture, config=config)
    return pictures | draw_sets(large, sets)


def flow_label_steps(
    image: np.ndarray,
    depth: np.ndarray,
    flow: np.ndarray,
    ego: np.ndarray,
    length: np.ndarray,
    labels: Instances,
    config: EvidenceConfig,
    *,
    width: int = 480,
) -> dict[str, np.ndarray]:
    """How L0 is made of measured flow: what flow says, what the camera's motion explains, what is left, labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W).
        flow: (H, W, 2), measured.
        ego: (H, W, 2), of a static world.
        length: (H, W), of the statistic: the difference in units of its expected error.
        labels: L0.
        config: thresholds of the statistic.
        width: the pictures are at least so wide.
    """
    large = enlarge(image, width)
    measured, explained = draw_flows([flow, np.nan_to_num(ego)])
    return {
        "frame": large,
        "depth": enlarge(draw_depth(depth), width),
        "measured flow": enlarge(measured, width),
        "ego flow": enlarge(explained, width),
        "difference, in expected errors": draw_evidence(large, length, config),
        **draw_sets(large, {"L0": labels}),
    }


def draw_evidence(image: np.ndarray, length: np.ndarray, config: EvidenceConfig) -> np.ndarray:
    """Lay the statistic (h, w) over a dimmed image, up to the highest threshold; outline the lowest."""
    highest, lowest = config.stages[0], config.stages[-1]
    return draw_motion(image, np.clip(length / highest, 0, 1), threshold=lowest / highest)


def draw_sets(image: np.ndarray, sets: dict[str, Instances]) -> dict[str, np.ndarray]:
    """Label sets or detections of one frame (H, W, 3); an object has one colour in all of them."""
    colors = shared_colors(list(sets.values()))
    return {
        name: draw_instances(image, found, colors=color)
        for (name, found), color in zip(sets.items(), colors, strict=True)
    }
