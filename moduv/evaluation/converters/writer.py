"""What the converters share: true objects, which images are wanted, what is ignored, the COCO file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from moduv import __version__
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.log import say
from moduv.frames.splits import read_split
from moduv.instances import rle
from moduv.instances.coco import CATEGORIES
from moduv.instances.rle import Rle

Size = tuple[int, int]
"""Height and width in pixels."""
Box = tuple[float, float, float, float]
"""As in COCO: left, top, width, height in pixels; continuous, so a pixel is 1 wide."""


@dataclass(frozen=True)
class TruthConfig:
    """What every converter lets its user choose; the defaults ignore nothing that is annotated."""

    min_width: float = 0.0
    min_height: float = 0.0
    """Objects whose box is narrower or lower, in pixels of the full image, need not be found."""
    min_area: float = 0.0
    """Nor need those that cover fewer pixels."""
    empty_images: bool = True
    """Keep images in which there is no object to be found; what is detected there is wrong."""

    def __post_init__(self) -> None:
        if min(self.min_width, self.min_height, self.min_area) < 0:
            raise InputError("truth: a smallest size is negative; use 0 to ignore no object.")


@dataclass(frozen=True)
class TrueObject:
    """An object, or a region in which detections are not judged."""

    box: Box
    name: str
    """What its data set calls it."""
    mask: Rle | None = None
    area: float | None = None
    """Pixels; None: of the mask, or of the box."""
    ignore: bool = False
    moving: bool | None = None


@dataclass(frozen=True)
class TrueImage:
    """An image with everything that is known of it."""

    file_name: str
    """`<segment>/NNNNNN.jpg` where the data set has segments, its path below its folder elsewhere."""
    size: Size | None
    objects: tuple[TrueObject, ...]
    id: int | None = None
    """The data set's own number, where it has one; images are counted from 1 elsewhere."""


def check_names(wanted: Iterable[str], known: Iterable[str], source: str) -> None:
    """Raise InputError for a wanted category that is none of the known, nor the first part of one."""
    known = list(known)
    for name in wanted:
        if not any(is_of_family(other, name) for other in known):
            raise InputError(
                f"{source}: has no category {name!r} but {', '.join(known) or 'none'}; "
                "name some of these in --config.categories or --config.ignored."
            )


def is_of_family(name: str, family: str) -> bool:
    """Whether a category is a family, or one of it as `vehicle.car` is of `vehicle`."""
    return name == family or name.startswith(f"{family}.")


class Selection:
    """The images that a split file names; all of them where there is none.

    Lines are `<segment> <frame>`, or a path or name of an image, with or without its suffix. Folders
    that a line leaves out match any: `000369` names `training/image_2/000369.png`.
    """

    def __init__(self, split: Path | None) -> None:
        self.split = split
        self._names: set[str] = set()
        if split is not None:
            self._names = {"/".join(_parts(name)) for name in _read_names(split)}
            self._folders = {name.rpartition("/")[0] for name in self._names}

    def __contains__(self, file_name: str) -> bool:
        return self.split is None or not self._names.isdisjoint(_endings(_parts(file_name)))

    def reaches(self, folder: str) -> bool:
        """Whether any image of a folder may be wanted."""
        return self.split is None or not self._folders.isdisjoint(
            ["", *_endings(PurePosixPath(folder).parts)]
        )


