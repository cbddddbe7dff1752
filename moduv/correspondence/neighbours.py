"""Most similar pixels between frames, by the cosine of their features: within a window, or in the whole frame."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numba
import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError

BLOCK = 8
"""Side of a block of queries, which is compared with its window in one matrix product. Larger blocks compute more products
outside of any window, smaller ones make matrix products inefficient."""
ROWS = 512
KEYS = 4096
"""Queries and keys per matrix product, in whole rows, where the whole frame is searched."""
MOST = (1 << 15) - 1
"""Largest signed integer of 16 bits."""
LEAST = 1e-30
"""Lower bound of the largest absolute value of a vector, which may be 0."""


@dataclass(frozen=True)
class Rounded:
    """Features of a frame in half the memory: integers of 16 bits with a scale for each pixel.

    The error of cosines is about 3e-6, several times less than in half precision, which needs as much memory.
    """

    numbers: Tensor
    """(h, w, C) int16."""
    scale: Tensor
    """(h, w, 1) float32."""

    @property
    def shape(self) -> torch.Size:
        """(h, w, C)."""
        return self.numbers.shape

    def __getitem__(self, rows: slice) -> Rounded:
        """A slice of rows."""
        return Rounded(self.numbers[rows], self.scale[rows])

    def restored(self) -> Tensor:
        """The features (h, w, C) as float32."""
        return self.numbers.float().mul_(self.scale)

    def clone(self) -> Rounded:
        """A copy in memory of its own."""
        return Rounded(self.numbers.clone(), self.scale.clone())

    def fill(self, feature: Tensor) -> None:
        """Overwrite with other features, row by row to save memory."""
        for numbers, scale, row in zip(self.numbers, self.scale, feature, strict=True):
            scale.copy_(row.abs().amax(-1, keepdim=True)).clamp_(min=LEAST).div_(MOST)
            numbers.copy_((row / scale).round_())


Feature = Tensor | Rounded
"""Features (h, w, C) of a frame."""


@dataclass(frozen=True)
class Found:
    """The k most similar pixels of each of h w pixels."""

    cosines: Tensor
    """(h w, k), unordered; -inf where there are fewer than k."""
    places: Tensor
    """(h w, k) int64, flat indices into the concatenated frames that were searched."""
    pixels: int
    """Number of pixels of these frames together."""


def most_similar(
    query: Feature, keys: Sequence[Feature], count: int, radius: float | None
) -> Found:
    """Find the `count` most similar pixels in all of some frames, for each pixel of `query`.

    Args:
        query: (h, w, C), features of unit length.
        keys: features (h, w, C) of the frames that are searched.
        count: number k of pixels.
        radius: only pixels closer than this are compared, in pixels of the features; None: all pixels.

    Raises:
        InputError: for frames of several sizes.
    """
    other = next((key.shape for key in keys if key.shape != query.shape), None)
    if other is not None:
        raise InputError(
            f"features {tuple(other)} and {tuple(query.shape)} (height, width, channels) are compared; give frames "
            "of one size."
        )
    device = query.numbers.device if isinstance(query, Rounded) else query.device
    search = _search_blocks if device.type == "cpu" else _search_strips
    height, width, _ = query.shape
    return Found(*search(query, keys, count, radius), len(keys) * height * width)


def _plain(feature: Feature) -> Tensor:
    return feature.restored() if isinstance(feature, Rounded) else feature


@dataclass(frozen=True)
class Votes:
    """The pixels from which each pixel of a frame takes its labels."""

    places: Tensor
    """(h w, k) int64, flat indices into the concatenated frames."""
    weights: Tensor
    """(h w, k), with a sum of 1."""

    def taken(self, labels: Tensor) -> Tensor:
        """The weighted labels (K, h w) from those of all frames (K, T h w)."""
        return (labels[:, self.places] * self.weights).sum(-1)


def vote(found: Sequence[Found], count: int, temperature: float) -> Votes:
    """Weight the most similar pixels of several searches by a softmax of their cosines.

    Args:
        found: the result of `most_similar` of each search.
        count: number of pixels that are taken from all searches together.
        temperature: divisor of the cosines.
    """
    cosines = torch.cat([one.cosines for one in found], 1)
    starts = accumulate((one.pixels for one in found), initial=0)
    places = torch.cat([one.places + start for one, start in zip(found, starts, strict=False)], 1)
    best, chosen = cosines.topk(min(count, cosines.shape[1]), sorted=False)
    return Votes(places.gather(1, chosen), (best / temperature).softmax(1))


def _search_blocks(
    query: Feature, keys: Sequence[Feature], count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """By compiled selection: a product of each block of queries with what their windows cover."""
    pixels = query.shape[0] * query.shape[1]
    values = np.full((pixels, count), -np.inf, np.float32)
    places = np.zeros((pixels, count), np.int64)
    if radius is None:
        for number, kept in enumerate(keys):
            _search_whole(query, kept, number * pixels, values, places)
    else:
        for number, key in enumerate(keys):
            _search_windows(query, key, radius, number * pixels, values, places)
    return torch.from_numpy(values), torch.from_numpy(places)


def _search_whole(
    query: Feature, key: Feature, offset: int, values: np.ndarray, places: np.ndarray
) -> None:
    """Improve `values` and `places` by a frame, some rows of keys and of queries at once."""
    height, width, channels = query.shape
    few, many = max(1, ROWS // width), max(1, KEYS // width)
    for first in range(0, height, many):
        around = _plain(key[first : first + many]).reshape(-1, channels)
        for top in range(0, height, few):
            block = _plain(query[top : top + few]).reshape(-1, channels)
            chosen = slice(top * width, top * width + len(block))
            products = (block @ around.T).numpy()
            _keep_best(products, offset + first * width, values[chosen], places[chosen])


def _search_windows(
    query: Feature,
    key: Feature,
    radius: float,
    offset: int,
    values: np.ndarray,
    places: np.ndarray,
) -> None:
    """The same by what is within reach; of the frame, only the rows that are in use are restored."""
    height, width, channels = query.shape
    reach, extents = _disk(radius)
    strips: dict[int, Tensor] = {}
    for top in range(0, height, BLOCK):
        first, last = max(0, top - reach), min(height, top + BLOCK + reach)
        used = range(first - first % BLOCK, last, BLOCK)
        strips = {at: strips[at] if at in strips else _plain(key[at : at + BLOCK]) for at in used}
        rows = [strip[max(0, first - at) : last - at] for at, strip in strips.items()]
        queries = _plain(query[top : top + BLOCK])
        for left in range(0, width, BLOCK):
            block, start = queries[:, left : left + BLOCK], max(0, left - reach)
            around = torch.cat([row[:, start : left + BLOCK + reach] for row in rows])
            products = block.reshape(-1, channels) @ around.reshape(-1, channels).T
            shaped = products.view(*block.shape[:2], *around.shape[:2]).numpy()
            _keep_best_near(shaped, top, left, first, start, extents, width, offset, values, places)


@functools.lru_cache(maxsize=4)
def _disk(radius: float) -> tuple[int, np.ndarray]:
    """The largest whole offset below `radius`, and for each row offset up to it the largest column offset."""
    reach = max(0, math.ceil(radius) - 1)
    extents = [math.ceil(math.sqrt(radius**2 - row**2)) - 1 for row in range(reach + 1)]
    return reach, np.array(extents, np.int64)


@numba.njit(cache=True, nogil=True)
def _keep_best(products: np.ndarray, offset: int, values: np.ndarray, places: np.ndarray) -> None:
    """Replace the least of each row's `values` (N, k) by better ones of `products` (N, M)."""
    for row in range(products.shape[0]):
        lowest = np.argmin(values[row])
        for column in range(products.shape[1]):
            if products[row, column] > values[row, lowest]:
                values[row, lowest] = products[row, column]
                places[row, lowest] = offset + column
                lowest = np.argmin(values[row])


