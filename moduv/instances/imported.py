"""Label sets from COCO JSON: what annotation tools write, checked entry by entry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_codec

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances
from moduv.instances.masks import is_number, to_rle
from moduv.instances.rle import Rle
from moduv.instances.store import write_labels

Size = tuple[int, int]


@dataclass(frozen=True)
class ImportConfig:
    """Which annotations become labels."""

    ignored: bool = False
    """Also those marked `ignore`. `iscrowd` marks masks in some tools and is not looked at."""


@dataclass(frozen=True)
class ImportedFrame:
    """Labels of one frame; their column `id` holds the ids that their annotations had."""

    frame: FrameRef
    instances: Instances


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
    instances = sum(len(entry.instances) for entry in found)
    if distributed.is_main():
        for entry in progress(found, desc="import", unit="frame"):
            write_labels(out, entry.frame, entry.instances)
    say(f"  {instances} instances in {len(found)} frames")
    return {"frames": len(found), "instances": instances}


def frame_names(path: Path | None) -> dict[str, FrameRef] | None:
    """The mapping of image names to frames; None without a file."""
    if path is None:
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object; write {{image name: '<segment> <number>'}}.")
    return {name: _frame_of_line(path, name, line) for name, line in content.items()}


def _frame_of_line(path: Path, name: str, line: Any) -> FrameRef:
    fields = line.split() if isinstance(line, str) else []
    if len(fields) != 2 or not fields[1].isdecimal() or not _inside(fields[0]):
        raise InputError(
            f"{path}: {name!r} is given as {line!r}; write '<segment> <frame number>'."
        )
    return FrameRef(fields[0], int(fields[1]))


def read_coco(
    path: Path,
    names: Mapping[str, FrameRef] | None = None,
    known: Collection[FrameRef] | None = None,
    *,
    ignored: bool = False,
) -> list[ImportedFrame]:
    """Labels of every image of a COCO data set, in the file's order.

    Args:
        path: the data set.
        names: frame of every image name; None: names as exported.
        known: frames that may occur; None: all.
        ignored: also annotations marked `ignore`.

    Raises:
        InputError: naming the first broken entry and how many there are.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(
            f"{path}: lacks the list 'images'; export it as a COCO data set, not as results."
        )
    if not isinstance(content.get("annotations"), list):
        raise InputError(f"{path}: lacks the list 'annotations'; export it as a COCO data set.")
    images = _read_images(path, content["images"], names, known)
    entries: dict[Any, list[_Entry]] = {image_id: [] for image_id in images}
    problems, ids = [], set()
    for position, annotation in enumerate(content["annotations"]):
        where = f"{path}: annotation {_id_of(annotation, position)}"
        try:
            entry = _read_annotation(annotation, images)
            if entry.id in ids:
                raise ValueError("has an id that another one has; number the annotations anew")
        except ValueError as error:
            problems.append(f"{where} {error}.")
            continue
        ids.add(entry.id)
        if ignored or not annotation.get("ignore"):
            entries[annotation["image_id"]].append(entry)
    if problems:
        more = f" ({len(problems)} annotations are broken)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return [_to_frame(path, image, entries[image_id]) for image_id, image in images.items()]


@dataclass(frozen=True)
class _Image:
    frame: FrameRef
    size: Size | None
    scored: bool


@dataclass(frozen=True)
class _Entry:
    id: int
    mask: Rle
    box: tuple[float, float, float, float]
    """XYXY in pixels."""
    score: float | None


def _read_images(
    path: Path,
    entries: list[Any],
    names: Mapping[str, FrameRef] | None,
    known: Collection[FrameRef] | None,
) -> dict[Any, _Image]:
    images: dict[Any, _Image] = {}
    frames: set[FrameRef] = set()
    for position, entry in enumerate(entries):
        where = f"{path}: images[{position}]"
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(entry.get("id"), int | str):
            raise InputError(f"{where} lacks 'id' or 'file_name'; give every image both.")
        frame = _frame_of_image(where, name, names)
        if entry["id"] in images or frame in frames:
            raise InputError(f"{where}: {name!r} occurs twice; keep one entry of each image.")
        if known is not None and frame not in known:
            raise InputError(
                f"{where}: {name!r} is frame {frame.line()!r}, which is not in the split; "
                "give the split that the labels are for, or the images' names with --names."
            )
        size = (entry.get("height"), entry.get("width"))
        if size != (None, None) and not all(type(v) is int and 0 < v < 1 << 16 for v in size):
            raise InputError(f"{where}: 'height' and 'width' are {size}; give both in pixels.")
        frames.add(frame)
        whole = None if size == (None, None) else size
        images[entry["id"]] = _Image(frame, whole, entry.get("scored") is not False)
    return images


