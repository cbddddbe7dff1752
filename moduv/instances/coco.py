"""COCO data sets and results: the only place that reads and checks them, entry by entry.

Broken entries are refused by entry and key; contradictions are counted, and the caller decides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.log import say
from moduv.frames.clip import FrameRef
from moduv.instances import rle
from moduv.instances.instances import LIMIT, Instances
from moduv.instances.masks import Size, contradictions, is_number, to_rle

Source = dict[str, Any] | list[dict[str, Any]] | str | Path
Annotation = dict[str, Any]
"""As in COCO, its known keys checked: masks as compressed runs, what is not given is left out."""

CATEGORIES = [{"id": 1, "name": "object"}]
IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|webp|tiff?)$", re.IGNORECASE)


@dataclass
class Image:
    """An image of a data set."""

    id: int | str
    name: str
    """Its `file_name`; empty where the file does not tell."""
    size: Size | None
    """Height and width; None until the file or the first mask tells."""
    entry: dict[str, Any]
    """As the file has it."""


@dataclass
class DataSet:
    """Images and annotations of a COCO data set, or the entries of a results list."""

    name: str
    images: dict[Any, Image]
    annotations: list[Annotation]
    content: dict[str, Any] = field(default_factory=dict)
    """All that the file says."""
    doubts: dict[str, list[tuple[Annotation, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Annotations that contradict themselves, with their place and values, by kind."""

    @property
    def masks(self) -> bool:
        """Whether every annotation has a mask."""
        return all("segmentation" in entry for entry in self.annotations)

    def tell(self, decision: str) -> None:
        """Say how many contradictions of each kind there are, the first, and what was decided."""
        for kind, found in self.doubts.items():
            say(f"{self.name}: {len(found)} {kind}, first {found[0][1]}; {decision}")


Check = Callable[[Annotation], None]
"""What a caller needs of an annotation; raises ValueError with the rest of the sentence."""


def read_data_set(source: Source, role: str, check: Check | None = None) -> DataSet:
    """Read and check a COCO data set (path or dictionary); its masks may be RLE or polygons.

    Raises InputError naming the file, the first entry and the key at fault, and how many are.
    """
    name, content = _load(source, role)
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(
                f"{name}: lacks the list {key!r}; export it as a COCO data set, not as results."
            )
    if not content["images"]:
        raise InputError(f"{name}: 'images' is empty; write the annotations of at least one image.")
    images = _read_images(name, content["images"])
    data = _read_annotations(name, content["annotations"], images, check)
    known = content.get("categories") or []
    plain = isinstance(known, list) and all(isinstance(category, dict) for category in known)
    numbers = [_identity(category.get("id")) for category in known] if plain else [None]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"{name}: 'categories' are no objects with an 'id' each; correct them.")
    others = [a for a in data.annotations if a.get("category_id") not in [None, *numbers]]
    if known and others:
        say(
            f"{name}: {len(others)} annotations have a 'category_id' that 'categories' lacks, "
            f"first {others[0]['category_id']!r:.60}"
        )
    return replace(data, content=content)


def read_ground_truth(source: Source, role: str = "ground truth") -> DataSet:
    """Read COCO ground truth, in which every object has a box; `role` names dictionaries."""
    return read_data_set(source, role, _has_box)


def read_results(source: Source, truth: DataSet) -> DataSet:
    """Read predictions: a COCO results list, or a COCO data set such as an exported label set.

    A data set's images are found in the ground truth by `file_name`, see `find_images`, a list's by
    `image_id`. Masks are given to all predictions or to none.

    Raises InputError naming the file, the entry and the key at fault.
    """
    name, content = _load(source, "predictions")
    entries, images = content, truth.images
    if isinstance(content, dict):
        entries = content.get("annotations")
        if content.get("images"):
            images = _images_in_truth(name, content["images"], truth)
    if not isinstance(entries, list):
        raise InputError(
            f"{name}: is no list of COCO results and lacks 'annotations'; export it as COCO."
        )
    is_list = entries is content
    data = _read_annotations(name, entries, images, _has_box, is_list=is_list)
    count = len(entries)
    with_mask, scored = (
        sum(key in entry for entry in data.annotations) for key in ("segmentation", "score")
    )
    if with_mask not in (0, count):
        raise InputError(
            f"{name}: only {with_mask} of {count} predictions have a 'segmentation'; "
            "give every prediction one, or none."
        )
    if scored not in (0, count):
        say(f"{name}: {count - scored} of {count} predictions have no 'score' and count as certain")
    return data


