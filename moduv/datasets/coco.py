"""COCO (Lin et al. 2014): the objects of `instances_*.json` that can move.

Taken are persons, vehicles and animals: what moves by itself or is driven. That is this library's
choice, since the paper's own list could not be consulted; `categories` makes another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.datasets.truth import Selection, TrueImage, TrueObject, TruthConfig, write_truth
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.log import progress
from moduv.instances.coco import DataSet, group_by_image, is_ignored, read_ground_truth

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
    content = read_json(annotations)
    data = read_ground_truth(_with_corners(content), str(annotations))
    data.tell("the file's are taken")
    names = _mobile_names(annotations, data, config.categories)
    selection = Selection(split)
    images = _images(data, names, selection)
    write_truth(out, images, config, selection, annotations.name)


def _with_corners(content: Any) -> Any:
    """A data set without polygons of less than three corners: they cover nothing."""
    for entry in content.get("annotations") or [] if isinstance(content, dict) else []:
        mask = entry.get("segmentation") if isinstance(entry, dict) else None
        if isinstance(mask, list):
            entry["segmentation"] = [p for p in mask if not isinstance(p, list) or len(p) >= 6]
    return content


def _mobile_names(path: Path, data: DataSet, wanted: tuple[str, ...]) -> dict[int, str]:
    """Mobile categories by number."""
    known = data.content.get("categories") or []
    found = {category["id"]: str(category.get("name")) for category in known}
    missing = sorted(set(wanted) - set(found.values()))
    if missing:
        raise InputError(
            f"{path}: has no category {missing[0]!r} but {', '.join(found.values()) or 'none'}; "
            "name some of these in --config.categories."
        )
    return {number: name for number, name in found.items() if name in wanted}


def _images(data: DataSet, names: dict[int, str], selection: Selection) -> Iterator[TrueImage]:
    of_image = group_by_image(a for a in data.annotations if a.get("category_id") in names)
    for image in progress(data.images.values(), desc="COCO", unit="image"):
        if not image.name or image.size is None:
            raise InputError(
                f"{data.name}: image {image.id} lacks its 'file_name', 'height' or 'width'; {DOWNLOAD}"
            )
        if image.name in selection:
            found = tuple(
                TrueObject(
                    tuple(a["bbox"]),
                    names[a["category_id"]],
                    a.get("segmentation"),
                    a.get("area"),
                    is_ignored(a),
                )
                for a in of_image.get(image.id, [])
            )
            yield TrueImage(image.name, image.size, found, image.id)
