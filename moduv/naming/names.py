"""Names of tracks from their embeddings: the most similar word, unless it is stuff or too dissimilar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moduv.engine.errors import InputError
from moduv.naming.encoders import unit
from moduv.naming.groups import Prototype, group_unknown
from moduv.naming.vocabulary import Words


@dataclass(frozen=True)
class NamesConfig:
    """When an object has a name."""

    threshold: float | None = None
    """Smallest cosine between a track and its name; None: found by leaving out each name in turn, see `calibrate`."""
    quantile: float = 0.5
    """Quantile of the cosines of tracks whose name is left out, for `calibrate`."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1 or not -1 <= (self.threshold or 0) <= 1:
            raise InputError(
                f"quantile is {self.quantile} and threshold {self.threshold}; use a quantile in [0, 1] and "
                "a cosine in [-1, 1], or no threshold."
            )


@dataclass(frozen=True)
class TrackName:
    """The name of a track."""

    track: int
    name: str | None
    """None: unknown."""
    score: float
    """Cosine to the most similar name, or to the prototype that named the track."""
    margin: float
    """Difference between the cosines of the two most similar names."""
    group: str | None = None
    """For an unknown track, its group, or the stuff that it is taken for."""


def pool_tracks(embeddings: np.ndarray, tracks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Normalised weighted means (T, E) of the views of tracks 0 … T - 1.

    Args:
        embeddings: (N, E), unit.
        tracks: (N,), the track of each view; every track has at least one view.
        weights: (N,), positive, such as areas.
    """
    sums = np.zeros((int(tracks.max(initial=-1)) + 1, embeddings.shape[1]))
    np.add.at(sums, tracks, embeddings * np.asarray(weights, float)[:, None])
    return unit(sums)


def calibrate(cosines: np.ndarray, kinds: Sequence[str], quantile: float = 0.5) -> float:
    """Find the cosine below which a track is unknown, from the tracks themselves.

    Each name is left out in turn, and the cosines of its tracks to the most similar of the remaining names are taken. The
    threshold is the `quantile` of these cosines, averaged over the names. It needs no labels and no negatives.

    Args:
        cosines: (T, names), between tracks and names.
        kinds: kind of each name; tracks of stuff do not count.
        quantile: of the cosines to the remaining names.

    Returns:
        The threshold; -1 without tracks, or with a single name.
    """
    best = cosines.argmax(1) if cosines.size else np.zeros(0, int)
    ends = []
    for name in range(cosines.shape[1]):
        own = cosines[best == name]
        if len(own) and kinds[name] != "stuff" and cosines.shape[1] > 1:
            ends.append(np.quantile(np.delete(own, name, 1).max(1), quantile))
    return float(np.mean(ends)) if ends else -1.0


def name_tracks(
    tracks: Sequence[int],
    embeddings: np.ndarray,
    words: Words,
    prototypes: Sequence[Prototype] = (),
    config: NamesConfig | None = None,
) -> tuple[list[TrackName], float]:
    """Name tracks by their embeddings; unknown ones are named by prototypes, or grouped.

    Args:
        tracks: (T,), identities.
        embeddings: (T, E), unit.
        words: the vocabulary, encoded by the same encoder.
        prototypes: named groups of earlier runs, for unknown tracks.
        config: threshold below which a track is unknown.

    Returns:
        A name for each track, in order, and the threshold that was used.
    """
    config = config or NamesConfig()
    cosines = words.cosines(embeddings)
    kinds = [entry.kind for entry in words.names]
    threshold = config.threshold
    if threshold is None:
        threshold = calibrate(cosines, kinds, config.quantile)
    found = [
        _decide(track, row, words, threshold) for track, row in zip(tracks, cosines, strict=True)
    ]
    unknown = [n for n, one in enumerate(found) if one.name is None and one.group is None]
    left = []
    for n in unknown:
        alike = _alike(embeddings[n], prototypes)
        if alike is None:
            left.append(n)
        else:
            prototype, cosine = alike
            found[n] = TrackName(found[n].track, prototype.name, cosine, found[n].margin)
    for n, group in zip(left, group_unknown(embeddings[left]), strict=True):
        one = found[n]
        found[n] = TrackName(one.track, None, one.score, one.margin, group)
    return found, threshold


def _decide(track: int, cosines: np.ndarray, words: Words, threshold: float) -> TrackName:
    order = np.argsort(-cosines, kind="stable")
    best = words.names[order[0]]
    score = float(cosines[order[0]])
    margin = score - float(cosines[order[1]]) if len(order) > 1 else 0.0
    if best.kind == "stuff":
        return TrackName(track, None, score, margin, best.name)
    return TrackName(track, best.name if score >= threshold else None, score, margin)


def _alike(
    embedding: np.ndarray, prototypes: Sequence[Prototype]
) -> tuple[Prototype, float] | None:
    """The most similar prototype among those to which the vector is at least as similar as their own members."""
    near = [(float(embedding @ p.vector), n) for n, p in enumerate(prototypes)]
    near = [(cosine, n) for cosine, n in near if cosine >= prototypes[n].least]
    if not near:
        return None
    cosine, n = max(near, key=lambda pair: (pair[0], -pair[1]))
    return prototypes[n], cosine
