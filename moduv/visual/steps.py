"""What happens inside a stage, as named pictures of one frame."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from moduv.engine.files import read_npz
from moduv.frames.images import read_image
from moduv.instances.instances import Instances
from moduv.labels.initial import InitialConfig, initial_labels, ranges
from moduv.visual.drawing import (
    draw_depth,
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


def draw_sets(image: np.ndarray, sets: dict[str, Instances]) -> dict[str, np.ndarray]:
    """Label sets or detections of one frame (H, W, 3); an object has one colour in all of them."""
    colors = shared_colors(list(sets.values()))
    return {
        name: draw_instances(image, found, colors=color)
        for (name, found), color in zip(sets.items(), colors, strict=True)
    }
