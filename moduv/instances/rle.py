"""Run-length masks in COCO's form, where pycocotools needs full-size arrays or trusts its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from pycocotools import mask as coco

Rle = dict[str, Any]
"""`size` [h, w] and `counts`, COCO's compressed runs as text, column by column."""
LARGEST = 1 << 28
"""Pixels of a mask's image. COCO's own code ends at 32 bits, memory before that."""


def encode(mask: np.ndarray) -> Rle:
    """Encode a mask (H, W) of any type; pixels other than 0 belong to it."""
    occupied = mask != 0
    left, top, right, bottom = extent(occupied)
    return encode_crop(occupied[top:bottom, left:right], top, left, mask.shape)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not zero, the last two exclusive; zeros where all is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def encode_crop(crop: np.ndarray, top: int, left: int, shape: tuple[int, ...]) -> Rle:
    """Encode a mask that is known inside a rectangle and empty outside of it.

    Args:
        crop: (h, w) bool.
        top, left: where the rectangle begins in the image.
        shape: height and width of the image.
    """
    height, width = int(shape[0]), int(shape[1])
    columns = np.zeros((crop.shape[1], height), bool)
    columns[:, top : top + crop.shape[0]] = crop.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    edges = [0, *(changes + left * height).tolist(), height * width]
    runs = np.diff(edges).tolist()
    return from_runs(runs[:-1] if len(runs) > 1 and not runs[-1] else runs, shape)


def from_runs(runs: list[int], shape: tuple[int, ...]) -> Rle:
    """Compress alternating runs of absence and presence."""
    height, width = int(shape[0]), int(shape[1])
    compressed = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {"size": [height, width], "counts": compressed["counts"].decode()}


def from_counts(counts: Any, shape: Sequence[int]) -> Rle | None:
    """A mask of the runs in a file: text, bytes, or a list of numbers; None when they do not fill it."""
    if not isinstance(counts, list):
        text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
        mask = {"size": list(shape), "counts": text}
        return mask if is_whole(mask) else None
    pixels = shape[0] * shape[1]
    whole = all(type(run) is int and run >= 0 for run in counts) and sum(counts) == pixels
    return from_runs(counts, tuple(shape)) if whole and pixels <= LARGEST else None


def from_box(box: Sequence[float], shape: tuple[int, int]) -> Rle:
    """The pixels of a box [x, y, width, height], rounded and cut at the image's edges."""
    left, top, right, bottom = (max(0, round(edge)) for edge in corners([box])[0].tolist())
    sides = max(0, min(bottom, shape[0]) - top), max(0, min(right, shape[1]) - left)
    return encode_crop(np.ones(sides, bool), top, left, shape)


def corners(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Boxes [x, y, width, height] as XYXY (N, 4)."""
    found = np.array(boxes, np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


def area(mask: Rle) -> int:
    """Pixels of a mask."""
    return int(coco.area(mask))


def box(mask: Rle) -> tuple[float, float, float, float]:
    """The box [x, y, width, height] around a mask's pixels."""
    left, top, width, height = coco.toBbox(mask).tolist()
    return left, top, width, height


def decode(rle: Rle) -> np.ndarray:
    """The mask (H, W), bool; of runs that `is_whole` accepts."""
    height, width = rle["size"]
    runs = _parse(np.frombuffer(rle["counts"].encode("ascii"), np.uint8))
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def decode_crop(rle: Rle) -> tuple[int, int, np.ndarray]:
    """The mask inside its bounding rectangle: top, left and pixels (h, w) bool; (0, 0) when it is empty.

    Takes time and memory in proportion to the columns that it covers, not to the image.
    """
    height = int(rle["size"][0])
    runs = _parse(np.frombuffer(rle["counts"].encode("ascii"), np.uint8))
    edges = np.cumsum(runs[: len(runs) // 2 * 2]).reshape(-1, 2)
    edges = edges[edges[:, 0] < edges[:, 1]]
    if not len(edges):
        return 0, 0, np.zeros((0, 0), bool)
    (rows, ends), (columns, last) = (edges - [0, 1]).T % height, (edges - [0, 1]).T // height
    left, right = int(columns[0]), int(last[-1]) + 1
    # A run over several columns passes the foot of one and the head of the next.
    one = bool((columns == last).all())
    top, bottom = (int(rows.min()), int(ends.max()) + 1) if one else (0, height)
    inside = np.diff(edges.ravel() - left * height, prepend=0, append=(right - left) * height)
    covered = np.repeat(np.arange(len(inside)) % 2 == 1, inside).reshape(right - left, height)
    return top, left, np.ascontiguousarray(covered[:, top:bottom].T)


def is_whole(rle: Any) -> bool:
    """Whether `rle` has COCO's form and its runs fill the image exactly.

    pycocotools reads and writes beyond its memory when they do not.
    """
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), str):
        return False
    size = rle.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        return False
    try:
        text = np.frombuffer(rle["counts"].encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        return False
    runs = _parse(text)
    return min(size) > 0 and size[0] * size[1] <= LARGEST and int(runs.sum()) == size[0] * size[1]


@numba.njit(cache=True)
def _parse(text: np.ndarray) -> np.ndarray:
    """Runs of COCO's compressed text; none when it is not of that form.

    A run is written in digits of five bits, the lowest first, each plus 48 and with the sixth bit set
    where another follows; from the fourth run on as the difference to the run before the last.
    """
    runs = np.empty(len(text), np.int64)
    position, count = 0, 0
    while position < len(text):
        value, shift, more, digit = 0, 0, True, 0
        while more:
            # Seven digits hold every run of 32 bits and its sign.
            if position >= len(text) or shift > 30:
                return runs[:0]
            digit = int(text[position]) - 48
            if digit < 0 or digit > 63:
                return runs[:0]
            value |= (digit & 31) << shift
            more = (digit & 32) != 0
            shift += 5
            position += 1
        if digit & 16:
            value |= -1 << shift
        if count > 2:
            value += runs[count - 2]
        if value < 0 or value >= 1 << 32:
            return runs[:0]
        runs[count] = value
        count += 1
    return runs[:count]