def _frame_of_image(where: str, name: str, names: Mapping[str, FrameRef] | None) -> FrameRef:
    if names is not None:
        if name not in names:
            raise InputError(f"{where}: {name!r} is not among --names; add its frame there.")
        return names[name]
    path = PurePosixPath(name.replace("\\", "/"))
    segment = path.parent.as_posix()
    if not path.stem.isdecimal() or segment == "." or not _inside(segment):
        raise InputError(
            f"{where}: {name!r} is not named as exported, <segment>/NNNNNN.jpg; "
            "say with --names which frame it is."
        )
    return FrameRef(segment, int(path.stem))


def _inside(segment: str) -> bool:
    """Whether a segment stays below the folder that it is joined to."""
    return not segment.startswith("/") and ".." not in PurePosixPath(segment).parts


def _id_of(annotation: Any, position: int) -> str:
    number = annotation.get("id") if isinstance(annotation, dict) else None
    return f"with id {number}" if type(number) is int else f"at position {position}"


def _read_annotation(annotation: Any, images: Mapping[Any, _Image]) -> _Entry:
    """Check one annotation. Raises ValueError with the rest of the sentence."""
    if not isinstance(annotation, dict) or type(annotation.get("id")) is not int:
        raise ValueError("lacks a whole number as 'id'; number the annotations")
    image_id = annotation.get("image_id")
    if not isinstance(image_id, int | str) or image_id not in images:
        raise ValueError(
            f"belongs to no image of the file (image_id {image_id!r}); mend or remove it"
        )
    mask = to_rle(annotation.get("segmentation"), images[image_id].size)
    if not coco_codec.area(mask):
        raise ValueError("covers no pixel of its image; draw it again or remove it")
    score = annotation.get("score")
    if score is not None and not (is_number(score) and 0 <= score <= 1):
        raise ValueError(f"has the score {score!r}; give a number from 0 to 1, or none")
    left, top, width, height = _box(annotation.get("bbox"), mask)
    box = (left, top, left + width, top + height)
    return _Entry(annotation["id"], mask, box, score)


def _box(bbox: Any, mask: Rle) -> list[float]:
    """`bbox` [x, y, w, h], or the mask's extent where there is none."""
    if bbox is None:
        return coco_codec.toBbox(mask).tolist()
    plain = isinstance(bbox, list) and len(bbox) == 4 and all(is_number(v) for v in bbox)
    if not plain or bbox[2] < 0 or bbox[3] < 0:
        raise ValueError(f"has the 'bbox' {bbox!r}; give [x, y, width, height] in pixels, or none")
    return bbox


def _to_frame(path: Path, image: _Image, entries: list[_Entry]) -> ImportedFrame:
    if len({tuple(entry.mask["size"]) for entry in entries}) > 1:
        raise InputError(
            f"{path}: the masks of {image.frame.line()!r} are of different sizes; "
            "export them at the image's size."
        )
    boxes = np.array([entry.box for entry in entries], np.float32).reshape(-1, 4)
    scores: np.ndarray | None = np.array([1.0 if e.score is None else e.score for e in entries])
    # Label files without scores hold whole pixels, at least one; other boxes need the form with scores.
    whole = (boxes == np.round(boxes)).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    if not image.scored and whole and all(entry.score in (None, 1) for entry in entries):
        scores = None
    masks = [entry.mask for entry in entries]
    columns = {"id": np.array([entry.id for entry in entries], np.int64)}
    return ImportedFrame(image.frame, Instances(masks, boxes, scores, image.size, columns))
