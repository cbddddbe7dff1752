"""Names of tracks from their vectors: the likeliest word, unless it is of stuff or nothing fits."""

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
    """Least cosine of a track and its name; None: by leaving each name out, see `calibrate`."""
    quantile: float = 0.5
    """Of the cosines of tracks whose name is left out."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1 or not -1 <= (self.threshold or 0) <= 1:
            raise InputError(
                f"quantile is {self.quantile} and threshold {self.threshold}; use a quantile in [0, 1] and "
                "a cosine in [-1, 1], or no threshold."
            )


@dataclass(frozen=True)
class TrackName:
    """What a track is called."""

    track: int
    name: str | None
    """None: unknown."""
    score: float
    """Cosine to the likeliest name, or to the prototype that named it."""
    margin: float
    """By which the likeliest name leads the next."""
    group: str | None = None
    """Of an unknown track: the group of its like, or the stuff that it was taken for."""


def pool_tracks(embeddings: np.ndarray, tracks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Unit means (T, E) of the views of tracks 0 … T - 1, weighted.

    Args:
        embeddings: (N, E), unit.
        tracks: (N,) the track of each view; every track has one.
        weights: (N,) above 0, such as areas.
    """
    sums = np.zeros((int(tracks.max(initial=-1)) + 1, embeddings.shape[1]))
    np.add.at(sums, tracks, embeddings * np.asarray(weights, float)[:, None])
    return unit(sums)


def calibrate(cosines: np.ndarray, kinds: Sequence[str], quantile: float = 0.5) -> float:
    """The cosine under which a track is unknown, from the tracks themselves.

    Every name is left out in turn: how well do its tracks fit the names that remain? The `quantile` of
    that, averaged over the names, is where the known ends. No label and no negative is needed. -1 where
    there is nothing to learn from: no track, or one name.

    Args:
        cosines: (T, names) of tracks and names.
        kinds: of the names; tracks of stuff do not count.
        quantile: of each name's remaining cosines.
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
    """Name tracks by their vectors, the unknown ones by prototypes or in groups.

    Args:
        tracks: identities, T.
        embeddings: (T, E), unit.
        words: the vocabulary as the same encoder knows it.
        prototypes: looks that unknown tracks may have.
        config: threshold of the unknown.

    Returns:
        A name for each track, in order, and the threshold in force.
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
    """The nearest prototype that the vector is as close to as its own members are."""
    near = [(float(embedding @ p.vector), n) for n, p in enumerate(prototypes)]
    near = [(cosine, n) for cosine, n in near if cosine >= prototypes[n].least]
    if not near:
        return None
    cosine, n = max(near, key=lambda pair: (pair[0], -pair[1]))
    return prototypes[n], cosine
