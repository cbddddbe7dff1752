"""How well objects are followed: region similarity J and contour accuracy F of DAVIS 2017.

Perazzi et al. 2016, Pont-Tuset et al. 2017, semi-supervised: objects are known from the first frame, which does
not count, nor does the last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.instances.indexed import VOID

TOLERANCE = 0.008
"""Share of the image's diagonal that two contours may be apart and still meet."""
FOUND = 0.5
"""J or F above which an object counts as found in a frame."""
QUARTERS = 4


class Statistics(NamedTuple):
    """Of one measure over the frames of a sequence."""

    mean: float
    recall: float
    """Share of the frames in which the object is found."""
    decay: float
    """Mean of the first quarter of the frames minus that of the last."""


class ObjectScores(NamedTuple):
    """Of one object."""

    J: Statistics
    F: Statistics


def evaluate_sequence(truth: np.ndarray, result: np.ndarray) -> list[ObjectScores]:
    """Measure a sequence, object by object.

    Args:
        truth: object indices (T, H, W); the first frame's highest index is the number of objects. Void pixels
            (255) are background.
        result: indices (T, H, W) of the same objects; an object that is nowhere counts as empty.

    Raises:
        InputError: for other shapes, a truth without objects or with fewer than three frames, and for indices
            that the truth does not have.
    """
    if truth.shape != result.shape:
        raise InputError(
            f"the truth is {truth.shape} and the result {result.shape}; give every frame at the truth's size."
        )
    if len(truth) < 3:
        raise InputError(
            f"the sequence has {len(truth)} frames, of which first and last do not count; give at least three."
        )
    objects = count_objects(truth[0])
    pairs = zip(truth[1:-1], result[1:-1], strict=True)
    return summarise(measure_frame(*pair, objects) for pair in pairs)


def count_objects(first: np.ndarray, source: str = "the truth") -> int:
    """The number of objects by the first frame's indices (H, W). Raises InputError where there is none."""
    objects = int(np.where(first == VOID, 0, first).max(initial=0))
    if not objects:
        raise InputError(f"{source}: the first frame has no object; leave the sequence out.")
    return objects


def measure_frame(
    truth: np.ndarray, result: np.ndarray, objects: int, source: str = "the result"
) -> np.ndarray:
    """J and F (objects, 2) of a frame's indices (H, W).

    Raises InputError, which names the source, for another size and for indices that the truth does not have.
    """
    if truth.shape != result.shape:
        raise InputError(
            f"{source}: is {result.shape[1]} x {result.shape[0]} and the truth {truth.shape[1]} x "
            f"{truth.shape[0]}; write masks at the size of the frames."
        )
    highest = int(result.max(initial=0))
    if highest > objects:
        raise InputError(
            f"{source}: has the index {highest}, and the truth has {objects} objects; give each object the "
            "truth's index."
        )
    radius = contour_radius(*truth.shape)
    scores = np.zeros((objects, 2))
    for index in range(1, objects + 1):
        true, found = _cropped(truth == index, result == index)
        scores[index - 1] = region_similarity(true, found), contour_accuracy(true, found, radius)
    return scores


def _cropped(true: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two masks (H, W) bool in the box that holds both, with one pixel around it where the image has it.

    Neither measure changes: beyond the box there is no pixel of either mask or of its contour.
    """
    left, top, width, height = cv2.boundingRect((true | found).view(np.uint8))
    box = np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
    return true[box], found[box]


def region_similarity(true: np.ndarray, found: np.ndarray) -> float:
    """J, the IoU of two masks (H, W) bool; 1 where both are empty."""
    shared = np.count_nonzero(true & found)
    union = np.count_nonzero(true) + np.count_nonzero(found) - shared
    return shared / union if union else 1.0


def contour_accuracy(true: np.ndarray, found: np.ndarray, radius: int) -> float:
    """F, the F-measure of the contours of two masks (H, W) bool, which meet within `radius` pixels.

    1 where neither mask has a contour, 0 where one has none.
    """
    true_contour, found_contour = contour(true), contour(found)
    of_true, of_found = np.count_nonzero(true_contour), np.count_nonzero(found_contour)
    if not (of_true and of_found):
        return float(of_true == of_found)
    disk = _disk(radius)
    precision = np.count_nonzero(found_contour & cv2.dilate(true_contour, disk)) / of_found
    recall = np.count_nonzero(true_contour & cv2.dilate(found_contour, disk)) / of_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) uint8 that differ from their right, lower or lower right neighbour.

    In the last row only the right neighbour counts, in the last column only the lower one.
    """
    edge = np.zeros(mask.shape, bool)
    across, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    edge[:, :-1] |= across
    edge[:-1] |= down
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge.view(np.uint8)


def contour_radius(height: int, width: int) -> int:
    """How far contours may be apart in an image, pixels."""
    return math.ceil(TOLERANCE * math.hypot(height, width))


@functools.lru_cache(maxsize=8)
def _disk(radius: int) -> np.ndarray:
    """Pixels (2 r + 1, 2 r + 1) uint8 whose centres are at most `radius` from the middle."""
    offsets = np.arange(-radius, radius + 1) ** 2
    return (offsets[:, None] + offsets <= radius**2).astype(np.uint8)


def summarise(frames: Iterable[np.ndarray]) -> list[ObjectScores]:
    """Each object's scores over the frames, whose measures are (objects, 2)."""
    measures = np.stack(list(frames))
    return [
        ObjectScores(*(statistics(measures[:, index, kind]) for kind in range(2)))
        for index in range(measures.shape[1])
    ]


def statistics(values: np.ndarray) -> Statistics:
    """Mean, recall and decay of a measure (T,).

    A quarter includes both of its ends. The official tool keeps them in 8 bits, so that from 256 frames on
    its decay is no number; this one's is.
    """
    # The official tool's small number keeps ties of the rounding on one side.
    edges = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    recall = float((values > FOUND).mean())
    return Statistics(float(values.mean()), recall, float(first.mean() - last.mean()))
