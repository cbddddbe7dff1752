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
    rows, columns = np.flatnonzero(occupied.any(1)), np.flatnonzero(occupied.any(0))
    if len(rows) == 0:
        return from_runs([mask.size], mask.shape)
    top, left = int(rows[0]), int(columns[0])
    crop = occupied[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    return encode_crop(crop, top, left, mask.shape)


def encode_crop(crop: np.ndarray, top: int, left: int, shape: tuple[int, ...]) -> Rle:
    """Encode a mask that is known inside a rectangle and empty outside of it.

    Args:
        crop: (h, w) bool.
        top, left: where the rectangle begins in the image.
        shape: height and width of the image.
    """
    return from_runs(_runs(crop, top, left, int(shape[0]), int(shape[1])).tolist(), shape)


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
    inside = np.ones(
        (max(0, min(bottom, shape[0]) - top), max(0, min(right, shape[1]) - left)), bool
    )
    return encode_crop(inside, top, left, shape) if inside.size else encode(np.zeros(shape, bool))


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
    return np.asarray(coco.decode(rle)).view(bool)


def decode_crop(rle: Rle) -> tuple[int, int, np.ndarray]:
    """The mask inside its bounding rectangle: top, left and pixels (h, w) bool; (0, 0) when it is empty.

    Takes time and memory in proportion to the rectangle, not to the image.
    """
    height = int(rle["size"][0])
    runs = _parse(np.frombuffer(rle["counts"].encode("ascii"), np.uint8))
    top, left, bottom, right = _bounds(runs, height)
    crop = np.zeros((bottom - top, right - left), np.bool_)
    _fill_crop(runs, height, top, left, crop)
    return int(top), int(left), crop


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
def _runs(crop: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Alternating runs, column by column, of the image that holds `crop` and nothing else."""
    rows, columns = crop.shape
    runs = np.empty(columns * (rows + 2) + 2, np.int64)
    count, length, present = 0, left * height, False
    for column in range(columns):
        for row in range(top + rows):
            inside = row >= top and crop[row - top, column]
            if inside != present:
                runs[count] = length
                count, length, present = count + 1, 0, inside
            length += 1
        below = height - top - rows
        if present and below > 0:
            runs[count] = length
            count, length, present = count + 1, 0, False
        length += below
    rest = (width - left - columns) * height
    if present and rest > 0:
        runs[count] = length
        count, length, present = count + 1, 0, False
    runs[count] = length + rest
    return runs[: count + 1]


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


@numba.njit(cache=True)
def _bounds(runs: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right (exclusive) of the pixels that are present; zeros when none is."""
    top, left, bottom, right = height, -1, 0, 0
    start = 0
    for index in range(len(runs)):
        stop = start + runs[index]
        if index % 2 and stop > start:
            first, last = start // height, (stop - 1) // height
            if left < 0:
                left = first
            right = last + 1
            # A run over several columns passes the foot of one and the head of the next.
            top = min(top, start % height) if first == last else 0
            bottom = max(bottom, (stop - 1) % height + 1) if first == last else height
        start = stop
    return (top, left, bottom, right) if left >= 0 else (0, 0, 0, 0)


@numba.njit(cache=True)
def _fill_crop(runs: np.ndarray, height: int, top: int, left: int, crop: np.ndarray) -> None:
    """Set the pixels that are present in `crop` (h, w), which begins at (top, left) of the image."""
    start = 0
    for index in range(len(runs)):
        stop = start + runs[index]
        if index % 2:
            while start < stop:
                column = start // height
                foot = min(stop, (column + 1) * height)
                crop[
                    start - column * height - top : foot - column * height - top, column - left
                ] = True
                start = foot
        start = stop
