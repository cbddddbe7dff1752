"""The videos of a training: file lists of the authors, the data sets' layouts, any folder of clips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_text
from moduv.engine.log import progress, say
from moduv.frames.images import resize_image, write_image
from moduv.frames.layouts import IMAGE_SUFFIXES
from moduv.frames.listing import clip_images, find_clips, say_left_out
from moduv.frames.splits import is_inside
from moduv.frames.video import read_clip, scenes

LARGEST = 1 << 31
"""Largest size of a list in bytes, which is tens of millions of frames."""


@dataclass(frozen=True)
class Video:
    """Frames of one folder, in order."""

    folder: Path
    names: np.ndarray
    """(T,) file names; an array, because data sets have millions."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> Path:
        """The file of a frame."""
        return self.folder / str(self.names[position])


def read_list(path: Path, root: Path) -> list[Video]:
    """Read a file list with a line for each frame, or for each folder of frames, below `root`.

    Leading slashes are ignored; successive frames of one folder are a video.

    Raises:
        InputError: when the list is missing, empty, leaves `root`, or names what is not there.
    """
    lines = [line.strip().lstrip("/") for line in read_text(path, largest=LARGEST).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path}: the list is empty; write the path of a frame on each line.")
    outside = next((line for line in lines if not is_inside(line)), None)
    if outside is not None:
        raise InputError(
            f"{path}: {outside!r:.120} leaves the data folder; write paths below it, with / between folders."
        )
    once = list(dict.fromkeys(line.rstrip("/") for line in lines))
    if len(once) < len(lines):
        say(f"  {path}: names {len(lines) - len(once)} of its lines again, which count once")
    lines = once
    kinds = [Path(line).suffix.lower() in IMAGE_SUFFIXES for line in lines]
    if any(kinds) and not all(kinds):
        odd = lines[kinds.index(not kinds[0])]
        raise InputError(
            f"{path}: names {lines[0]!r:.120} and {odd!r:.120}, a frame and none; name frames alone, or folders "
            "alone."
        )
    if not kinds[0]:
        return [_listed_folder(root / line, path) for line in lines]
    parts = (line.rpartition("/") for line in lines)
    return [
        _listed_frames(root / folder, [name for _, _, name in frames], path)
        for folder, frames in groupby(parts, key=lambda part: part[0])
    ]


def _listed_folder(folder: Path, source: Path) -> Video:
    video = _video(folder) if folder.is_dir() else Video(folder, np.array([]))
    if not len(video):
        raise InputError(
            f"{source}: names {folder}, where no frames are; check the list and the data folder."
        )
    return video


def _listed_frames(folder: Path, names: list[str], source: Path) -> Video:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [name for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - 1} more of its video" if len(missing) > 1 else ""
        raise InputError(
            f"{source}: names {folder / missing[0]}{more}, which is not there; check the list and the data "
            "folder."
        )
    return Video(folder, np.array(names))


def read_layout(folder: Path) -> list[Video]:
    """The videos of a folder with one folder of frames each; other files are ignored."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    videos = [video for video in map(_video, folders) if len(video)]
    if len(videos) < len(folders):
        say(f"  {folder}: {len(folders) - len(videos)} folders hold no frames, left out")
    return videos


def find_videos(source: Path, unpacked: Path, side: int) -> list[Video]:
    """All videos below a folder: folders of frames, and video files, which are unpacked first.

    Args:
        source: a folder, or a video file.
        unpacked: receives the frames of video files, in one folder per scene.
        side: largest shorter side of unpacked frames in pixels.

    Raises:
        InputError: when there are none.
    """
    clips, left_out = find_clips(source, unpacked)
    folders = [clip for clip in clips if clip.is_dir()]
    files = [clip for clip in clips if not clip.is_dir()]
    for number, file in enumerate(progress(files, desc="unpack", total=len(files), unit="video")):
        target = unpacked / f"{number:06d}-{file.stem[:80]}"
        if not target.is_dir():
            _unpack(file, target, side)
        folders += sorted(path for path in target.iterdir() if path.is_dir())
    say_left_out(left_out)
    return _videos(folders, source)


def _videos(folders: list[Path], source: Path) -> list[Video]:
    if not folders:
        raise InputError(f"{source}: holds no videos and no images; give the clips' folder.")
    return [_video(folder) for folder in folders]


def _video(folder: Path) -> Video:
    return Video(folder, np.array([image.name for image in clip_images(folder)]))


def _unpack(file: Path, target: Path, side: int) -> None:
    """Write the frames of a video file, a folder for each scene; the target is whole or absent."""
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for position, (scene, (_, image)) in enumerate(scenes(read_clip(file))):
        share = min(1.0, side / min(image.shape[:2]))
        height, width = (round(share * size) for size in image.shape[:2])
        name = f"{scene:03d}/{position:06d}.jpg"
        write_image(partial / name, resize_image(image, height, width))
    partial.replace(target)


def write_list(path: Path, videos: Iterable[Video], root: Path) -> int:
    """Write a list in the authors' form, with a line for each frame below `root`, and return the number of lines.

    Raises InputError for a name that a list cannot hold.
    """
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for line in _lines(videos, root):
            if not _is_line(line):
                raise InputError(
                    f"{root}: {line!r:.200} is a name that no list can hold; rename the file or its folder."
                )
            stream.write(line + "\n")
            count += 1
    return count


def _is_line(text: str) -> bool:
    """Whether a line is read back from a list as it was written."""
    encoded = text.encode("utf-8", "ignore").decode()  # names that are no UTF-8 have no code
    return text.splitlines() == [text.strip()] and encoded == text


def _lines(videos: Iterable[Video], root: Path) -> Iterator[str]:
    for video in videos:
        folder = video.folder.relative_to(root).as_posix()
        yield from (f"/{folder}/{name}" for name in video.names)


def long_enough(videos: list[Video], frames: int, source: Path) -> list[Video]:
    """The videos of at least `frames` frames; the number of others is logged.

    Raises InputError when there are none.
    """
    kept = [video for video in videos if len(video) >= frames]
    if not kept:
        longest = max(videos, key=len)
        raise InputError(
            f"{source}: no video has the {frames} frames of a clip, the longest, {longest.folder}, has "
            f"{len(longest)}; give longer videos or set fewer frames."
        )
    if len(kept) < len(videos):
        say(f"  left out: {len(videos) - len(kept)} videos of less than {frames} frames")
    return kept
