"""Images and videos below a folder, and what else lies there."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.frames.layouts import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".vob", ".asf", ".m2v", ".h264", ".hevc", ".mjpeg"),
)
BESIDE = ("cam.json", "times.json", "poses.txt")
"""Files of a folder of images that belong to its clip."""


@dataclass
class Listing:
    """Files below a folder, in order of their paths; links to folders are followed."""

    images: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Why, or of which suffix, and how many."""


def list_files(source: Path, skip: Path | None = None) -> Listing:
    """List what lies below a folder.

    Hidden files and folders do not count: macOS puts `._name` beside a file on foreign disks. A folder that
    is linked a second time counts once, under its own name if that is below `source`.

    Args:
        source: the folder.
        skip: a folder of outputs, which is ignored unless `source` lies in it.
    """
    found, seen, others = Listing(), set[Path](), defaultdict[str, list[Path]](list)
    root, skip = source.resolve(), skip and skip.resolve()
    skip = None if skip in root.parents else skip
    waiting = deque([source])
    while waiting:
        folder = waiting.popleft()
        real = folder.resolve()
        if skip is not None and real.is_relative_to(skip):
            continue
        if real in seen or real in root.parents:
            others["folders linked a second time"].append(folder)
            continue
        seen.add(real)
        try:
            paths = list(folder.iterdir())
            folders = [path for path in paths if path.is_dir()]
        except OSError:
            others["folders that may not be read"].append(folder)
            continue
        for path in folders:
            if path.name.startswith("."):
                others["hidden"].append(path)
            else:  # real folders first, so that a link is the second name
                (waiting.append if path.is_symlink() else waiting.appendleft)(path)
        _take_files([path for path in paths if path not in folders], found, others)
    for why, paths in others.items():
        more = ", …" if len(paths) > 1 else ""
        found.left_out[f"{why} ({min(paths).relative_to(source)}{more})"] = len(paths)
    return Listing(sorted(found.images), sorted(found.videos), found.left_out)


def _take_files(paths: list[Path], found: Listing, others: dict[str, list[Path]]) -> None:
    """Add the files of a folder to a listing, or to the others."""
    names = {path.name for path in paths if not path.name.startswith(".")}
    has_images = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
    for path in paths:
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            others["hidden"].append(path)
        elif not path.is_file():
            others["links to nothing"].append(path)
        elif suffix in IMAGE_SUFFIXES:
            found.images.append(path)
        elif suffix in VIDEO_SUFFIXES:
            found.videos.append(path)
        elif not (has_images and path.name in BESIDE):
            is_camera = path.name.endswith(".cam.json")
            if not (is_camera and path.name.removesuffix(".cam.json") in names):
                others[suffix or "without suffix"].append(path)


def is_video(path: Path) -> bool:
    """Whether a file is a video by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_clips(source: Path, skip: Path | None = None) -> tuple[list[Path], Counter[str]]:
    """Video files and folders of images below `source` (or `source` itself), in order, and what is left out.

    Args:
        source: a video or a folder.
        skip: a folder of outputs, which is ignored unless `source` lies in it.
    """
    if source.is_file() and is_video(source):
        return [source], Counter()
    if source.is_file():
        kind = "an image" if source.suffix.lower() in IMAGE_SUFFIXES else "no video"
        raise InputError(
            f"{source}: is {kind}, and motion is learned from clips; give the folder that holds a clip's "
            f"images, or a video file ({', '.join(VIDEO_SUFFIXES)})."
        )
    if not source.is_dir():
        raise InputError(
            f"{source}: no such folder or video; give the clips' folder or a video file."
        )
    found = list_files(source, skip)
    return sorted({*found.videos, *(path.parent for path in found.images)}), found.left_out


def say_left_out(left_out: Mapping[str, int]) -> None:
    """Tell how many inputs were left out, and why, where any were."""
    if left_out:
        say("  left out in all: " + ", ".join(f"{count} {why}" for why, count in left_out.items()))


def clip_images(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names: `9.jpg` before `10.jpg`.

    Numbers with a point are decimals, `12.5` before `12.55` and after `12.45`, unless they count on beyond
    nine as `1.10` does.
    """
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    parts = [part for path in images for part in re.findall(r"\d\.(\d+)", path.stem)]
    counted = len({*map(len, parts)}) > 1 and any(len(p) > 1 and p.endswith("0") for p in parts)
    number = re.compile(r"\d+" if counted else r"(?<=\d)\.\d+|\d+")

    def padded(match: re.Match[str]) -> str:
        digits = match[0]
        return digits.ljust(21, "0") if digits.startswith(".") else digits.zfill(20)

    return sorted(images, key=lambda path: (number.sub(padded, path.stem), path.name))
