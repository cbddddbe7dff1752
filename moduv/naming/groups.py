"""Groups of unknown objects that look alike; a group that a user has named becomes a prototype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_json
from moduv.naming.encoders import unit

CUTS = np.arange(0.02, 0.62, 0.02)
"""Mean cosine distances at which the dendrogram of tracks may be cut."""
SHOWN = 6
"""Number of pictures of a group: its medoid, then the nearest members."""


@dataclass(frozen=True)
class Prototype:
    """A name for objects that look like the members of a group."""

    name: str
    vector: np.ndarray
    """(E,), unit: the normalised mean of the group's members."""
    least: float
    """The smallest cosine between a member and `vector`."""


def group_unknown(embeddings: np.ndarray) -> list[str]:
    """Group unit vectors (N, E) by average linkage of cosine distances: `group_01` is the largest, …

    The dendrogram is cut where the silhouette (Rousseeuw 1987) is largest. If no cut has a positive silhouette, all vectors
    are one group.
    """
    if len(embeddings) < 2:
        return ["group_01"] * len(embeddings)
    distances = pdist(embeddings, "cosine").clip(0)
    tree, square = linkage(distances, "average"), squareform(distances)
    cuts = [fcluster(tree, cut, "distance") for cut in CUTS]
    values = [silhouette(square, labels) for labels in cuts]
    best = int(np.argmax(values))
    labels = cuts[best] if values[best] > 0 else np.ones(len(embeddings), int)
    kinds, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    names = {int(kinds[k]): f"group_{rank:02d}" for rank, k in enumerate(order, 1)}
    return [names[int(label)] for label in labels]


def silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """The mean silhouette of a grouping, from -1 to 1; it is 0 for members of groups of one.

    Args:
        distances: (N, N).
        labels: (N,), the group of each member.

    Returns:
        The mean; 0 where there is a single group, or as many groups as members.
    """
    kinds, owners = np.unique(labels, return_inverse=True)
    if not 1 < len(kinds) < len(labels):
        return 0.0
    sums = distances @ np.eye(len(kinds))[owners]
    counts = np.bincount(owners)
    rows = np.arange(len(labels))
    inner = sums[rows, owners] / np.maximum(counts[owners] - 1, 1)
    means = sums / counts
    means[rows, owners] = np.inf
    outer = means.min(1)
    values = (outer - inner) / np.maximum(np.maximum(outer, inner), 1e-12)
    return float(np.where(counts[owners] > 1, values, 0.0).mean())


def describe_groups(
    groups: Sequence[str | None], embeddings: np.ndarray, tracks: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The members and the prototype of every group.

    Args:
        groups: (T,), the group of each track, or None.
        embeddings: (T, E), unit.
        tracks: (T,), identities.

    Returns:
        By group: `tracks`, the medoid first and then by decreasing similarity to it; `vector` and `least`, see `Prototype`.
    """
    found = {}
    for group in sorted({group for group in groups if group}):
        members = np.flatnonzero([other == group for other in groups])
        vectors = embeddings[members]
        vector = unit(vectors.mean(0))
        cosines = vectors @ vector
        medoid = int((vectors @ vectors.T).sum(1).argmax())
        order = np.argsort(-(vectors @ vectors[medoid]), kind="stable")
        found[group] = {
            "tracks": [int(tracks[members[n]]) for n in order],
            "vector": [round(float(value), 7) for value in vector],
            # Embeddings of the same picture differ slightly between machines.
            "least": round(float(cosines.min()) - 1e-5, 7),
        }
    return found


def read_prototypes(
    named: Mapping[str, str], identity: Mapping[str, str], width: int
) -> list[Prototype]:
    """Read the groups that users have named.

    Args:
        named: references `GROUPS.json#group_01` by name.
        identity: of the encoder in use.
        width: length E of its embeddings.

    Raises:
        InputError: for a reference to no group, or to a group of another encoder.
    """
    return [_read_prototype(name, place, identity, width) for name, place in named.items()]


def _read_prototype(name: str, place: str, identity: Mapping[str, str], width: int) -> Prototype:
    file, _, group = place.rpartition("#")
    if not file:
        raise InputError(
            f"{name!r}: 'like' is {place!r:.120}; write the groups.json of an earlier naming, '#', and a group."
        )
    content = read_json(Path(file))
    groups = content.get("groups") if isinstance(content, dict) else None
    entry = groups.get(group) if isinstance(groups, dict) else None
    if not isinstance(entry, dict):
        raise InputError(f"{file}: has no group {group!r:.80}; name one that it lists.")
    if content.get("encoder") != dict(identity):
        raise InputError(
            f"{file}: its groups were made by another encoder; name the detections with this one first."
        )
    try:
        vector = np.asarray(entry["vector"], np.float64)
        least = float(entry["least"])
        whole = vector.shape == (width,) and np.isfinite([*vector, least]).all()
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{file}: {group!r} is no whole group; {MEND}.")
    return Prototype(name, vector, least)