@numba.njit(cache=True, nogil=True)
def _keep_best_near(
    products: np.ndarray,
    top: int,
    left: int,
    first: int,
    start: int,
    extents: np.ndarray,
    width: int,
    offset: int,
    values: np.ndarray,
    places: np.ndarray,
) -> None:
    """The same for a block of queries at (top, left) and the keys from (first, start), inside their disks.

    products  (rows, columns, key rows, key columns)
    extents   of the disk by row offset
    offset    of the frame's pixels among those of all frames
    """
    reach = len(extents) - 1
    for y in range(products.shape[0]):
        for x in range(products.shape[1]):
            best = values[(top + y) * width + left + x]
            best_places = places[(top + y) * width + left + x]
            lowest = np.argmin(best)
            centre_row, centre_column = top + y - first, left + x - start
            for row in range(
                max(0, centre_row - reach), min(products.shape[2], centre_row + reach + 1)
            ):
                extent = extents[abs(row - centre_row)]
                for column in range(
                    max(0, centre_column - extent),
                    min(products.shape[3], centre_column + extent + 1),
                ):
                    if products[y, x, row, column] > best[lowest]:
                        best[lowest] = products[y, x, row, column]
                        best_places[lowest] = offset + (first + row) * width + start + column
                        lowest = np.argmin(best)


def _search_strips(
    query: Feature, keys: Sequence[Feature], count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """By the device's own selection: strips of whole rows with the rows that their windows cover."""
    pixels = query.shape[0] * query.shape[1]
    plain = _plain(query)
    best = plain.new_full((pixels, count), -math.inf)
    places = torch.zeros_like(best, dtype=torch.int64)
    for number, key in enumerate(keys):
        values, found = _search_strip_by_strip(plain, _plain(key), count, radius)
        best, chosen = torch.cat([best, values], 1).topk(count, sorted=False)
        places = torch.cat([places, found + number * pixels], 1).gather(1, chosen)
    return best, places


def _search_strip_by_strip(
    query: Tensor, key: Tensor, count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """The best in one frame."""
    height, width, channels = query.shape
    reach = height if radius is None else _disk(radius)[0]
    found = []
    for top in range(0, height, BLOCK):
        block = query[top : top + BLOCK]
        first = max(0, top - reach)
        around = key[first : top + BLOCK + reach]
        products = block.reshape(-1, channels) @ around.reshape(-1, channels).T
        if radius is not None:
            apart = _distances(top, len(block), first, len(around), width, query.device)
            products.masked_fill_(apart >= radius**2, -math.inf)
        best, places = products.topk(min(count, products.shape[1]), sorted=False)
        missing = count - best.shape[1]
        best = torch.nn.functional.pad(best, (0, missing), value=-math.inf)
        found.append((best, torch.nn.functional.pad(places + first * width, (0, missing))))
    return torch.cat([best for best, _ in found]), torch.cat([places for _, places in found])


def _distances(
    top: int, rows: int, first: int, key_rows: int, width: int, device: torch.device
) -> Tensor:
    """Squared distances (rows w, key rows w) between the pixels of two strips of rows."""
    across = torch.arange(width, device=device)
    down = (
        torch.arange(rows, device=device)[:, None]
        + (top - first)
        - torch.arange(key_rows, device=device)
    )
    squared = down[:, None, :, None] ** 2 + (across[:, None] - across)[None, :, None, :] ** 2
    return squared.reshape(rows * width, key_rows * width)
