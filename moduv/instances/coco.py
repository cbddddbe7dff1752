"""COCO files at the door of the evaluation: read, checked, and reduced to one class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.frames.clip import FrameRef
from moduv.instances import rle

Source = dict[str, Any] | list[dict[str, Any]] | str | Path

CATEGORIES = [{"id": 1, "name": "object"}]


@dataclass(frozen=True)
class GroundTruth:
    """Class-agnostic ground truth.

    `annotations` hold id, image_id, bbox [x, y, w, h] in pixels, area in pixels², iscrowd (1 where
    the file says `iscrowd` or `ignore`), segmentation where `masks`, and moving (1, 0 or None).
    """

    name: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    masks: bool

    def dataset(self) -> dict[str, Any]:
        """The COCO dictionary of this ground truth."""
        return {"images": self.images, "annotations": self.annotations, "categories": CATEGORIES}


@dataclass(frozen=True)
class Results:
    """Class-agnostic predictions: image_id, bbox [x, y, w, h], score, segmentation where `masks`."""

    name: str
    entries: list[dict[str, Any]]
    masks: bool


def read_ground_truth(source: Source) -> GroundTruth:
    """Read COCO ground truth (path or dictionary) with all categories made one.

    Masks may be RLE or polygons; they count when every annotation has one. Raises InputError
    naming the file, the entry and the key at fault.
    """
    name, content = _load(source, "ground truth")
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: is not a COCO data set; give a file with images and annotations."
        )
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{name}: lacks the list {key!r}; write it as a COCO data set.")
    if not content["images"]:
        raise InputError(f"{name}: 'images' is empty; write the annotations of at least one image.")
    sizes = _image_sizes(name, content["images"])

    annotations, masks = [], True
    for number, entry in enumerate(content["annotations"]):
        where = f"{name}: annotations[{number}]"
        bbox = _checked_box(where, entry)
        image_id = _known_image(where, entry, sizes)
        segmentation = _checked_mask(where, entry, sizes[image_id])
        masks = masks and segmentation is not None
        annotations.append(
            {
                "id": number + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": bbox,
                "segmentation": segmentation,
                "area": _area(where, entry, bbox),
                "iscrowd": int(bool(entry.get("iscrowd") or entry.get("ignore"))),
                "moving": entry.get("moving"),
            }
        )
    _check_masks(f"{name}: annotations[{{}}]", annotations)
    if not masks:
        for entry in annotations:
            del entry["segmentation"]
    return GroundTruth(name, content["images"], annotations, masks)


def read_results(source: Source, ground_truth: GroundTruth) -> Results:
    """Read predictions: a COCO results list, or a COCO data set such as an exported label set.

    A data set's images are found in the ground truth by `file_name` (its suffix aside), a list's by
    `image_id`. A missing score is 1. Masks count when every prediction has one. Raises InputError
    naming the file, the entry and the key at fault.
    """
    name, content = _load(source, "predictions")
    sizes = _image_sizes(ground_truth.name, ground_truth.images)
    entries = content
    renamed: dict[Any, Any] | None = None
    if isinstance(content, dict):
        entries = content.get("annotations")
        if content.get("images"):
            renamed = _match_images(name, content["images"], ground_truth)
    if not isinstance(entries, list):
        raise InputError(
            f"{name}: is no list of COCO results and lacks 'annotations'; export it as COCO."
        )

    results, with_mask = [], 0
    for number, entry in enumerate(entries):
        where = f"{name}: entry {number}"
        bbox = _checked_box(where, entry)
        image_id = _known_image(where, entry, sizes, renamed)
        segmentation = _checked_mask(where, entry, sizes[image_id])
        score = _finite(where, "score", entry.get("score", 1.0))
        with_mask += segmentation is not None
        results.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "bbox": bbox,
                "score": score,
                "segmentation": segmentation,
            }
        )
    if with_mask not in (0, len(results)):
        raise InputError(
            f"{name}: only {with_mask} of {len(results)} predictions have a 'segmentation'; "
            "give every prediction one, or none."
        )
    _check_masks(f"{name}: entry {{}}", results)
    return Results(name, results, masks=with_mask == len(results))


def select_images(ground_truth: Source, file_names: Iterable[str]) -> dict[str, Any]:
    """Restrict a COCO data set to the images named, for a label set that covers a part of them.

    Names are compared without suffix. Raises InputError when one is not in the data set.
    """
    name, content = _load(ground_truth, "ground truth")
    known = {_stem(image["file_name"]): image for image in content["images"]}
    wanted = [_stem(file_name) for file_name in file_names]
    unknown = next((stem for stem in wanted if stem not in known), None)
    if unknown is not None:
        raise InputError(f"{name}: has no image {unknown!r}; use the split that it was made for.")
    images = [known[stem] for stem in wanted]
    kept = {image["id"] for image in images}
    annotations = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    return {**content, "images": images, "annotations": annotations}


def select_truth(annotations: Path, data: Path, frames: Sequence[FrameRef]) -> dict[str, Any]:
    """The ground truth of some frames; its images follow the frames' order.

    Images may be named `<segment>/NNNNNN`, as exported, or by their place in the data folder.

    Raises:
        InputError: when the ground truth lacks one of the frames.
    """
    try:
        return select_images(annotations, [f"{f.segment}/{f.index:06d}.jpg" for f in frames])
    except InputError:
        paths = [frame.image_path(data).relative_to(data).as_posix() for frame in frames]
        return select_images(annotations, paths)


def _load(source: Source, role: str) -> tuple[str, Any]:
    return (str(source), read_json(source)) if isinstance(source, str | Path) else (role, source)


def _stem(file_name: str) -> str:
    return PurePosixPath(file_name).with_suffix("").as_posix()


def _image_sizes(name: str, images: list[dict[str, Any]]) -> dict[Any, tuple[int, int] | None]:
    """(height, width) by image id; None where the file does not tell."""
    sizes: dict[Any, tuple[int, int] | None] = {}
    for number, image in enumerate(images):
        if not isinstance(image, dict) or "id" not in image:
            raise InputError(f"{name}: images[{number}] lacks 'id'; number the images.")
        if image["id"] in sizes:
            raise InputError(
                f"{name}: image id {image['id']} occurs twice; number the images anew."
            )
        known = "height" in image and "width" in image
        sizes[image["id"]] = (image["height"], image["width"]) if known else None
    return sizes


def _match_images(
    name: str, images: list[dict[str, Any]], ground_truth: GroundTruth
) -> dict[Any, Any] | None:
    """Prediction image id -> ground-truth image id; None when either side gives no file names."""
    if not all("file_name" in image for image in (*images, *ground_truth.images)):
        return None
    ids = {_stem(image["file_name"]): image["id"] for image in ground_truth.images}
    unknown = next((i["file_name"] for i in images if _stem(i["file_name"]) not in ids), None)
    if unknown is not None:
        raise InputError(
            f"{name}: image {unknown!r} is not in {ground_truth.name}; "
            "evaluate on the split that the predictions were made for."
        )
    return {image["id"]: ids[_stem(image["file_name"])] for image in images}


def _known_image(
    where: str, entry: dict[str, Any], sizes: dict[Any, Any], renamed: dict[Any, Any] | None = None
) -> Any:
    if "image_id" not in entry:
        raise InputError(f"{where} lacks 'image_id'; name the image that it belongs to.")
    image_id = entry["image_id"]
    image_id = image_id if renamed is None else renamed.get(image_id)
    if image_id not in sizes:
        raise InputError(
            f"{where} has the unknown image_id {entry['image_id']!r}; "
            "use the ids of the ground truth's images."
        )
    return image_id


def _checked_box(where: str, entry: Any) -> list[float]:
    if not isinstance(entry, dict) or "bbox" not in entry:
        raise InputError(f"{where} lacks 'bbox'; give [x, y, width, height] in pixels.")
    bbox = entry["bbox"]
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        raise InputError(f"{where}: 'bbox' is {bbox!r}; give [x, y, width, height] in pixels.")
    x, y, width, height = (_finite(where, "bbox", value) for value in bbox)
    if width < 0 or height < 0:
        raise InputError(
            f"{where}: 'bbox' has the negative size {width:g} x {height:g}; "
            "give [x, y, width, height], not corners."
        )
    return [x, y, width, height]


def _finite(where: str, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {key!r} holds {value!r}; every number must be finite.")
    return number


def _checked_mask(where: str, entry: dict[str, Any], size: tuple[int, int] | None) -> Any:
    segmentation = entry.get("segmentation")
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        return segmentation
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise InputError(
            f"{where}: 'segmentation' is neither polygons nor RLE with 'size' and 'counts'; "
            "encode the mask as COCO RLE."
        )
    if size is not None and tuple(segmentation["size"]) != tuple(size):
        raise InputError(
            f"{where}: 'segmentation' has the size {list(segmentation['size'])} and its image "
            f"{list(size)}; resize the mask to the image."
        )
    return segmentation


def _check_masks(where: str, entries: list[dict[str, Any]]) -> None:
    """Refuse run lengths that do not fill their mask: the evaluation would read them as empty."""
    for number, entry in enumerate(entries):
        mask = entry["segmentation"]
        if isinstance(mask, dict) and not _is_whole(mask):
            height, width = mask["size"]
            raise InputError(
                f"{where.format(number)}: the RLE 'counts' do not fill a mask of {height} x {width}; "
                "the file is damaged, so write it again."
            )


def _is_whole(mask: dict[str, Any]) -> bool:
    """Compressed runs as text or bytes, or, as in COCO's crowds, a list of runs."""
    counts, size = mask["counts"], list(mask["size"])
    if isinstance(counts, list):
        return sum(counts) == size[0] * size[1]
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    return rle.is_whole({"size": size, "counts": text})


def _area(where: str, entry: dict[str, Any], bbox: list[float]) -> float:
    return _finite(where, "area", entry["area"]) if "area" in entry else bbox[2] * bbox[3]
