"""Which pixels of another frame look most like each pixel of this one: windows in blocks, or the whole frame."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""Side of a block of queries. Its windows are one matrix product: larger blocks multiply more that no window
holds, smaller ones make products too small to be fast."""
ROWS = 256
"""Queries at once where the whole frame is searched."""


def most_similar(
    query: Tensor, key: Tensor, count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """The `count` most similar pixels of `key` for each pixel of `query`.

    Args:
        query: (h, w, C) features of unit length.
        key: (h, w, C), of another frame.
        count: k.
        radius: only pixels nearer than this count, in pixels of the features; None: all.

    Returns:
        Cosines (h w, k) in no order, -inf where the window has fewer pixels, and places (h w, k) int64 in
        the flat frame.
    """
    if query.device.type == "cpu":
        return _search_blocks(query, key, count, radius)
    return _search_strips(query, key, count, radius)


@dataclass(frozen=True)
class Votes:
    """Which pixels of some frames each pixel of another one takes its labels from."""

    places: Tensor
    """(h w, k) int64, in the flat frames one after the other."""
    weights: Tensor
    """(h w, k); their sum is 1."""

    def taken(self, labels: Tensor) -> Tensor:
        """The weighted labels (K, h w) of the pixels chosen among those of all the frames (K, T h w)."""
        return (labels[:, self.places] * self.weights).sum(-1)


def vote(found: Sequence[tuple[Tensor, Tensor]], count: int, temperature: float) -> Votes:
    """The best of what `most_similar` has found in several frames, weighted by a softmax of their cosines.

    Args:
        found: cosines and places (h w, k) in each frame.
        count: of the best in all frames together.
        temperature: by which cosines are divided.
    """
    pixels = len(found[0][0])
    cosines = torch.cat([values for values, _ in found], 1)
    places = torch.cat([at + i * pixels for i, (_, at) in enumerate(found)], 1)
    best, chosen = cosines.topk(min(count, cosines.shape[1]), sorted=False)
    return Votes(places.gather(1, chosen), (best / temperature).softmax(1))


def _search_blocks(
    query: Tensor, key: Tensor, count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """By compiled selection: a product of each block of queries with what their windows cover."""
    height, width, channels = query.shape
    values = np.full((height * width, count), -np.inf, np.float32)
    places = np.zeros((height * width, count), np.int64)
    if radius is None:
        for start in range(0, height * width, ROWS):
            rows = slice(start, start + ROWS)
            products = query.reshape(-1, channels)[rows] @ key.reshape(-1, channels).T
            _keep_best(products.numpy(), values[rows], places[rows])
        return torch.from_numpy(values), torch.from_numpy(places)
    reach, extents = _disk(radius)
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            block = query[top : top + BLOCK, left : left + BLOCK]
            first, start = max(0, top - reach), max(0, left - reach)
            around = key[first : top + BLOCK + reach, start : left + BLOCK + reach]
            products = block.reshape(-1, channels) @ around.reshape(-1, channels).T
            shaped = products.view(*block.shape[:2], *around.shape[:2]).numpy()
            _keep_best_near(shaped, top, left, first, start, extents, width, values, places)
    return torch.from_numpy(values), torch.from_numpy(places)


@functools.lru_cache(maxsize=4)
def _disk(radius: float) -> tuple[int, np.ndarray]:
    """The largest whole offset below `radius`, and for each row offset up to it the largest column offset."""
    reach = max(0, math.ceil(radius) - 1)
    extents = [math.ceil(math.sqrt(radius**2 - row**2)) - 1 for row in range(reach + 1)]
    return reach, np.array(extents, np.int64)


@numba.njit(cache=True, nogil=True)
def _keep_best(products: np.ndarray, values: np.ndarray, places: np.ndarray) -> None:
    """Replace the least of each row's `values` (N, k) by better ones of `products` (N, M)."""
    for row in range(products.shape[0]):
        lowest = np.argmin(values[row])
        for column in range(products.shape[1]):
            if products[row, column] > values[row, lowest]:
                values[row, lowest] = products[row, column]
                places[row, lowest] = column
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
    values: np.ndarray,
    places: np.ndarray,
) -> None:
    """The same for a block of queries at (top, left) and the keys from (first, start), inside their disks.

    products  (rows, columns, key rows, key columns)
    extents   of the disk by row offset
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
                        best_places[lowest] = (first + row) * width + start + column
                        lowest = np.argmin(best)


def _search_strips(
    query: Tensor, key: Tensor, count: int, radius: float | None
) -> tuple[Tensor, Tensor]:
    """By the device's own selection: strips of whole rows with the rows that their windows cover."""
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
