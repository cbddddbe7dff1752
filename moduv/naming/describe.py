"""Names for objects in images and videos: views are cropped, encoded, pooled over tracks, and named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.instances.instances import Instances
from moduv.instances.rle import Rle, area
from moduv.naming.encoders import Encoder
from moduv.naming.groups import SHOWN, describe_groups, read_prototypes
from moduv.naming.names import NamesConfig, TrackName, name_tracks, pool_tracks
from moduv.naming.regions import VIEWS, choose_views, crop_object
from moduv.naming.vocabulary import Vocabulary

BATCH = 64
"""Largest number of crops that are encoded at once."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class NamingConfig:
    """How detections are named."""

    score: float = 0.5
    """Detections with a score above this are named, and so are those without a score."""
    views: int = VIEWS
    """Largest number of views per track."""
    names: NamesConfig = field(default_factory=NamesConfig)
    """When a track has a name."""
    workers: int = speed_only(2)
    """Threads that decode images."""

    def __post_init__(self) -> None:
        if self.views < 1 or self.workers < 1:
            raise InputError("name: use at least one view a track and one worker.")


@dataclass(frozen=True)
class Seen:
    """An object in one image."""

    image: Hashable
    """Key of the image."""
    frame: int
    """Index of the image in its video."""
    track: Hashable
    """Key of the track; the same for all views of an object."""
    mask: Rle
    box: tuple[float, float, float, float]
    """XYXY in pixels of the mask's size."""


@dataclass(frozen=True)
class Naming:
    """The names of objects."""

    names: dict[Hashable, TrackName]
    """By track; `TrackName.track` is the track's number."""
    threshold: float
    groups: dict[str, dict[str, Any]]
    """Groups of unknown tracks, see `describe_groups`."""
    pictures: dict[str, list[np.ndarray]]
    """Crops (S, S, 3) of each group: the best view of its medoid, then of the nearest tracks."""
    header: dict[str, Any]
    """What the names depend on: vocabulary, encoder, threshold and number of views."""


Frames = Callable[[list[Hashable]], Iterable[tuple[Hashable, np.ndarray]]]
"""Reads the images (H, W, 3) uint8 of some keys, each once, in any order."""


def name_objects(
    seen: Sequence[Seen],
    frames: Frames,
    vocabulary: Vocabulary,
    encoder: Encoder,
    config: NamingConfig | None = None,
) -> Naming:
    """Name objects, with one name per track.

    Args:
        seen: the objects; a track is one object in several images.
        frames: reads images.
        vocabulary: the possible names.
        encoder: encodes views and words.
        config: views and threshold.

    Returns:
        The names by track, and groups of the unknown ones.

    Raises:
        InputError: for prototypes of another encoder, and masks that do not fit their images.
    """
    config = config or NamingConfig()
    words = vocabulary.encode(encoder)
    like = {entry.name: entry.like for entry in vocabulary.names if entry.like}
    prototypes = read_prototypes(like, encoder.identity, words.vectors.shape[1])
    tracks: dict[Hashable, list[Seen]] = defaultdict(list)
    for one in seen:
        tracks[one.track].append(one)
    views = {track: _views(members, config.views) for track, members in tracks.items()}
    shown = [track for track in tracks if views[track]]
    chosen = [(n, one) for n, track in enumerate(shown) for one in views[track]]
    embeddings, best = _embed(chosen, frames, encoder)
    named, threshold = name_tracks(range(len(shown)), embeddings, words, prototypes, config.names)
    names = dict(zip(shown, named, strict=True))
    numbered = [one.group if _is_unknown(one, words.names) else None for one in named]
    groups = describe_groups(numbered, embeddings, range(len(shown)))
    pictures = {
        group: [best[track] for track in entry["tracks"][:SHOWN]] for group, entry in groups.items()
    }
    header = {
        "vocabulary_sha256": vocabulary.digest,
        "encoder": encoder.identity,
        "threshold": round(threshold, 6),
        "views": config.views,
    }
    return Naming(names, threshold, groups, pictures, header)


def _is_unknown(one: TrackName, names: Sequence[Any]) -> bool:
    return one.name is None and one.group not in {entry.name for entry in names}


def _views(members: Sequence[Seen], limit: int) -> list[Seen]:
    frames = [one.frame for one in members]
    boxes = np.array([one.box for one in members], float).reshape(-1, 4)
    sizes = [(int(one.mask["size"][0]), int(one.mask["size"][1])) for one in members]
    areas = [area(one.mask) for one in members]
    return [members[n] for n in choose_views(frames, boxes, areas, sizes, limit)]


def _embed(
    chosen: Sequence[tuple[int, Seen]], frames: Frames, encoder: Encoder
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Vectors of the tracks (T, E), and the crop of each track's largest view."""
    by_image: dict[Hashable, list[int]] = defaultdict(list)
    for position, (_, one) in enumerate(chosen):
        by_image[one.image].append(position)
    weights = np.array([area(one.mask) for _, one in chosen], float)
    vectors: list[np.ndarray] = [np.zeros(0)] * len(chosen)
    largest: dict[int, tuple[float, np.ndarray]] = {}
    for batch in _batches(_crops(chosen, by_image, frames, encoder.size)):
        found = encoder.images([crop for _, crop in batch])
        for (position, crop), vector in zip(batch, found, strict=True):
            vectors[position] = vector
            track = chosen[position][0]
            if track not in largest or weights[position] > largest[track][0]:
                largest[track] = weights[position], crop
    if not chosen:
        return np.zeros((0, encoder.images([]).shape[1])), {}
    tracks = np.array([track for track, _ in chosen])
    pooled = pool_tracks(np.stack(vectors), tracks, weights)
    return pooled, {track: crop for track, (_, crop) in largest.items()}


def _crops(
    chosen: Sequence[tuple[int, Seen]],
    by_image: dict[Hashable, list[int]],
    frames: Frames,
    size: int,
) -> Iterator[tuple[int, np.ndarray]]:
    for key, image in frames(list(by_image)):
        for position in by_image[key]:
            one = chosen[position][1]
            found = Instances([one.mask], np.array([one.box]))
            found.check_aspect(image.shape, f"image {key}")
            fitted = found.resized(*image.shape[:2])
            yield position, crop_object(image, fitted.masks[0], fitted.boxes[0].tolist(), size)


def _batches(
    crops: Iterator[tuple[int, np.ndarray]],
) -> Iterator[list[tuple[int, np.ndarray]]]:
    while batch := list(islice(crops, BATCH)):
        yield batch
