"""What measured flow, depth and pixels are wrong by, estimated from the data themselves.

Most pixels of a street stand still. So robust spreads over all pixels tell the errors, whatever moves and
without ground truth: the median of a normal error's size is 0.6745 standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from moduv.engine.errors import InputError
from moduv.frames.flow import follow
from moduv.labels.evidence.ego import EgoFlow
from moduv.labels.evidence.noise import Noise

TO_DEVIATION = 1.4826
"""From the median of a normal error's size to its standard deviation."""
BINS = 8
"""Along each quantity that errors grow with."""
FEWEST = 50
"""Pixels of a bin that tell a spread."""
LEAST_FLOW, LEAST_GREY = 0.02, 0.5
"""Errors, pixels and grey levels, that no measurement on 8 bits is better than."""


@dataclass(frozen=True)
class Residuals:
    """What measured flow and ego flow of some pixels (N,) differ by, and what that depends on."""

    along: np.ndarray
    """Along the epipolar line, pixels."""
    across: np.ndarray
    """Across it, pixels."""
    parallax: np.ndarray
    """Pixels."""
    lever: np.ndarray
    """Parallax that a point in unit depth would have, pixels."""
    round_trip: np.ndarray
    """By what flow misses its start, pixels."""
    grey: np.ndarray
    """Difference of grey levels along measured flow."""

    @classmethod
    def concatenate(cls, parts: Sequence[Residuals]) -> Residuals:
        names = ("along", "across", "parallax", "lever", "round_trip", "grey")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def residuals(
    flow: np.ndarray,
    error: np.ndarray,
    ego: EgoFlow,
    depth: np.ndarray,
    frame: np.ndarray,
    neighbour: np.ndarray,
) -> Residuals:
    """Residuals of all pixels of a frame.

    Args:
        flow: (H, W, 2), measured.
        error: (H, W), of flow there and back.
        ego: ego flow with the refined pose.
        depth: (H, W).
        frame, neighbour: (H, W), grey levels.
    """
    seen = np.isfinite(ego.flow).all(2)
    left = np.where(seen[..., None], flow - ego.flow, 0)
    parallax = np.linalg.norm(ego.parallax, axis=2)
    u, v = np.moveaxis(ego.parallax / np.maximum(parallax, 1e-6)[..., None], 2, 0)
    return Residuals(
        along=(left[..., 0] * u + left[..., 1] * v)[seen],
        across=(left[..., 1] * u - left[..., 0] * v)[seen],
        parallax=parallax[seen],
        lever=(parallax * depth)[seen],
        round_trip=error[seen],
        grey=(frame - follow(neighbour, flow))[seen],
    )


def estimate_noise(found: Residuals) -> Noise:
    """The errors that residuals of mostly static pixels show.

    Squared spreads are fitted, without negative terms, by flow^2 + (round_trip e)^2 + (across p)^2 across the
    epipolar line and by the same flow error, (relative p)^2 and (inverse_depth l)^2 along it, over bins of
    round-trip error e, parallax p and lever l.

    Raises:
        InputError: when there are too few pixels whose flow comes back.
    """
    known = np.isfinite(found.round_trip)
    if known.sum() < FEWEST * BINS:
        raise InputError(
            f"measured flow: only {int(known.sum())} pixels have a way back; give frames that follow one another."
        )
    e, p, lever = found.round_trip[known], found.parallax[known], found.lever[known]
    spreads, terms = _spreads(found.across[known], (e, p), (np.ones_like(e), e, p))
    flow, round_trip, across = _fit(spreads, terms)
    flow = max(flow, LEAST_FLOW)
    # Where flow is good, what is left along the line is depth's.
    good = e <= np.median(e)
    e, p, lever = e[good], p[good], lever[good]
    spreads, terms = _spreads(found.along[known][good], (p, lever), (e, p, lever))
    left = np.maximum(spreads - flow**2 - round_trip**2 * terms[:, 0], 0)
    relative, inverse_depth = _fit(left, terms[:, 1:], spreads)
    grey = max(LEAST_GREY, TO_DEVIATION * float(np.median(np.abs(found.grey))))
    return Noise(flow, round_trip, relative, inverse_depth, across, grey)


def _spreads(
    errors: np.ndarray, axes: tuple[np.ndarray, np.ndarray], terms: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Squared spread (B,) of errors and squared medians (B, terms) in bins of two quantities."""
    spreads, squares = [], []
    first = _bins(axes[0])
    for one in range(BINS):
        inside = np.flatnonzero(first == one)
        second = _bins(axes[1][inside]) if len(inside) else first[:0]
        for other in range(BINS):
            chosen = inside[second == other]
            if len(chosen) >= FEWEST:
                spreads.append((TO_DEVIATION * np.median(np.abs(errors[chosen]))) ** 2)
                squares.append([np.median(term[chosen]) ** 2 for term in terms])
    return np.array(spreads), np.array(squares).reshape(-1, len(terms))


def _bins(values: np.ndarray) -> np.ndarray:
    """Bin of every value, 0 to BINS - 1, all of about the same size."""
    limits = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(limits, values)


def _fit(spreads: np.ndarray, terms: np.ndarray, scale: np.ndarray | None = None) -> list[float]:
    """Roots of the factors, 0 or more, of the terms (B, n) whose sums are nearest to the spreads (B,)."""
    weights = 1 / np.sqrt(np.maximum(spreads if scale is None else scale, 1e-8))
    factors, _ = nnls(terms * weights[:, None], spreads * weights)
    return [float(root) for root in np.sqrt(factors)]
