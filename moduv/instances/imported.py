"""Label sets from COCO JSON: what annotation tools write."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.splits import is_inside, read_split
from moduv.instances import rle
from moduv.instances.coco import (
    Annotation,
    Image,
    coco_instances,
    group_by_image,
    has_mask,
    read_data_set,
)
from moduv.instances.instances import Instances
from moduv.instances.masks import OTHER_BOX
from moduv.instances.store import write_labels


@dataclass(frozen=True)
class ImportConfig:
    """Which annotations become labels."""

    ignored: bool = False
    """Also those marked `ignore`. `iscrowd` marks masks in some tools and is not looked at."""


def import_labels(
    coco: Path,
    out: Path,
    names: Path | None = None,
    split: Path | None = None,
    ignored: bool = False,
) -> None:
    """Make a label set of a COCO data set, such as an exported one that was edited.

    Args:
        coco: COCO JSON with masks, as RLE (compressed or not) or polygons. Scores are optional, all
            categories count as one.
        out: label root; receives `<segment>/NNNNNN.json` for every image of the file.
        names: JSON object that gives the frame of each image, {"image name": "<segment> <number>"};
            not needed where images are named as exported, `<segment>/NNNNNN.jpg`.
        split: frames that may occur; an image of another one is refused.
        ignored: take annotations marked `ignore`, too.

    Raises:
        InputError: naming the first image or annotation that is broken; nothing is written then.
    """
    config = ImportConfig(ignored)
    inputs = tuple(path for path in (coco, names, split) if path is not None)
    stage = Stage("labels import", out, config, inputs)
    stage.run(lambda: _import(coco, out, names, split, config))


def _import(
    coco: Path, out: Path, names: Path | None, split: Path | None, config: ImportConfig
) -> dict[str, Any]:
    known = None if split is None else set(read_split(split))
    found = read_coco(coco, frame_names(names), known, ignored=config.ignored)
    instances = sum(map(len, found.values()))
    if known is None:
        segments = sorted({frame.segment for frame in found})
        some = ", ".join(segments[:3]) + (", …" if len(segments) > 3 else "")
        say(
            f"{coco}: without --split nothing tells whether its {len(found)} frames of "
            f"{len(segments)} segments exist: {some}"
        )
    else:
        say(f"{coco}: has {len(found)} of the {len(known)} frames of {split}")
    if distributed.is_main():
        for frame, labels in progress(found.items(), desc="import", unit="frame"):
            write_labels(out, frame, labels)
    say(f"  {instances} instances in {len(found)} frames")
    return {"frames": len(found), "instances": instances}


def frame_names(path: Path | None) -> dict[str, FrameRef] | None:
    """The mapping of image names to frames; None without a file."""
    if path is None:
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object; write {{image name: '<segment> <number>'}}.")
    frames = {}
    for name, line in content.items():
        fields = line.split() if isinstance(line, str) else []
        frame = _frame(*fields) if len(fields) == 2 else None
        if frame is None:
            raise InputError(
                f"{path}: {name!r:.200} is given as {line!r:.200}; write '<segment> <frame number>'."
            )
        frames[name] = frame
    return frames


def read_coco(
    path: Path,
    names: Mapping[str, FrameRef] | None = None,
    known: Collection[FrameRef] | None = None,
    *,
    ignored: bool = False,
) -> dict[FrameRef, Instances]:
    """Labels of every image of a COCO data set, in the file's order.

    The column `id` holds the ids of the annotations. A box that does not fit its mask is replaced by the
    mask's, and how many are is said.

    Args:
        path: the data set.
        names: frame of every image name; None: names as exported.
        known: frames that may occur; None: all.
        ignored: also annotations marked `ignore`.

    Raises:
        InputError: naming the first broken entry and how many there are.
    """
    data = read_data_set(path, "labels", _check)
    data.tell("the masks' are taken")
    for entry, _ in data.doubts[OTHER_BOX]:
        del entry["bbox"]
    wanted = [entry for entry in data.annotations if ignored or not entry.get("ignore")]
    if len(wanted) < len(data.annotations):
        say(f"{path}: {len(data.annotations) - len(wanted)} annotations to 'ignore' are left out")
    of_image = group_by_image(wanted)
    found: dict[FrameRef, Instances] = {}
    for position, image in enumerate(data.images.values()):
        where = f"{path}: images[{position}]: {image.name!r:.200}"
        frame = _frame_of(where, image.name, names)
        if frame in found:
            raise InputError(
                f"{where}: frame {frame.line()!r} occurs twice; keep one of its images."
            )
        found[frame] = _labels(image, of_image.get(image.id, []))
    others = [] if known is None else [frame.line() for frame in found if frame not in known]
    if others:
        raise InputError(
            f"{path}: {len(others)} of {len(found)} images are of frames like {others[0]!r} that the split "
            "lacks; give the split that the labels are for, or the images' names with --names."
        )
    if names is not None and len(names) > len(found):
        say(f"{path}: lacks {len(names) - len(found)} of the {len(names)} images of --names")
    return found


def _frame_of(where: str, name: str, names: Mapping[str, FrameRef] | None) -> FrameRef:
    if names is not None:
        if name not in names:
            raise InputError(f"{where} is not among --names; add its frame there.")
        return names[name]
    path = PurePosixPath(name.replace("\\", "/"))
    frame = _frame(path.parent.as_posix(), path.stem)
    if frame is None:
        raise InputError(
            f"{where} is not named as exported, <segment>/NNNNNN.jpg; say with --names which frame it is."
        )
    return frame


def _frame(segment: str, number: str) -> FrameRef | None:
    """A frame by its segment and number as text; None where its labels would not lie in their folder."""
    segment = PurePosixPath(segment).as_posix()
    # No folder; characters that no path holds; a folder in place of a file of ours.
    odd = re.search(r"^\.$|[\0-\x1f\ud800-\udfff]|\.(json|yaml)(/|$)", segment)
    if odd or not is_inside(segment) or not re.fullmatch("[0-9]{1,18}", number):
        return None
    return FrameRef(segment, int(number))


def _check(entry: Annotation) -> None:
    """What a label needs of an annotation. Raises ValueError with the rest of the sentence."""
    if type(entry.get("id")) is not int:
        raise ValueError("lacks a whole number as 'id'; number the annotations")
    has_mask(entry)
    if not rle.area(entry["segmentation"]):
        raise ValueError("covers no pixel of its image; draw it again or remove it")
    if not 0 <= entry.get("score", 1) <= 1:
        raise ValueError(f"has the score {entry['score']!r}; give a number from 0 to 1, or none")


def _labels(image: Image, entries: list[Annotation]) -> Instances:
    found = coco_instances(entries, image.size)
    scores = [entry.get("score", 1.0) for entry in entries]
    # Label files without scores hold whole pixels, at least one; other boxes need the form with scores.
    whole = (found.boxes == np.round(found.boxes)).all() and (
        found.boxes[:, 2:] > found.boxes[:, :2]
    ).all()
    unscored = image.entry.get("scored") is False and whole and set(scores) <= {1}
    columns = {"id": np.array([entry["id"] for entry in entries], np.int64)}
    kept = None if unscored else np.array(scores)
    return Instances(found.masks, found.boxes, kept, image.size, columns)
