"""L2: the predictions of the large-scale and the small-scale detector, merged (MOD-UV, section 3.3).

Masks are packed to bits, 64 pixels a word, so that covers and overlaps are counted in registers: a
frame of 1280 x 1920 with 35 masks takes 11 MB instead of gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from torch import Tensor

from moduv.labels import rle
from moduv.labels.instances import Instances, Predictions


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


def aggregate_predictions(
    large: Predictions,
    small: Predictions,
    *,
    match_iou: float = 0.5,
    self_filter: float = 0.75,
    cross_filter: float = 0.5,
    mask_threshold: float = 0.5,
) -> Instances:
    """Merge the predictions of two detectors on the same frame, exactly as the reference does.

    Args:
        large: of the detector trained at full scale, sorted by score.
        small: of the detector trained on shrunken frames, sorted by score.
        match_iou: pairs with a greater mask IoU are the same object; the better score survives.
        self_filter: a large mask is dropped when larger ones cover more of it than this; a small
            mask when smaller ones do.
        cross_filter: an unmatched mask is dropped when the other detector covers this much of it.
        mask_threshold: pixels above it belong to the resulting mask.

    Returns:
        Matched large, matched small, remaining large, remaining small; each in its detector's order.

    The cover of the self filter counts the pixels where both soft masks are not zero, and divides them
    by the sum of the soft mask: it can exceed 1.
    """
    packed_large, packed_small = (
        pack(large.masks, mask_threshold),
        pack(small.masks, mask_threshold),
    )
    kept_large = clean(packed_large, self_filter, by_larger=True)
    kept_small = clean(packed_small, self_filter, by_larger=False)
    scores_large, scores_small = large.scores.cpu().numpy(), small.scores.cpu().numpy()
    bits_large, bits_small = packed_large.binary[kept_large], packed_small.binary[kept_small]
    won_large, won_small, met_large, met_small = match(
        bits_large, bits_small, scores_large[kept_large], scores_small[kept_small], match_iou
    )
    rest_large = [i for i in range(len(kept_large)) if i not in met_large]
    rest_small = [i for i in range(len(kept_small)) if i not in met_small]
    everything_small = _union(bits_small, packed_small.support.shape[1])
    rest_large = _uncovered(bits_large, rest_large, everything_small, cross_filter)
    survivors = [bits_large[won_large], bits_small[won_small], bits_large[rest_large]]
    taken = _union(np.concatenate(survivors), packed_large.support.shape[1])
    rest_small = _uncovered(bits_small, rest_small, taken, cross_filter)
    parts = [
        _select(large, packed_large, kept_large[won_large]),
        _select(small, packed_small, kept_small[won_small]),
        _select(large, packed_large, kept_large[rest_large]),
        _select(small, packed_small, kept_small[rest_small]),
    ]
    return Instances(
        [mask for part in parts for mask in part.masks],
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts if part.scores is not None]),
        packed_large.shape,
    )


def pack(masks: Tensor | np.ndarray, mask_threshold: float = 0.5) -> PackedMasks:
    """Pack soft masks (N, H, W) in one pass over their values."""
    values = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else masks
    values = np.ascontiguousarray(values)
    number, height, width = values.shape
    support, binary, mass = _pack(values.reshape(number, height * width), mask_threshold)
    return PackedMasks(support, binary, mass, (height, width))


def clean(packed: PackedMasks, self_filter: float, *, by_larger: bool) -> np.ndarray:
    """Positions of the masks that the larger (or smaller) ones do not cover, in order.

    Masks of equal size keep the detector's order. A mask is compared with all that come after it in
    the order of size, also with those that are dropped themselves.
    """
    order = np.argsort(packed.mass, kind="stable")
    if not by_larger:
        order = order[::-1]
    union = np.zeros(packed.support.shape[1], np.uint64)
    kept = np.ones(len(order), bool)
    for position in order[::-1]:
        covered = _common(packed.support[position], union)
        # An empty mask is covered by nothing, as in the reference, where 0 / 0 exceeds no limit.
        if packed.mass[position] > 0:
            kept[position] = covered / packed.mass[position] <= self_filter
        union |= packed.support[position]
    return np.flatnonzero(kept)


def match(
    large: np.ndarray,
    small: np.ndarray,
    scores_large: np.ndarray,
    scores_small: np.ndarray,
    match_iou: float,
) -> tuple[list[int], list[int], set[int], set[int]]:
    """Pair masks by IoU, best first, while it exceeds `match_iou`.

    Rows and columns are not used up by a pair: a mask with two partners may win against one and lose
    against the other, and both winners are kept, as the reference does.

    Returns:
        Winners among the large and small masks, in order, and the masks that met any partner.
    """
    iou = _iou(large, small)
    won_large: set[int] = set()
    won_small: set[int] = set()
    met_large: set[int] = set()
    met_small: set[int] = set()
    while iou.size and iou.max() > match_iou:
        i, j = (int(index) for index in np.unravel_index(iou.argmax(), iou.shape))
        iou[i, j] = 0
        if scores_large[i] >= scores_small[j]:
            won_large.add(i)
        else:
            won_small.add(j)
        met_large.add(i)
        met_small.add(j)
    return sorted(won_large), sorted(won_small), met_large, met_small


def _uncovered(
    bits: np.ndarray, candidates: list[int], union: np.ndarray, limit: float
) -> list[int]:
    """Candidates of which less than `limit` lies under `union`; empty masks are left out."""
    kept = []
    for position in candidates:
        area = _common(bits[position], bits[position])
        if area and _common(bits[position], union) / area < limit:
            kept.append(position)
    return kept


def _union(bits: np.ndarray, words: int) -> np.ndarray:
    return np.bitwise_or.reduce(bits, 0) if len(bits) else np.zeros(words, np.uint64)


def _select(predictions: Predictions, packed: PackedMasks, positions: np.ndarray) -> Instances:
    boxes = predictions.boxes.float().cpu().numpy().reshape(-1, 4)[positions]
    scores = predictions.scores.float().cpu().numpy()[positions]
    masks = [_encode(packed.binary[position], packed.shape) for position in positions]
    return Instances(masks, boxes, scores, packed.shape)


def _encode(bits: np.ndarray, shape: tuple[int, int]) -> rle.Rle:
    """Encode packed bits, unpacking only the rows that the mask reaches."""
    height, width = shape
    occupied = np.flatnonzero(bits)
    if len(occupied) == 0:
        return rle.from_runs([height * width], shape)
    top, bottom = 64 * occupied[0] // width, min(height, 64 * (occupied[-1] + 1) // width + 1)
    first = top * width // 64
    last = -(-bottom * width // 64)
    flat = np.unpackbits(bits[first:last].view(np.uint8), bitorder="little")
    skip = int(top * width - 64 * first)
    rows = flat[skip : skip + int(bottom - top) * width].reshape(-1, width).astype(bool)
    columns = np.flatnonzero(rows.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return rle.encode_crop(rows[:, left:right], int(top), left, shape)


@numba.njit(cache=True, parallel=True)
def _pack(values: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number, pixels = values.shape
    words = (pixels + 63) // 64
    support = np.zeros((number, words), np.uint64)
    binary = np.zeros((number, words), np.uint64)
    mass = np.zeros(number, np.float64)
    for n in numba.prange(number):
        row = values[n]
        total = 0.0
        for word in range(words):
            first = word * 64
            last = min(first + 64, pixels)
            any_bits, high_bits = np.uint64(0), np.uint64(0)
            for pixel in range(first, last):
                value = row[pixel]
                # Most words lie beside the object: nothing to do for a zero.
                if value != 0:
                    bit = np.uint64(1) << np.uint64(pixel - first)
                    any_bits |= bit
                    total += value
                    if value > threshold:
                        high_bits |= bit
            support[n, word], binary[n, word] = any_bits, high_bits
        mass[n] = total
    return support, binary, mass


@numba.njit(cache=True)
def _popcount(word: np.uint64) -> np.uint64:
    """Number of ones in a word, summed in fields of two, four and eight bits."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = pairs & np.uint64(0x3333333333333333)
    nibbles = low + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    octets = (nibbles + (nibbles >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (octets * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True)
def _common(first: np.ndarray, second: np.ndarray) -> np.int64:
    """Number of pixels in both masks."""
    count = np.int64(0)
    for word in range(len(first)):
        both = first[word] & second[word]
        if both:
            count += np.int64(_popcount(both))
    return count


@numba.njit(cache=True)
def _iou(large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """IoU of every large with every small mask, (L, S) float32."""
    iou = np.zeros((len(large), len(small)), np.float32)
    areas = np.array([_common(small[j], small[j]) for j in range(len(small))])
    for i in range(len(large)):
        area = _common(large[i], large[i])
        for j in range(len(small)):
            both = _common(large[i], small[j])
            iou[i, j] = both / (area + areas[j] - both + 1e-6)
    return iou