def _read_names(split: Path) -> list[str]:
    lines = split.read_text(encoding="utf-8").splitlines() if split.is_file() else []
    names = [line.strip() for line in lines if line.strip()]
    if names and all(len(name.split()) == 1 for name in names):
        return names
    return [f"{frame.segment}/{frame.index}" for frame in read_split(split)]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name without suffix; a number without the zeros before it."""
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in {".jpg", ".jpeg", ".png"} else path.name
    return (*path.parent.parts, str(int(stem)) if stem.isdecimal() else stem)


def _endings(parts: tuple[str, ...]) -> list[str]:
    return ["/".join(parts[start:]) for start in range(len(parts))]


def write_truth(
    out: Path, images: Iterable[TrueImage], config: TruthConfig, selection: Selection, source: str
) -> list[str]:
    """Write class-agnostic ground truth as COCO JSON, atomically, and say what is in it.

    Annotations have `category_id` 1, `name` (of the data set's category), `moving` where it is known,
    and `iscrowd` and `ignore` 1 for regions that are not judged: those of the data set, and objects
    below the smallest size. Where objects have masks, one without is ignored and its box stands for it.

    Args:
        out: the file to write.
        images: with their objects, in the order in which they are to be written.
        source: where they come from; kept in the file's `info`.

    Returns:
        The names of the images written.

    Raises:
        InputError: when there is no image, or no object to be found in any.
    """
    kept = [image for image in images if image.file_name in selection]
    if not kept:
        where = selection.split or source
        raise InputError(
            f"{where}: names no image that has ground truth; "
            "check that the folder, the part and the split file belong together."
        )
    with_masks = any(item.mask is not None for image in kept for item in image.objects)
    entries, annotations = _coco(kept, config, with_masks=with_masks)
    judged = sum(not annotation["ignore"] for annotation in annotations)
    if not judged:
        raise InputError(
            f"{source}: no image has an object to be found; "
            "check the categories, the smallest size and the split file."
        )
    info = {"description": source, "moduv": __version__, "settings": to_dict(config)}
    content = {"info": info, "images": entries, "annotations": annotations}
    write_json(out, {**content, "categories": CATEGORIES})
    kind = "boxes and masks" if with_masks else "boxes"
    say(
        f"{out}: {judged} objects ({kind}) and {len(annotations) - judged} ignored regions "
        f"in {len(entries)} images"
    )
    return [entry["file_name"] for entry in entries]


def _coco(
    images: list[TrueImage], config: TruthConfig, *, with_masks: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """COCO's images and annotations."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        found = [_annotation(item, image, config, with_masks=with_masks) for item in image.objects]
        if not config.empty_images and all(annotation["ignore"] for annotation in found):
            continue
        number = len(entries) + 1 if image.id is None else image.id
        size = {} if image.size is None else dict(zip(("height", "width"), image.size, strict=True))
        entries.append({"id": number, "file_name": image.file_name, **size})
        annotations += [{"image_id": number, **annotation} for annotation in found]
    return entries, [{"id": number, **entry} for number, entry in enumerate(annotations, 1)]


def _annotation(
    item: TrueObject, image: TrueImage, config: TruthConfig, *, with_masks: bool
) -> dict[str, Any]:
    mask, ignore = item.mask, item.ignore
    if with_masks and mask is None:
        mask, ignore = _filled_box(item.box, image), True
    width, height = item.box[2:]
    area = item.area
    if area is None:
        area = width * height if item.mask is None else float(coco.area(item.mask))
    ignore = ignore or width < config.min_width or height < config.min_height
    ignore = ignore or area < config.min_area
    return {
        "category_id": 1,
        "name": item.name,
        "bbox": [float(value) for value in item.box],
        "area": float(area),
        **({} if mask is None else {"segmentation": mask}),
        "iscrowd": int(ignore),
        "ignore": int(ignore),
        **({} if item.moving is None else {"moving": int(item.moving)}),
    }


def _filled_box(box: Box, image: TrueImage) -> Rle:
    if image.size is None:
        raise InputError(
            f"{image.file_name}: has an object without mask and no known size; "
            "give the image's height and width."
        )
    mask = np.zeros(image.size, bool)
    left, top, width, height = box
    rows = slice(max(0, round(top)), max(0, round(top + height)))
    mask[rows, max(0, round(left)) : max(0, round(left + width))] = True
    return rle.encode(mask)


def box_of_mask(mask: Rle) -> Box:
    """The box around a mask's pixels."""
    left, top, width, height = coco.toBbox(mask).tolist()
    return left, top, width, height
