"""Identities for a label set: which labels of a clip's frames are of one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moduv.correspondence.tracks import MaskTrackConfig, MaskTracker
from moduv.engine import distributed
from moduv.engine.log import progress, say
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split
from moduv.instances.store import SUFFIX, labelled_clips, read_labels, write_labels
from moduv.instances.tracks import FrameTracker, TrackConfig, Tracker
from moduv.rounds.relabelling import load_follower, relabelling_stage


@dataclass(frozen=True)
class TrackedConfig:
    """How objects are told apart."""

    boxes: TrackConfig = field(default_factory=TrackConfig)
    """Without a correspondence network."""
    masks: MaskTrackConfig = field(default_factory=MaskTrackConfig)
    """With one."""


def track_labels(
    labels: Path,
    split: Path,
    data: Path,
    out: Path,
    config: TrackedConfig,
    follow: Path | None = None,
) -> None:
    """Give the labels of each clip's frames identities, which count from 1 in every clip.

    Args:
        labels: label root.
        split: frames to go through, clip by clip; those without labels are counted and left out.
        data: folder of the frames.
        out: label root; receives the same labels with a `track_id` for each.
        config: how objects are told apart.
        follow: weights of a correspondence network; identities are then by propagated masks, and otherwise by
            the overlap of boxes.

    Raises:
        InputError: when labels, frames or weights are missing or broken; clips that are done are kept.
    """
    stage = relabelling_stage("labels track", labels, split, data, out, config, follow)
    stage.run(lambda: _track(labels, split, data, out, config, follow))


def _track(
    labels: Path, split: Path, data: Path, out: Path, config: TrackedConfig, follow: Path | None
) -> dict[str, Any]:
    clips = labelled_clips(labels, read_split(split))
    share = [clip for clip in distributed.shard(clips) if not _is_finished(clip, out)]
    make = _maker(config, follow)
    for clip in progress(share, desc="labels track", total=len(share), unit="clip"):
        for frame, found in _tracked(clip, labels, data, make()):
            write_labels(out, frame, found)
    distributed.barrier()
    tracks = sum(_count_tracks(clip, out) for clip in clips)
    frames = sum(map(len, clips))
    say(f"  {tracks} objects in {len(clips)} clips of {frames} frames: {out}")
    return {"frames": frames, "clips": len(clips), "objects": tracks}


def _is_finished(clip: list[FrameRef], out: Path) -> bool:
    return all(frame.file(out, SUFFIX).is_file() for frame in clip)


def _maker(config: TrackedConfig, follow: Path | None) -> Callable[[], FrameTracker]:
    """What makes a clip's tracker."""
    if follow is None:
        return lambda: Tracker(config.boxes)
    follower = load_follower(follow)
    return lambda: MaskTracker(follower, config.masks)


def _tracked(
    clip: list[FrameRef], labels: Path, data: Path, tracker: FrameTracker
) -> Iterator[tuple[FrameRef, Any]]:
    for frame in clip:
        image = read_image(frame.image_path(data))
        found = read_labels(labels, frame, image.shape)
        yield frame, found.with_columns(track=tracker.assign(image, found))


def _count_tracks(clip: list[FrameRef], out: Path) -> int:
    """Identities count from 1, so the highest is their number."""
    found = [read_labels(out, frame).columns["track"] for frame in clip]
    return max((int(tracks.max(initial=0)) for tracks in found), default=0)
