"""Frames by name, and the neighbours that make triplets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moduv.frames import layouts


@dataclass(frozen=True, order=True)
class FrameRef:
    """A frame of a segment: `train/segment-… 45` in a split file, its segment's 45th on disk."""

    segment: str
    index: int

    def line(self) -> str:
        """The frame's line in a split file."""
        return f"{self.segment} {self.index}"

    def file(self, root: str | Path, suffix: str) -> Path:
        """Where a file about this frame lies under `root`."""
        return Path(root) / self.segment / f"{self.index:06d}{suffix}"

    def image_path(self, root: str | Path, *, small: bool = False) -> Path:
        """The frame's image in whatever layout its segment has (see `frames.layouts`)."""
        return layouts.image_path(root, self.segment, self.index, small=small)

    def neighbour(self, offset: int) -> FrameRef:
        """The frame `offset` steps later in the same segment."""
        return FrameRef(self.segment, self.index + offset)


def with_neighbours(frames: Iterable[FrameRef], root: str | Path) -> tuple[list[FrameRef], int]:
    """Frames whose two neighbours exist, and how many were left out because they have not."""
    frames = list(frames)
    kept = [
        frame
        for frame in frames
        if all(frame.neighbour(offset).image_path(root).is_file() for offset in (-1, 0, 1))
    ]
    return kept, len(frames) - len(kept)
