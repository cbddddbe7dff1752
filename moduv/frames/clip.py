"""Frames by name, and the neighbours that make triplets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, order=True)
class FrameRef:
    """A frame of a segment: `train/segment-… 45` in a split file, `NNNNNN.jpg` on disk."""

    segment: str
    index: int

    def line(self) -> str:
        """The frame's line in a split file."""
        return f"{self.segment} {self.index}"

    def file(self, root: str | Path, suffix: str) -> Path:
        """Where a file about this frame lies under `root`."""
        return Path(root) / self.segment / f"{self.index:06d}{suffix}"

    def image_path(self, root: str | Path) -> Path:
        """The frame's image: the first suffix that exists, `.jpg` where none does."""
        candidates = [self.file(root, suffix) for suffix in IMAGE_SUFFIXES]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def neighbour(self, offset: int) -> FrameRef:
        """The frame `offset` steps later in the same segment."""
        return FrameRef(self.segment, self.index + offset)


def list_frames(root: str | Path, segment: str) -> list[FrameRef]:
    """All numbered frames of a segment folder, in order."""
    folder = Path(root) / segment
    stems = {
        p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.stem.isdigit()
    }
    return [FrameRef(segment, index) for index in sorted(int(stem) for stem in stems)]


def list_segments(root: str | Path) -> Iterator[str]:
    """Folders under `root` that hold numbered frames, as segment names, in order."""
    root = Path(root)
    folders = sorted(
        {path.parent for suffix in IMAGE_SUFFIXES for path in root.rglob(f"*{suffix}")}
    )
    for folder in folders:
        segment = folder.relative_to(root).as_posix()
        if any(True for _ in list_frames(root, segment)):
            yield segment


def with_neighbours(frames: Iterable[FrameRef], root: str | Path) -> tuple[list[FrameRef], int]:
    """Frames whose two neighbours exist, and how many were left out because they have not."""
    frames = list(frames)
    kept = [
        frame
        for frame in frames
        if all(frame.neighbour(offset).image_path(root).is_file() for offset in (-1, 0, 1))
    ]
    return kept, len(frames) - len(kept)
