"""Objects in the evidence: what moves alike beside the camera's motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

from moduv.frames.flow import follow
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.labels.evidence.noise import Noise
from moduv.labels.evidence.statistic import Statistic
from moduv.labels.initial import InitialConfig, extract_instances

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
SHARE = 0.65
"""Of an object's velocity, that a pixel must have in its direction to belong to it. Flow bleeds, so the rim lies
a little beyond the half."""
TURNS = 4
"""Reweightings of a fit of velocities."""
STIFFNESS = 0.1
"""Weight against velocities that change over an object, where 1 is that of all its pixels."""
LENGTH = 10.0
"""Pixels over which that change is measured."""
LEAST_SPREAD = 0.05
"""Pixels a frame."""
TELLING = 0.85
"""Quantile of the gain inside an object that tells: panels of one colour show no gain, edges do."""
WHOLE = 0.8
"""Share of a cluster that must move as one for it to be one object."""
REMAINS = 0.15
"""Share of a weaker cluster at the rim of stronger objects from which it counts as theirs: flow has bled."""


@dataclass(frozen=True)
class Motion:
    """Velocity in the image as a linear function of the pixel."""

    factors: np.ndarray
    """(3, 2): of 1, and of column and row less the centre's in units of LENGTH."""
    column: float
    row: float

    def inside(self, place: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 2), pixels a frame, in a rectangle of the image."""
        rows, columns = np.mgrid[place]
        terms = _terms(columns, rows, self.column, self.row)
        return terms @ self.factors


def moving_objects(
    statistic: Statistic,
    gain: np.ndarray,
    depth: np.ndarray,
    inv_K: np.ndarray,
    noise: Noise,
    config: InitialConfig,
) -> Instances:
    """L0 of one frame from its evidence.

    Pixels above a threshold are clustered by range, and a cluster is given the pixels that move as it does
    rather than stand. It stays if measured flow explains the neighbours better than ego flow there. What is
    found above the lowest threshold is one object if it moves as one; the rest is looked at again above
    falling thresholds, so that what moves little is not joined to what moves much.

    Args:
        statistic: (H, W), lengths and velocities.
        gain: (H, W), of `photometric_gain`.
        depth: (H, W).
        inv_K: (4, 4), inverse intrinsics.
        noise: expected errors.
        config: of the clusters, and `flow`, of the evidence.

    Returns:
        Instances without scores.

    Raises:
        InputError: for depths and intrinsics that are none.
    """
    taken = np.zeros(depth.shape, bool)
    found: list[np.ndarray] = []
    margin, least = config.window // 2, config.flow.gain * noise.grey
    thresholds = (config.flow.stages[-1], *config.flow.stages)
    for number, threshold in enumerate(thresholds):
        above = binary_fill_holes((statistic.length > threshold) & ~taken) & ~taken
        masks = extract_instances(above, depth, inv_K, config, motion_threshold=0.5).decode()
        gaining = [mask for mask in masks if np.quantile(gain[mask], TELLING) > least]
        clusters = _apart_from(taken, gaining, margin)
        fitted = _fit_to_motion(clusters, statistic.velocity, margin)
        new = []
        for cluster, mask in zip(clusters, fitted, strict=True):
            moves_as_one = (cluster & mask).sum() >= WHOLE * cluster.sum()
            if number or moves_as_one:
                new.append(_without_still_rim(mask & ~taken, gain, margin))
        new = [mask for mask in new if mask.sum() >= config.min_samples]
        found += new
        for mask in new:
            taken |= _grown(mask, 1)
    boxes = np.array([rle.extent(mask) for mask in found], np.float64).reshape(-1, 4)
    return Instances([rle.encode(mask) for mask in found], boxes, size=depth.shape)


def _apart_from(taken: np.ndarray, clusters: Sequence[np.ndarray], margin: int) -> list[np.ndarray]:
    """The clusters that are no remains of what is taken."""
    rim = _grown(taken, margin)
    return [mask for mask in clusters if (mask & rim).sum() < REMAINS * mask.sum()]


def _without_still_rim(mask: np.ndarray, gain: np.ndarray, margin: int) -> np.ndarray:
    """A mask (H, W) without pixels at its rim, up to `margin` deep, that ego flow explains as well."""
    kept = mask
    for _ in range(margin):
        inner = cv2.erode(kept.astype(np.uint8), CROSS) > 0
        kept = kept & (inner | (gain > 0))
    return _largest_part(kept)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (h, w), bool."""
    bits = np.ascontiguousarray(mask, np.uint8)
    count, parts, measures, _ = cv2.connectedComponentsWithStats(bits, connectivity=4)
    return parts == 1 + int(np.argmax(measures[1:, cv2.CC_STAT_AREA])) if count > 1 else mask


