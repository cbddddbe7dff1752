"""From slots to named boxes without training: background removal and merging (Fan et al., ICCV 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SCALE = 100.0
"""Scale of the logits, as in CLIP."""
EPSILON = 1e-6
"""Added to the norm of a mask's feature."""
PATCH = 16
"""Side of a token in pixels."""


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts and their classes.

    Classes 0 … F - 1 are names, of which 0 is the literal "__background__": it may be the name of merged slots, but never
    makes a slot an object. The other classes are stuff.
    """

    vectors: np.ndarray
    """(P, E), unit."""
    classes: np.ndarray
    """(P,), the class of each prompt; several may share one."""
    names: tuple[str, ...]
    """Names of classes 0 … F - 1."""

    def class_logits(self, logits: np.ndarray) -> np.ndarray:
        """Logits (N, F) of the named classes from those of prompts (N, P): the largest over the prompts of each class."""
        columns = [logits[:, self.classes == number].max(1) for number in range(len(self.names))]
        return np.stack(columns, 1)


@dataclass(frozen=True)
class Localisation:
    """The results of every step from slots to boxes, for a clip of T frames of h x w tokens."""

    hard: np.ndarray
    """(T, h, w): the slot of each token."""
    nodes: list[int]
    """Slots with at least one token."""
    edges: list[tuple[int, int]]
    """Pairs of slots that touch."""
    logits: np.ndarray
    """(nodes, P), of slots and prompts."""
    kept: list[int]
    """Slots that are objects."""
    groups: list[list[int]]
    """Slots that are merged, ordered by the smallest of each group."""
    merged: np.ndarray
    """(groups, T, h, w) bool, the masks of the groups."""
    class_scores: np.ndarray
    """(groups, F), softmax over the names."""
    names: list[str]
    """The most probable name of each group."""
    boxes: np.ndarray
    """(T, groups, 4) XYXY, inclusive pixel indices; zeros where a group is not visible."""

    @property
    def removed(self) -> list[int]:
        """Slots that are background."""
        return [node for node in self.nodes if node not in self.kept]

    @property
    def name_scores(self) -> np.ndarray:
        """(groups,), the probability of the most probable name."""
        return self.class_scores.max(1)


def post_process(
    alphas: np.ndarray, patch_features: np.ndarray, prompts: Prompts, grid: tuple[int, int]
) -> Localisation:
    """Turn a decoder's alphas into named boxes.

    Args:
        alphas: (T, K, n), shares of K slots in n = h w tokens.
        patch_features: (T, n, E), text-aligned, of any norm.
        prompts: names and stuff.
        grid: h and w.
    """
    hard = alphas.argmax(1).reshape(len(alphas), *grid)
    nodes, owners = np.unique(hard, return_inverse=True)
    edges = contacts(hard)
    masks = np.eye(len(nodes), dtype=np.float32)[owners.ravel()].T
    features = masks @ patch_features.reshape(-1, patch_features.shape[-1])
    logits = mask_logits(features, prompts.vectors)
    kept = foreground(logits, prompts)
    classes = prompts.class_logits(features @ prompts.vectors.T).argmax(1)
    rows = {int(node): row for row, node in enumerate(nodes)}
    alike = [
        (rows[a], rows[b])
        for a, b in edges
        if kept[rows[a]] and kept[rows[b]] and classes[rows[a]] == classes[rows[b]]
    ]
    groups = [[int(row) for row in group] for group in merge(np.flatnonzero(kept), alike)]
    merged = np.stack([masks[group].sum(0) > 0 for group in groups])
    joined = np.stack([features[group].sum(0) for group in groups])
    class_logits = prompts.class_logits(mask_logits(joined, prompts.vectors))
    scores = softmax(class_logits)
    volumes = merged.reshape(len(groups), *hard.shape)
    return Localisation(
        hard=hard,
        nodes=nodes.tolist(),
        edges=edges,
        logits=logits,
        kept=nodes[kept].tolist(),
        groups=[nodes[group].tolist() for group in groups],
        merged=volumes,
        class_scores=scores,
        names=[prompts.names[number] for number in scores.argmax(1)],
        boxes=np.stack([token_boxes(volume) for volume in volumes], 1),
    )


def contacts(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of labels in (T, h, w) that are neighbours along time, rows, columns, or their common diagonals.

    As published, neighbours along the other diagonals do not count, so the contacts of a mirrored clip may differ.
    """
    found: set[tuple[int, int]] = set()
    for step in product((0, 1), repeat=3):
        before = labels[tuple(slice(None, -s or None) for s in step)].ravel()
        after = labels[tuple(slice(s, None) for s in step)].ravel()
        other = before != after
        pairs = np.stack([before[other], after[other]], 1)
        found |= {(min(a, b), max(a, b)) for a, b in np.unique(pairs, axis=0).tolist()}
    return sorted(found)


def mask_logits(features: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Logits (N, P) of summed patch features (N, E), which are normalised, and prompts (P, E)."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return SCALE * (features / (length + EPSILON)) @ text.T


def foreground(logits: np.ndarray, prompts: Prompts) -> np.ndarray:
    """Which masks are objects, (N,) bool: those whose largest logit is positive and that of a name.

    If there is none, the mask with the largest logit of a name is one, so that every clip has an object.
    """
    is_object = (prompts.classes > 0) & (prompts.classes < len(prompts.names))
    best = logits.argmax(1)
    kept = is_object[best] & (logits.max(1) > 0)
    if not kept.any():
        kept[logits[:, is_object].max(1).argmax()] = True
    return kept


def merge(rows: Sequence[int] | np.ndarray, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of rows that are connected by pairs, each ascending, ordered by their smallest row.

    With one prompt per class, this equals the published repeated contraction, in any order.
    """
    rows = np.asarray(rows, int)
    places = {int(row): place for place, row in enumerate(rows)}
    ends = np.array([[places[a], places[b]] for a, b in pairs], int).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(rows), len(rows)))
    owners = connected_components(graph, directed=False)[1]
    groups = [rows[owners == owner].tolist() for owner in np.unique(owners)]
    return sorted(groups)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in double precision."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def token_boxes(masks: np.ndarray, patch: int = PATCH) -> np.ndarray:
    """Boxes (N, 4) around masks (N, h, w) of tokens: inclusive XYXY in pixels; zeros for empty masks."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            low, high = (
                patch * np.array([columns[0], rows[0]]),
                patch * np.array([columns[-1], rows[-1]]),
            )
            box[:] = [*low, *(high + patch - 1)]
    return boxes


def association(alphas: np.ndarray) -> np.ndarray:
    """How often two tokens share a slot, (T n, T n), as a share of the seeds of alphas (seeds, T, K, n)."""
    slots = alphas.argmax(2).reshape(len(alphas), -1)
    return (slots[:, :, None] == slots[:, None]).mean(0, dtype=np.float32)
