"""L2: the predictions of the large-scale and the small-scale detector, merged (MOD-UV, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moduv.instances.instances import Instances, Predictions
from moduv.labels import bits


@dataclass(frozen=True)
class AggregationConfig:
    """How the predictions of two detectors are merged; the defaults are the published values."""

    match_iou: float = 0.5
    """Pairs with a greater mask IoU are the same object; the better score survives."""
    self_filter: float = 0.75
    """A large mask is dropped when larger ones cover more of it than this; a small mask when smaller
    ones do."""
    cross_filter: float = 0.5
    """An unmatched mask is dropped when the other detector covers this much of it."""


def aggregate_predictions(
    large: Predictions,
    small: Predictions,
    config: AggregationConfig | None = None,
    *,
    mask_threshold: float = 0.5,
    **overrides: Any,
) -> Instances:
    """Merge the predictions of two detectors on the same frame, by default as the reference does.

    Args:
        large: of the detector trained at full scale, sorted by score.
        small: of the detector trained on shrunken frames, sorted by score.
        config: parameters of the merge; None: the published ones.
        mask_threshold: pixels above it belong to the resulting mask.
        **overrides: single parameters of `AggregationConfig`.

    Returns:
        Matched large, matched small, remaining large, remaining small; each in its detector's order.

    Raises:
        InputError: when the soft masks hold numbers that are not finite.
        ValueError: when the two detectors' masks are of different sizes.
    """
    config = replace(config or AggregationConfig(), **overrides)
    packed_large, packed_small = (
        bits.pack(found.crops, found.size, mask_threshold) for found in (large, small)
    )
    if packed_large.shape != packed_small.shape:
        raise ValueError(f"masks of {packed_large.shape} and of {packed_small.shape}")
    kept_large = clean(packed_large, config.self_filter, by_larger=True)
    kept_small = clean(packed_small, config.self_filter, by_larger=False)
    bits_large, bits_small = packed_large.binary[kept_large], packed_small.binary[kept_small]
    won_large, won_small, met_large, met_small = match(
        bits.iou(bits_large, bits_small),
        large.scores.float().cpu().numpy()[kept_large],
        small.scores.float().cpu().numpy()[kept_small],
        config.match_iou,
    )
    rest_large = [i for i in range(len(kept_large)) if i not in met_large]
    rest_small = [i for i in range(len(kept_small)) if i not in met_small]
    winners = bits.union(bits_large[won_large]) | bits.union(bits_small[won_small])
    rest_large = _uncovered(bits_large, rest_large, bits.union(bits_small), config.cross_filter)
    taken = winners | bits.union(bits_large[rest_large])
    rest_small = _uncovered(bits_small, rest_small, taken, config.cross_filter)
    parts = [
        (large, kept_large[won_large]),
        (small, kept_small[won_small]),
        (large, kept_large[rest_large]),
        (small, kept_small[rest_small]),
    ]
    return Instances.concatenate([_select(*part, mask_threshold) for part in parts])


def clean(packed: bits.PackedMasks, self_filter: float, *, by_larger: bool) -> np.ndarray:
    """Positions of the masks that the larger (or smaller) ones do not cover, in order.

    A mask is compared with all larger (or smaller) ones, also with those that are dropped themselves;
    of masks of equal size the first goes for the larger (or smaller). As in the reference, the cover is the
    number of pixels where both soft masks are not zero, nearly their boxes, over the sum of the soft mask.
    It can exceed 1, and neighbours whose boxes overlap are dropped.
    """
    taken = np.zeros(packed.support.shape[1], np.uint64)
    kept = np.ones(len(packed.support), bool)
    for position in np.argsort(-packed.mass if by_larger else packed.mass, kind="stable"):
        mask, mass = packed.support[position], packed.mass[position]
        # An empty mask is covered by nothing, as in the reference, where 0 / 0 exceeds no limit.
        if mass > 0:
            kept[position] = bits.common(mask, taken) / mass <= self_filter
        taken |= mask
    return np.flatnonzero(kept)


def match(
    iou: np.ndarray, scores_large: np.ndarray, scores_small: np.ndarray, match_iou: float
) -> tuple[list[int], list[int], set[int], set[int]]:
    """Pair masks by IoU (L, S), best first, while it exceeds `match_iou`.

    A pair uses up neither mask: one with two partners may win against the first
    and lose against the second, and both winners are kept, as the reference does.

    Returns:
        Winners among the large and small masks, in order, and the masks that met any partner.
    """
    iou = iou.copy()
    won_large, won_small, met_large, met_small = (set[int]() for _ in range(4))
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
    masks: np.ndarray, candidates: list[int], union: np.ndarray, limit: float
) -> list[int]:
    """Candidates of which less than `limit` lies under `union`; empty masks are left out."""
    kept = []
    for position in candidates:
        area = bits.common(masks[position], masks[position])
        if area and bits.common(masks[position], union) / area < limit:
            kept.append(position)
    return kept


def _select(found: Predictions, positions: np.ndarray, mask_threshold: float) -> Instances:
    boxes = found.boxes.float().cpu().numpy().reshape(-1, 4)[positions]
    scores = found.scores.float().cpu().numpy()[positions]
    masks = [found.crops[position].encode(mask_threshold, found.size) for position in positions]
    return Instances(masks, boxes, scores, found.size)
