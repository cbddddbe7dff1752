"""Labels carried to frames without labels: the first and last of a clip, and gaps beside labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from moduv.correspondence.carrying import FeatureWay
from moduv.correspondence.predict import Follower
from moduv.correspondence.propagation import PropagationConfig
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.log import progress, say
from moduv.frames.clip import FrameRef
from moduv.frames.flow import InverseSearch
from moduv.frames.images import read_image, resize_image
from moduv.frames.splits import SPLIT, read_split, write_split
from moduv.instances.store import SUFFIX, labelled_clips, read_labels, statistics, write_labels
from moduv.labels.carried import CarryConfig, FlowWay, Way, carry, join
from moduv.rounds.relabelling import load_follower, relabelling_stage

LARGEST = 320
"""Shorter side, pixels, of the frames on which flow is measured at most, as for L0 of the published size."""
COUNTS = "carried.json"
"""What became of a clip's labels, in its folder; written last, so it marks the clip as done."""
CARRIED, ALONE = "carried", "frames that no label reached"

FindWay = Callable[[np.ndarray, np.ndarray, tuple[int, int]], Way]
"""Finds the way of masks of a size (H, W) from one image (H, W, 3) uint8 RGB to another."""


@dataclass(frozen=True)
class CarriedConfig:
    """How labels get to neighbouring frames."""

    carry: CarryConfig = field(default_factory=CarryConfig)
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    """How a correspondence network finds the way, where one is given."""


def propagate_labels(
    labels: Path,
    split: Path,
    data: Path,
    out: Path,
    config: CarriedConfig,
    follow: Path | None = None,
) -> None:
    """Carry labels to the neighbouring frames that have none.

    Args:
        labels: label root, such as L0 or L1.
        split: frames with labels, or some of them; their neighbours need not be in it.
        data: folder of the frames.
        out: label root; receives the same labels, those that were carried, and `files.txt`, a split file
            of all frames that have labels now.
        config: which carried labels are kept.
        follow: weights of a correspondence network, by whose features labels are carried; without, by optical
            flow.

    Raises:
        InputError: when labels, frames or weights are missing or broken; clips that are done are kept.
    """
    stage = relabelling_stage("labels propagate", labels, split, data, out, config, follow)
    stage.run(lambda: _propagate(labels, split, data, out, config, follow))


def _propagate(
    labels: Path, split: Path, data: Path, out: Path, config: CarriedConfig, follow: Path | None
) -> dict[str, Any]:
    clips = labelled_clips(labels, read_split(split))
    _check_frames(clips, split, data)
    share = [clip for clip in distributed.shard(clips) if not _counts(clip, out).is_file()]
    find: FindWay = _by_flow
    if follow is not None:
        follower = load_follower(follow)
        find = partial(_by_features, follower, config.propagation)
    for clip in progress(share, desc="labels propagate", total=len(share), unit="clip"):
        _carry_clip(clip, labels, data, out, config.carry, find)
    distributed.barrier()
    frames = [frame for clip in clips for frame in clip]
    known = [frame for frame in _and_neighbours(frames) if frame.file(out, SUFFIX).is_file()]
    if distributed.is_main():
        write_split(out / SPLIT, known)
    counts = Counter[str]()
    for clip in clips:
        counts.update(read_json(_counts(clip, out)))
    added, numbers = len(known) - len(frames), statistics(out, known)
    carried = counts.pop(CARRIED, 0)
    dropped = "".join(f"; {count} {reason}" for reason, count in sorted(counts.items()))
    say(f"  {carried} labels carried to {added} frames{dropped}: {out}")
    return {**numbers, "new_frames": added, "carried": carried, "dropped": counts}


def _check_frames(clips: Sequence[Sequence[FrameRef]], split: Path, data: Path) -> None:
    """Raise InputError when no labelled frame has an image: there are no neighbours to carry labels to then."""
    frames = [frame for clip in clips for frame in clip]
    if not any(frame.image_path(data).is_file() for frame in frames):
        raise InputError(
            f"{data}: has no image of the {len(frames)} labelled frames of {split}, such as "
            f"{frames[0].image_path(data)}; check --data."
        )


def _counts(clip: Sequence[FrameRef], out: Path) -> Path:
    return out / clip[0].segment / COUNTS


def _carry_clip(
    clip: Sequence[FrameRef],
    labels: Path,
    data: Path,
    out: Path,
    config: CarryConfig,
    find: FindWay,
) -> None:
    """Write a clip's labels and those of the frames beside them."""
    known = {frame: read_labels(labels, frame) for frame in clip}
    read = lru_cache(maxsize=3)(lambda frame: read_image(frame.image_path(data)))
    counts = Counter[str]()
    for frame in _and_neighbours(clip):
        if frame in known:
            write_labels(out, frame, known[frame])
            continue
        if frame.file(labels, SUFFIX).is_file() or not frame.image_path(data).is_file():
            continue
        beside = {n: known[n] for n in map(frame.neighbour, (-1, 1)) if n in known}
        parts = [
            carry(found, find(read(other), read(frame), found.size), config)
            for other, found in beside.items()
            if found.size is not None
        ]
        found = join(parts) if parts else next(iter(beside.values()))
        counts.update({CARRIED: len(found)})
        for part in parts:
            counts.update(part.dropped)
        if parts and not len(found):
            counts[ALONE] += 1
        else:
            write_labels(out, frame, found)
    write_json(_counts(clip, out), counts)


def _and_neighbours(frames: Iterable[FrameRef]) -> list[FrameRef]:
    """Frames and those beside them, in order."""
    every = {frame.neighbour(offset) for frame in frames for offset in (-1, 0, 1)}
    return sorted(frame for frame in every if frame.index >= 0)


def _by_flow(image: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> Way:
    """How masks of `size` (H, W) get from an image to another one by measured optical flow."""
    method, share = InverseSearch(), min(1.0, LARGEST / min(size))
    height, width = (round(share * side) for side in size)
    before, after = (method.prepare(one, height, width) for one in (image, other))
    scale = np.array([size[1] / width, size[0] / height], np.float32)
    forward, backward = (
        resize_image(method.measure(*pair), *size) * scale
        for pair in ((before, after), (after, before))
    )
    return FlowWay(forward, backward)


def _by_features(
    follower: Follower,
    config: PropagationConfig,
    image: np.ndarray,
    other: np.ndarray,
    size: tuple[int, int],
) -> Way:
    """The same by what looks alike."""
    return FeatureWay.between(follower.features(image), follower.features(other), config)
