"""Evidence gathered where it belongs together: the same point in several frames, the same surface in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.segmentation import felzenszwalb

from moduv.frames.flow import follow
from moduv.labels.evidence.statistic import Measured, Statistic

MOST = 15.0
"""Length of a statistic beyond which it counts no more: one frame must not outvote the others."""
CENTRE = 2.0
"""Weight of a frame's own statistic where that of a neighbour is 1."""
RETURNS = 1.0
"""Pixels that flow there and back may miss its start by, where a neighbour has a vote."""
OWN = 0.5
"""Weight of a pixel's own statistic beside that of its superpixel."""
SUPERPIXEL = {"scale": 50.0, "sigma": 0.4, "min_size": 10}
"""Felzenszwalb and Huttenlocher's parameters for frames of 96 x 160; smaller than objects."""
REFERENCE = 96 * 160
"""Pixels of those frames."""


@dataclass(frozen=True)
class Neighbour:
    """A neighbour's statistic, and measured flow to it."""

    statistic: Statistic
    way: Measured


def over_frames(centre: Statistic, neighbours: Sequence[Neighbour]) -> Statistic:
    """The weighted mean over a frame and its neighbours, along measured flow, where it comes back."""
    own = np.minimum(centre.length, MOST)
    lengths, velocities, weights = [own], [centre.velocity], [CENTRE]
    for neighbour in neighbours:
        comes_back = neighbour.way.error < RETURNS
        length = follow(np.minimum(neighbour.statistic.length, MOST), neighbour.way.flow)
        velocity = follow(neighbour.statistic.velocity, neighbour.way.flow)
        lengths.append(np.where(comes_back, length, own))
        velocities.append(np.where(comes_back[..., None], velocity, centre.velocity))
        weights.append(1.0)
    return Statistic(*(np.average(f, 0, weights).astype(np.float32) for f in (lengths, velocities)))


def over_superpixels(length: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The statistic (H, W) of each pixel and its superpixel together.

    Flow is smooth where the image is plain and bleeds over edges; superpixels end there.

    Args:
        length: (H, W).
        image: (H, W, 3) uint8 RGB.
    """
    ratio = length.size / REFERENCE
    settings = {**SUPERPIXEL, "scale": SUPERPIXEL["scale"] * ratio**0.5}
    settings["min_size"] = round(SUPERPIXEL["min_size"] * ratio)
    superpixels = felzenszwalb(image, **settings)
    capped = np.minimum(length, MOST)
    sizes = np.bincount(superpixels.ravel())
    means = np.bincount(superpixels.ravel(), capped.ravel()) / sizes
    return (OWN * capped + (1 - OWN) * means[superpixels]).astype(np.float32)