def select_images(ground_truth: Source, file_names: Iterable[str]) -> dict[str, Any]:
    """Restrict a COCO data set to the images named, for a label set that covers a part of them.

    Raises InputError when one is not in the data set, or when its name fits several; see `find_images`.
    """
    data, names = read_ground_truth(ground_truth), list(file_names)
    found = find_images(names, list(data.images.values()), data.name)
    images = [image for image in found if image is not None]
    if len(images) < len(names):
        missing = IMAGE_SUFFIX.sub("", names[found.index(None)])
        raise InputError(
            f"{data.name}: has no image {missing!r}; use the split that it was made for."
        )
    kept = {image.id for image in images}
    annotations = [entry for entry in data.annotations if entry["image_id"] in kept]
    entries = [image.entry for image in images]
    return {**data.content, "images": entries, "annotations": annotations}


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


def find_images(wanted: Iterable[str], known: Sequence[Image], source: str) -> list[Image | None]:
    """Images by name: by the whole one, or without suffix where only one fits; None where none does.

    Raises InputError naming the images between which a name leaves open, or the names of one image.
    """
    whole, short = defaultdict[str, list[Image]](list), defaultdict[str, list[Image]](list)
    for other in known:
        whole[_with_slashes(other.name)].append(other)
        short[IMAGE_SUFFIX.sub("", _with_slashes(other.name))].append(other)
    found: list[Image | None] = []
    taken: dict[Any, str] = {}
    for name in wanted:
        plain = _with_slashes(name)
        fitting = whole.get(plain) or short.get(IMAGE_SUFFIX.sub("", plain), [])
        image = fitting[0] if fitting else None
        doubt = ""
        if len(fitting) > 1:
            doubt = f"{name!r} may be {fitting[0].name!r} or {fitting[1].name!r}"
        elif image and image.id in taken:
            doubt = f"{taken[image.id]!r} and {name!r} both fit {image.name!r}"
        if doubt:
            raise InputError(f"{source}: {doubt}; name every image in full and once.")
        taken |= {image.id: name} if image else {}
        found.append(image)
    return found


def is_ignored(annotation: Annotation) -> bool:
    """Whether detections of an object are neither asked for nor punished."""
    return bool(annotation.get("iscrowd") or annotation.get("ignore"))


def group_by_image(annotations: Iterable[Annotation]) -> dict[Any, list[Annotation]]:
    """COCO annotations by the image they belong to."""
    grouped = defaultdict[Any, list[Annotation]](list)
    for annotation in annotations:
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def coco_instances(
    annotations: Sequence[Annotation], size: Size | None = None, *, boxes_as_masks: bool = False
) -> Instances:
    """COCO annotations or results of one image as instances.

    Args:
        annotations: with masks as runs or polygons; a missing box is the mask's.
        size: height and width of the image; polygons and boxes need it.
        boxes_as_masks: where there is no mask, its box stands for it.

    Raises:
        InputError: when an annotation has no mask, or a broken one.
    """
    masks, boxes, scores = [], [], []
    for annotation in annotations:
        try:
            entry = _checked(annotation, size)
            if "segmentation" not in entry and boxes_as_masks and size:
                _has_box(entry)
                entry["segmentation"] = rle.from_box(entry["bbox"], size)
            has_mask(entry)
        except ValueError as error:
            raise InputError(f"annotation with id {annotation.get('id')} {error}.") from None
        masks.append(entry["segmentation"])
        boxes.append(entry.get("bbox") or rle.box(entry["segmentation"]))
        scores += [entry["score"]] if "score" in entry else []
    scored = np.array(scores) if scores and len(scores) == len(masks) else None
    return Instances(masks, rle.corners(boxes), scored, size)


def has_mask(entry: Annotation) -> None:
    """Raise ValueError, saying so, for an annotation without mask."""
    if "segmentation" not in entry:
        raise ValueError("has no 'segmentation'; draw its mask or remove it")


def _has_box(entry: Annotation) -> None:
    if "bbox" not in entry:
        raise ValueError("lacks 'bbox'; give [x, y, width, height] in pixels")