def photometric_gain(
    frame: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """By how many grey levels measured flow explains the neighbours better than ego flow, (H, W).

    It is the least of all neighbours, of means over 3 x 3 pixels.

    Args:
        frame: (H, W) float32.
        pairs: of each neighbour its grey levels (H, W), measured flow and ego flow (H, W, 2).
    """
    gains = []
    for neighbour, flow, ego in pairs:
        by_ego = np.abs(frame - follow(neighbour, np.nan_to_num(ego)))
        by_flow = np.abs(frame - follow(neighbour, flow))
        gains.append(cv2.blur(by_ego - by_flow, (3, 3)))
    return np.minimum.reduce(gains)


def _fit_to_motion(
    clusters: Sequence[np.ndarray], velocity: np.ndarray, margin: int
) -> list[np.ndarray]:
    """Of each cluster the pixels in and around it that move as it does."""
    smooth = np.dstack(
        [cv2.medianBlur(np.ascontiguousarray(v), 3) for v in np.moveaxis(velocity, 2, 0)]
    )
    motions = [motion_of(smooth, mask) for mask in clusters]
    return [
        _belonging(number, clusters, motions, smooth, margin) for number in range(len(clusters))
    ]


def motion_of(velocity: np.ndarray, mask: np.ndarray) -> Motion:
    """The motion of a mask (H, W) by robust least squares on velocities (H, W, 2)."""
    rows, columns = np.nonzero(mask)
    column, row = float(columns.mean()), float(rows.mean())
    terms, values = _terms(columns, rows, column, row), velocity[mask].astype(np.float64)
    weights = np.ones(len(values))
    factors = np.zeros((3, 2))
    for _ in range(TURNS):
        stiff = np.diag([0, STIFFNESS, STIFFNESS]) * weights.sum()
        normal = terms.T @ (terms * weights[:, None]) + stiff
        factors = np.linalg.solve(normal, terms.T @ (values * weights[:, None]))
        off = np.linalg.norm(values - terms @ factors, axis=1)
        spread = max(1.5 * float(np.median(off)), LEAST_SPREAD)
        weights = 1 / (1 + (off / spread) ** 2) ** 2
    return Motion(factors, column, row)


def _terms(columns: np.ndarray, rows: np.ndarray, column: float, row: float) -> np.ndarray:
    ones = np.ones(columns.shape)
    return np.stack([ones, (columns - column) / LENGTH, (rows - row) / LENGTH], -1)


def _belonging(
    number: int,
    clusters: Sequence[np.ndarray],
    motions: Sequence[Motion],
    velocity: np.ndarray,
    margin: int,
) -> np.ndarray:
    """The largest connected part of the pixels that move as one of the clusters, (H, W) bool."""
    place = _surroundings(clusters[number], margin)
    near, here = _grown(clusters[number][place], margin), velocity[place]
    own = motions[number].inside(place)
    speed = np.linalg.norm(own, axis=2)
    off = np.linalg.norm(here - own, axis=2)
    alike = near & ((here * own).sum(2) > SHARE * speed**2) & (off < speed)
    for other, mask in enumerate(clusters):
        if other != number and mask[place].any():
            others = np.linalg.norm(here - motions[other].inside(place), axis=2)
            alike &= ~(_grown(mask[place], 1) & (others < off))
    whole = binary_fill_holes(alike).astype(np.uint8)
    opened = cv2.morphologyEx(np.pad(whole, 1, mode="edge"), cv2.MORPH_OPEN, CROSS)[1:-1, 1:-1]
    belonging = np.zeros(clusters[number].shape, bool)
    belonging[place] = _largest_part(opened)
    return belonging


def _surroundings(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rectangle around a mask and `margin` pixels more."""
    left, top, right, bottom = rle.extent(mask)
    height, width = mask.shape
    return (
        slice(max(0, top - margin), min(height, bottom + margin)),
        slice(max(0, left - margin), min(width, right + margin)),
    )


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), CROSS, iterations=pixels) > 0 if pixels else mask
