"""Sequences for mask propagation: the layouts of DAVIS and YouTube-VOS, folders, and file lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from moduv.engine.errors import InputError
from moduv.engine.files import read_text
from moduv.engine.log import say
from moduv.frames.listing import clip_images
from moduv.frames.splits import is_inside
from moduv.instances.indexed import DAVIS_FRAMES, DAVIS_LISTS, DAVIS_MASKS

YTVOS_ALL, YTVOS = "valid_all_frames", "valid"
"""Folders of all frames, if they were downloaded, and of every fifth frame with the masks, which the server evaluates."""
DATASETS = ("davis", "ytvos", "folder")


@dataclass(frozen=True)
class VideoSequence:
    """A video and the masks that are given for it."""

    name: str
    frames: tuple[Path, ...]
    masks: dict[int, Path]
    """By frame; an object starts in the first frame whose mask has it."""
    asked: tuple[bool, ...]
    """Whether the mask of each frame is written."""

    def results(self, folder: Path) -> list[Path | None]:
        """The file of each frame's mask; None for frames whose mask is not written."""
        files = [folder / self.name / f"{frame.stem}.png" for frame in self.frames]
        return [file if asked else None for file, asked in zip(files, self.asked, strict=True)]


def find_sequences(data: Path, dataset: str, listed: Path | None = None) -> list[VideoSequence]:
    """The sequences of a data set.

    Args:
        data: its root. `davis`: the sequences of `ImageSets/2017/val.txt` with the masks of their first frames.
            `ytvos`: what `valid` holds, or `valid_all_frames` where it is there. `folder`: frames in
            `JPEGImages/<sequence>` and masks by the same names in `Annotations/<sequence>`.
        dataset: one of `DATASETS`.
        listed: a list `flag image mask` of the frames in order, below `data`, instead; 0: not written.

    Raises:
        InputError: when a layout or a list names what is not there, for sequences without any mask, and where
            results of several would be one file.
    """
    if dataset not in DATASETS:
        raise InputError(f"data set {dataset!r} is unknown; choose one of {', '.join(DATASETS)}.")
    if listed is not None:
        found = _listed(data, listed)
    else:
        found = {"davis": _davis, "ytvos": _ytvos, "folder": _folder}[dataset](data)
    if not found:
        raise InputError(f"{data}: holds no sequences of the data set {dataset!r}; check the path.")
    _check_results(found, listed or data)
    for sequence in found:
        if not sequence.masks:
            raise InputError(
                f"{data}: sequence {sequence.name!r} has no mask in any frame; give at least its first, as an "
                "indexed PNG."
            )
    return found


def _davis(data: Path) -> list[VideoSequence]:
    """Objects are those of the first frame; the other true masks are for measuring."""
    names = read_text(data / DAVIS_LISTS / "val.txt").split()
    _check_inside(names, data / DAVIS_LISTS / "val.txt")
    return [
        _sequence(name, data / DAVIS_FRAMES, data / DAVIS_MASKS, first_only=True) for name in names
    ]


def _ytvos(data: Path) -> list[VideoSequence]:
    few = data / YTVOS / "JPEGImages"
    whole = data / YTVOS_ALL / "JPEGImages"
    frames = whole if whole.is_dir() else few
    masks, sequences = data / YTVOS / "Annotations", []
    for name in _names(few, masks):
        asked = {image.stem for image in clip_images(few / name)}
        sequences.append(_sequence(name, frames, masks, asked=asked))
    return sequences


def _folder(data: Path) -> list[VideoSequence]:
    frames, masks = data / "JPEGImages", data / "Annotations"
    return [_sequence(name, frames, masks) for name in _names(frames, masks)]


def _names(frames: Path, masks: Path) -> list[str]:
    """The sequences that have frames; those that have masks alone are counted."""
    if not frames.is_dir():
        raise InputError(f"{frames}: no such folder; check the data set and its root.")
    names, masked = (
        {path.name for path in folder.glob("[!.]*") if path.is_dir()} for folder in (frames, masks)
    )
    _say_left_out(masks, sorted(masked - names), "folders of masks have no frames")
    return sorted(names)


def _say_left_out(folder: Path, names: list[str], why: str) -> None:
    if names:
        say(f"  {folder}: {len(names)} {why}, left out, first {names[0]}")


def _sequence(
    name: str,
    frames: Path,
    masks: Path,
    *,
    first_only: bool = False,
    asked: set[str] | None = None,
) -> VideoSequence:
    images = clip_images(frames / name) if (frames / name).is_dir() else []
    if not images:
        raise InputError(f"{frames / name}: holds no frames; complete the data set.")
    counted = images[:1] if first_only else images
    files = [masks / name / f"{image.stem}.png" for image in counted]
    if not first_only:
        others = {path.name for path in (masks / name).glob("[!.]*")} - {p.name for p in files}
        _say_left_out(masks / name, sorted(others), "files are masks of no frame")
    return VideoSequence(
        name,
        tuple(images),
        {index: file for index, file in enumerate(files) if file.is_file()},
        tuple(asked is None or image.stem in asked for image in images),
    )


def _listed(data: Path, path: Path) -> list[VideoSequence]:
    """The sequences of a list; frames of one folder that follow one another are one."""
    rows = [_row(line, path) for line in read_text(path).splitlines() if line.strip()]
    missing = [image for _, image, _ in rows if not (data / image).is_file()]
    if missing:
        raise InputError(
            f"{path}: names {missing[0]} and {len(missing) - 1} other files that are not in {data}; complete "
            "the data set or choose its list."
        )
    return [
        _listed_sequence(data, str(folder), list(lines))
        for folder, lines in groupby(rows, key=lambda row: PurePosixPath(row[1]).parent)
    ]


def _row(line: str, path: Path) -> tuple[bool, str, str]:
    fields = [field.lstrip("/") for field in line.split()]
    if len(fields) not in (2, 3) or fields[0] not in ("0", "1"):
        raise InputError(f"{path}: {line!r:.120} is no line 'flag image mask'; use flags 0 and 1.")
    _check_inside(fields[1:], path)
    return fields[0] == "1", fields[1], fields[2] if len(fields) == 3 else ""


def _listed_sequence(data: Path, folder: str, lines: list[tuple[bool, str, str]]) -> VideoSequence:
    masks = {index: data / mask for index, (_, _, mask) in enumerate(lines) if mask}
    return VideoSequence(
        PurePosixPath(folder).name,
        tuple(data / image for _, image, _ in lines),
        {index: file for index, file in masks.items() if file.is_file()},
        tuple(asked for asked, _, _ in lines),
    )


def _check_inside(names: Iterable[str], path: Path) -> None:
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise InputError(f"{path}: {outside!r:.120} leaves the data folder; write paths below it.")


def _check_results(sequences: list[VideoSequence], source: Path) -> None:
    """Raise InputError where the results of two sequences, or of two frames, would be one."""
    for name, count in Counter(sequence.name for sequence in sequences).items():
        if count > 1:
            raise InputError(
                f"{source}: {count} sequences are called {name!r}, and their results would be one folder's; name "
                "each once, and list the frames of a folder together."
            )
    for sequence in sequences:
        seen: dict[str, Path] = {}
        for frame in sequence.frames:
            if frame.stem in seen:
                raise InputError(
                    f"{source}: the masks of {seen[frame.stem]} and of {frame.name} would be one file, "
                    f"{frame.stem}.png; name each frame once, and differently before the suffix."
                )
            seen[frame.stem] = frame