def _load(source: Source, role: str) -> tuple[str, Any]:
    return (str(source), read_json(source)) if isinstance(source, str | Path) else (role, source)


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _identity(value: Any) -> Any:
    """An id of a file, whole number or text; None for what is neither."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if whole or (isinstance(value, float) and value.is_integer()):
        value, whole = int(value), True
    return value if isinstance(value, str) or (whole and abs(value) < 1 << 63) else None


def _read_images(name: str, entries: list[Any]) -> dict[Any, Image]:
    """The images of a file by their ids."""
    images: dict[Any, Image] = {}
    for position, entry in enumerate(entries):
        where = f"{name}: images[{position}]"
        told = {k: v for k, v in entry.items() if v is not None} if isinstance(entry, dict) else {}
        key, file_name = _identity(told.get("id")), told.get("file_name", "")
        if key is None:
            raise InputError(f"{where} lacks 'id', a whole number or text; number the images.")
        if not isinstance(file_name, str):
            raise InputError(f"{where}: 'file_name' is {file_name!r:.60}; give the image's name.")
        if key in images:
            raise InputError(
                f"{where}: the image id {key!r} of {file_name!r:.200} occurs twice, "
                f"first for {images[key].name!r:.200}; number the images anew."
            )
        sides = {side: _identity(told[side]) for side in ("height", "width") if side in told}
        told |= {side: value for side, value in sides.items() if value is not None}
        size: Any = (told.get("height"), told.get("width"))
        whole = all(type(side) is int and side > 0 for side in size)
        if sides and not (whole and size[0] * size[1] <= rle.LARGEST):
            raise InputError(
                f"{where} ({file_name!r:.200}): 'height' and 'width' are {size!r:.60}; "
                "give both in pixels, or none."
            )
        images[key] = Image(key, file_name, size if sides else None, told)
    return images


def _images_in_truth(name: str, entries: Any, truth: DataSet) -> dict[Any, Image]:
    """Images of the ground truth by the ids that the predictions give them."""
    if not isinstance(entries, list):
        raise InputError(f"{name}: 'images' is no list; export it as a COCO data set.")
    images, known = list(_read_images(name, entries).values()), list(truth.images.values())
    if all(image.name for image in (*images, *known)):
        found = find_images([image.name for image in images], known, truth.name)
    elif all(any(image.name for image in one) for one in (images, known)):
        raise InputError(f"{name}: only some images of it or of {truth.name} have a 'file_name'.")
    else:
        found = [truth.images.get(image.id) for image in images]
    for image, other in zip(images, found, strict=True):
        if other is None:
            raise InputError(
                f"{name}: image {image.name or image.id!r} is not in {truth.name}; "
                "evaluate on the split that the predictions were made for."
            )
        if image.size and other.size and image.size != other.size:
            raise InputError(
                f"{name}: image {image.name or image.id!r} is {image.size[0]} x {image.size[1]} and in "
                f"{truth.name} {other.size[0]} x {other.size[1]} (height x width); give both one size."
            )
        other.size = other.size or image.size
    if len(images) < len(known):
        say(f"{name}: has {len(images)} of {len(known)} images; objects of the others are missed")
    return {image.id: other for image, other in zip(images, found, strict=True) if other}


def _read_annotations(
    name: str,
    entries: list[Any],
    images: dict[Any, Image],
    check: Check | None,
    *,
    is_list: bool = False,
) -> DataSet:
    """Check annotations, or results of a list, whose ids mean nothing; `images` are by their ids."""
    data = DataSet(name, images, [])
    problems, ids = [], set[Any]()
    for number, entry in enumerate(entries):
        place = f"entry {number}" if is_list else f"annotations[{number}]"
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"is {entry!r:.60}; write a COCO annotation")
            if type(entry.get("id")) is int and not is_list:
                place += f" with id {entry['id']}"
            if "image_id" not in entry:
                raise ValueError("lacks 'image_id'; name the image that it belongs to")
            image = images.get(_identity(entry["image_id"]))
            if image is None:
                raise ValueError(
                    f"has the unknown image_id {entry['image_id']!r:.60}; "
                    "use the ids of the images, or remove it"
                )
            found = {**_checked(entry, image.size), "image_id": image.id}
            if "id" in found and not is_list:
                if found["id"] in ids:
                    raise ValueError("has an id that another one has; number the annotations anew")
                ids.add(found["id"])
            if check is not None:
                check(found)
        except ValueError as error:
            problems.append(f"{name}: {place} {error}.")
            continue
        if "segmentation" in found and image.size is None:
            image.size = tuple(found["segmentation"]["size"])
        predicted = "score" in found and image.entry.get("scored") is not False
        for kind, values in contradictions(found, image.size, predicted=predicted):
            data.doubts[kind].append((found, f"{place}: {values}"))
        data.annotations.append(found)
    if problems:
        more = f" ({len(problems)} annotations are broken)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return data


def _checked(entry: Annotation, size: Size | None) -> Annotation:
    """An annotation or a result in the form above. Raises ValueError with the rest of the sentence."""
    found = {key: value for key, value in entry.items() if value is not None}
    if (box := found.pop("bbox", [])) != []:
        plain = isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))
        if not plain or box[2] < 0 or box[3] < 0:
            raise ValueError(
                f"has the 'bbox' {box!r:.60}; give [x, y, width, height] in pixels, not corners"
            )
        found["bbox"] = [float(value) for value in box]
    if found.pop("segmentation", None):
        found["segmentation"] = to_rle(entry["segmentation"], size)
    for key, low, high in (("score", -LIMIT, LIMIT), ("area", 0, LIMIT)):
        if key in found and not (is_number(found[key]) and low <= found[key] <= high):
            raise ValueError(f"has the {key!r} {found[key]!r:.60}; give a number, or none")
    for key in ("iscrowd", "ignore", "moving"):
        if found.get(key) not in (None, 0, 1):
            raise ValueError(f"has {key!r} {found[key]!r:.60}; give 0 or 1, or none")
    if "id" in found and _identity(found["id"]) is None:
        raise ValueError(f"has the 'id' {found['id']!r:.60}; give a whole number")
    return found
