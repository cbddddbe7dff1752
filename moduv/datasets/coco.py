"""COCO (Lin et al. 2014): the objects of `instances_*.json` that can move.

Taken are persons, vehicles and animals: what moves by itself or is driven. That is this library's
choice, since the paper's own list could not be consulted; `categories` makes another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.datasets.truth import Selection, Size, TrueImage, TrueObject, TruthConfig, write_truth
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.log import progress
from moduv.instances.coco import read_ground_truth
from moduv.instances.imported import to_rle

PERSONS = ("person",)
VEHICLES = ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat")
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
DOWNLOAD = "download the 2017 train/val annotations from cocodataset.org and unpack them."


@dataclass(frozen=True)
class CocoTruth(TruthConfig):
    """Which of COCO's objects count."""

    categories: tuple[str, ...] = (*PERSONS, *VEHICLES, *ANIMALS)
    """Categories whose objects can move."""


def convert_coco(
    annotations: Path, out: Path, config: CocoTruth, split: Path | None = None
) -> None:
    """Write the mobile objects of a COCO file as class-agnostic ground truth.

    Images keep their ids and names, so COCO results of any tool can be evaluated. Crowds of mobile
    categories are ignored.

    Args:
        annotations: a COCO data set such as `instances_val2017.json`.
        out: the file to write.
        config: categories and the smallest object.
        split: file of the images to take, one name a line; None: all images.

    Raises:
        InputError: when the file is no COCO data set or lacks one of the categories.
    """
    read_ground_truth(annotations)
    content = read_json(annotations)
    names = _mobile_names(annotations, content, config.categories)
    selection = Selection(split)
    images = _images(annotations, content, names, selection)
    write_truth(out, images, config, selection, annotations.name)


def _mobile_names(path: Path, content: Any, wanted: tuple[str, ...]) -> dict[int, str]:
    """Mobile categories by number."""
    known = content.get("categories") or []
    found = {category["id"]: category["name"] for category in known}
    missing = sorted(set(wanted) - set(found.values()))
    if missing:
        raise InputError(
            f"{path}: has no category {missing[0]!r} but {', '.join(found.values()) or 'none'}; "
            "name some of these in --config.categories."
        )
    return {number: name for number, name in found.items() if name in wanted}


def _images(
    path: Path, content: Any, names: dict[int, str], selection: Selection
) -> Iterator[TrueImage]:
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        if entry.get("category_id") in names:
            of_image[entry["image_id"]].append(entry)
    for image in progress(content["images"], desc="COCO", unit="image"):
        if not {"file_name", "height", "width"} <= image.keys():
            raise InputError(
                f"{path}: image {image['id']} lacks its 'file_name', 'height' or 'width'; {DOWNLOAD}"
            )
        if image["file_name"] not in selection:
            continue
        size = (int(image["height"]), int(image["width"]))
        found = tuple(
            _object(path, entry, names[entry["category_id"]], size)
            for entry in of_image[image["id"]]
        )
        yield TrueImage(image["file_name"], size, found, image["id"])


def _object(path: Path, entry: dict[str, Any], name: str, size: Size) -> TrueObject:
    left, top, width, height = entry["bbox"]
    mask = entry.get("segmentation")
    if isinstance(mask, list):  # polygons of less than three corners cover nothing
        mask = [p for p in mask if not isinstance(p, list) or len(p) >= 6]
    try:
        mask = to_rle(mask, size) if mask else None
    except ValueError as error:
        raise InputError(f"{path}: annotation {entry.get('id')} {error}.") from None
    box = (left, top, width, height)
    ignore = bool(entry.get("iscrowd") or entry.get("ignore"))
    return TrueObject(box, name, mask, entry.get("area"), ignore)
