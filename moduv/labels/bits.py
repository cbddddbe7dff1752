"""Soft masks as bits, 64 pixels a word, so that overlaps are counted in registers.

A frame of 1280 x 1920 with 35 masks takes 22 MB instead of gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from moduv.instances.crops import Crop, check_finite


@dataclass(frozen=True)
class PackedMasks:
    """Soft masks as bits; pixels in raster order, the last word padded with zeros."""

    support: np.ndarray
    """(N, words) uint64: pixels with a value other than 0."""
    binary: np.ndarray
    """(N, words) uint64: pixels above the mask threshold."""
    mass: np.ndarray
    """(N,) float64: sum of the soft mask."""
    shape: tuple[int, int]
    """Height and width of the image."""


def pack(crops: Sequence[Crop], shape: tuple[int, int], mask_threshold: float = 0.5) -> PackedMasks:
    """Pack the soft masks of an image of `shape` (H, W) in one pass over their rectangles.

    Raises InputError when they hold numbers that are not finite.
    """
    check_finite(crops)
    words = -(-shape[0] * shape[1] // 64)
    support = np.zeros((len(crops), words), np.uint64)
    binary = np.zeros((len(crops), words), np.uint64)
    mass = np.zeros(len(crops), np.float64)
    for n, crop in enumerate(crops):
        start, limit = crop.top * shape[1] + crop.left, crop.limit(mask_threshold)
        total = _pack(crop.pixels, start, shape[1], limit, support[n], binary[n])
        mass[n] = total * crop.unit
    return PackedMasks(support, binary, mass, shape)


def union(bits: np.ndarray) -> np.ndarray:
    """Pixels of any mask (N, words); none where there is no mask."""
    return np.bitwise_or.reduce(bits, 0)


@numba.njit(cache=True)
def _pack(
    values: np.ndarray,
    start: int,
    width: int,
    threshold: float,
    support: np.ndarray,
    binary: np.ndarray,
) -> float:
    """Set the bits of a mask (h, w) whose corner is pixel `start` of the image; returns its sum."""
    total = 0.0
    for row in range(values.shape[0]):
        first = start + row * width
        for column in range(values.shape[1]):
            value = values[row, column]
            if value != 0:
                word, place = divmod(first + column, 64)
                bit = np.uint64(1) << np.uint64(place)
                support[word] |= bit
                total += value
                if value > threshold:
                    binary[word] |= bit
    return total


@numba.njit(cache=True)
def _popcount(word: np.uint64) -> np.uint64:
    """Number of ones in a word, summed in fields of two, four and eight bits."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = pairs & np.uint64(0x3333333333333333)
    nibbles = low + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    octets = (nibbles + (nibbles >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (octets * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True)
def common(first: np.ndarray, second: np.ndarray) -> np.int64:
    """Number of pixels in both masks."""
    count = np.int64(0)
    for word in range(len(first)):
        both = first[word] & second[word]
        if both:
            count += np.int64(_popcount(both))
    return count


@numba.njit(cache=True)
def iou(large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """IoU of every large with every small mask, (L, S) float32."""
    result = np.zeros((len(large), len(small)), np.float32)
    for i in range(len(large)):
        for j in range(len(small)):
            either = np.int64(0)
            for word in range(large.shape[1]):
                both = large[i, word] | small[j, word]
                if both:
                    either += np.int64(_popcount(both))
            result[i, j] = common(large[i], small[j]) / (either + 1e-6)
    return result
