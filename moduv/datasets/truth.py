"""Shared parts of ground truth: objects of images as a COCO file, depths and motion labels of frames.

`write_truth` writes objects from the annotations of a data set; `read_truth` reads depths and motion labels from the layouts
of prepared data sets and of the street world.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from moduv import __version__
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz, read_text, write_json
from moduv.engine.log import say
from moduv.frames import layouts
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.layouts import BACKGROUND, MOVING, STATIC, UNLABELLED
from moduv.frames.splits import read_split
from moduv.instances import rle
from moduv.instances.coco import CATEGORIES, IMAGE_SUFFIX
from moduv.instances.rle import Rle

Size = tuple[int, int]
"""Height and width in pixels."""
Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels, as in COCO; coordinates are continuous, so a pixel is 1 wide."""


@dataclass(frozen=True)
class TruthConfig:
    """Which annotated objects and images count; by default all."""

    min_width: float = 0.0
    """Objects with a narrower box, in pixels of the full image, are ignored."""
    min_height: float = 0.0
    """Objects with a lower box, in pixels of the full image, are ignored."""
    min_area: float = 0.0
    """Objects that cover fewer pixels are ignored."""
    empty_images: bool = True
    """Keep images without an object that counts, in which every detection is a false positive."""

    def __post_init__(self) -> None:
        if min(self.min_width, self.min_height, self.min_area) < 0:
            raise InputError("truth: a smallest size is negative; use 0 to ignore no object.")


@dataclass(frozen=True)
class TrueObject:
    """An object, or a region in which detections are ignored."""

    box: Box
    name: str
    """Its category in the data set."""
    mask: Rle | None = None
    area: float | None = None
    """Area in pixels; None: that of the mask, or else of the box."""
    ignore: bool = False
    moving: bool | None = None


@dataclass(frozen=True)
class TrueImage:
    """An annotated image."""

    file_name: str
    """`<segment>/NNNNNN.jpg` where the data set has segments, its path below its folder elsewhere."""
    size: Size | None
    objects: tuple[TrueObject, ...]
    id: int | str | None = None
    """The data set's own id; None: images are counted from 1."""


def check_names(wanted: Iterable[str], known: Iterable[str], source: str) -> None:
    """Raise InputError for a wanted category that is neither known nor a family of known ones."""
    known = list(known)
    for name in wanted:
        if not any(is_of_family(other, name) for other in known):
            raise InputError(
                f"{source}: has no category {name!r} but {', '.join(known) or 'none'}; "
                "name some of these in --config.categories or --config.ignored."
            )


def is_of_family(name: str, *families: str) -> bool:
    """Test whether a category is one of the families or belongs to one, as `vehicle.car` to `vehicle`."""
    return any(name == family or name.startswith(f"{family}.") for family in families)


class Selection:
    """The images that a split file names; without a file, all images.

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

    def check(self, file_names: Iterable[str]) -> None:
        """Say how many lines name no image. Raises InputError for a line that names several."""
        found: dict[str, str] = {}
        for file_name in file_names:
            for line in self._names.intersection(_endings(_parts(file_name))):
                if line in found:
                    raise InputError(
                        f"{self.split}: {line!r} may be {found[line]!r} or {file_name!r}; "
                        "write more of the path, and rename images that differ in their suffix only."
                    )
                found[line] = file_name
        if len(found) < len(self._names):
            first = min(self._names - found.keys())
            say(
                f"{self.split}: {len(self._names) - len(found)} of {len(self._names)} lines name no image "
                f"that has ground truth, as {first!r}"
            )

    def reaches(self, folder: str) -> bool:
        """Test whether any image of a folder may be wanted."""
        return self.split is None or not self._folders.isdisjoint(
            ["", *_endings(PurePosixPath(folder).parts)]
        )


def _read_names(split: Path) -> list[str]:
    names = [line.strip() for line in read_text(split).splitlines() if line.strip()]
    if names and all(len(name.split()) == 1 for name in names):
        return names
    return [f"{frame.segment}/{frame.index}" for frame in read_split(split)]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name without suffix; a number without the zeros before it."""
    *folders, stem = PurePosixPath(IMAGE_SUFFIX.sub("", name)).parts or ("",)
    return (*folders, (stem.lstrip("0") or "0") if stem.isdecimal() else stem)


def _endings(parts: tuple[str, ...]) -> list[str]:
    return ["/".join(parts[start:]) for start in range(len(parts))]


def write_truth(
    out: Path, images: Iterable[TrueImage], config: TruthConfig, selection: Selection, source: str
) -> list[str]:
    """Write class-agnostic ground truth as COCO JSON, atomically, and log its counts.

    Annotations have `category_id` 1, `name` (the data set's category), `moving` where known, and
    `iscrowd` and `ignore` 1 for ignored regions: those of the data set, and objects below the smallest
    size. Where objects have masks, one without a mask is ignored within its box.

    Args:
        out: the file to write.
        images: annotated images, written in this order.
        config: which objects and images count.
        selection: images outside it are left out.
        source: the data set, written to the file's `info`.

    Returns:
        The names of the images written.

    Raises:
        InputError: when no image is left, or none has an object that counts.
    """
    kept = [image for image in images if image.file_name in selection]
    if not kept:
        where = selection.split or source
        raise InputError(
            f"{where}: names no image that has ground truth; "
            "check that the folder, the part and the split file belong together."
        )
    selection.check(image.file_name for image in kept)
    with_masks = any(item.mask is not None for image in kept for item in image.objects)
    entries, annotations = _coco(kept, config, with_masks=with_masks)
    judged = sum(not annotation["ignore"] for annotation in annotations)
    if not judged:
        raise InputError(
            f"{source}: no image has an object to be found; "
            "check the categories, the smallest size and the split file."
        )
    _tell_doubts(kept, source)
    info = {"description": source, "moduv": __version__, "settings": to_dict(config)}
    content = {"info": info, "images": entries, "annotations": annotations}
    write_json(out, {**content, "categories": CATEGORIES})
    kind = "boxes and masks" if with_masks else "boxes"
    say(
        f"{out}: {judged} objects ({kind}) and {len(annotations) - judged} ignored regions "
        f"in {len(entries)} images"
    )
    return [entry["file_name"] for entry in entries]


def _tell_doubts(images: list[TrueImage], source: str) -> None:
    """Say how many boxes reach beyond their image, and how many images have no known size."""
    beyond = [
        f"{list(item.box)} in {image.file_name}, {image.size[0]} x {image.size[1]}"
        for image in images
        for item in image.objects
        if image.size is not None and _is_beyond(item.box, image.size)
    ]
    if beyond:
        say(f"{source}: {len(beyond)} boxes reach beyond their image, first {beyond[0]}")
    unknown = sum(image.size is None for image in images)
    if unknown:
        say(f"{source}: {unknown} images are not there, and their sizes are left out")


def _is_beyond(box: Box, size: Size) -> bool:
    left, top, width, height = box
    return min(left, top) < -1 or left + width > size[1] + 1 or top + height > size[0] + 1


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
        if image.size is None:
            raise InputError(
                f"{image.file_name}: has an object without mask and no known size; "
                "give the image's height and width."
            )
        mask, ignore = rle.from_box(item.box, image.size), True
    width, height = item.box[2:]
    area = item.area
    if area is None:
        area = width * height if item.mask is None else rle.area(item.mask)
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


@dataclass(frozen=True)
class FrameTruth:
    """Depths and motion labels of a frame of height x width pixels."""

    height: int
    width: int
    points: np.ndarray | None
    """(N, 3): row, column, metres."""
    labels: np.ndarray | None
    """(H, W): 0 background, 1 moving, 2 static, 3 unlabelled."""


def motion_labels(instances: np.ndarray, ids: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Label each pixel 0 background, 1 moving or 2 static.

    Args:
        instances: (H, W), the object's id at each pixel, 0 for background.
        ids: (N,), the objects of the clip.
        moving: (N,), whether each moves.
    """
    kinds = [instances == 0, np.isin(instances, ids[moving.astype(bool)])]
    return np.select(kinds, [BACKGROUND, MOVING], STATIC)


def read_truth(root: Path, frame: FrameRef) -> FrameTruth | None:
    """Read the depth and motion labels of a frame; None where a real data set has neither.

    Args:
        root: the street world's `truth` folder, or the data folder of a prepared real data set.
        frame: the frame.

    Raises:
        InputError: when a file is damaged or does not belong to the frame.
    """
    if layouts.layout_of(root, frame.segment).name == "folder":
        truth = read_npz(frame.file(root, ".npz"), ("depth", "instances", "ids", "moving"))
        depth = truth["depth"].astype(np.float32)
        labels = motion_labels(truth["instances"], truth["ids"], truth["moving"])
        return FrameTruth(depth.shape[0], depth.shape[1], points_of_map(depth), labels)
    points = layouts.depth_points(root, frame.segment, frame.index)
    known = layouts.motion_labels(root, frame.segment, frame.index)
    if points is None and known is None:
        return None
    height, width = read_image(frame.image_path(root)).shape[:2]
    try:
        if known is not None and known.ndim == 1:
            known = _labels_at_points(known, points, height, width)
        if points is not None:
            points = points[inside_image(points, height, width)]
    except InputError as error:
        raise InputError(f"{root}: frame {frame.line()}: {error}") from None
    return FrameTruth(height, width, points, known)


def _labels_at_points(
    labels: np.ndarray, points: np.ndarray | None, height: int, width: int
) -> np.ndarray:
    """Labels (N,) of depth points as labels (H, W) that are unknown elsewhere."""
    if points is None or len(points) != len(labels):
        raise InputError(
            f"{len(labels)} motion labels do not belong to the frame's depth points; prepare it again."
        )
    inside = inside_image(points, height, width)
    rows, columns = points[inside, :2].astype(int).T
    image = np.full((height, width), UNLABELLED, np.uint8)
    image[rows, columns] = labels[inside]
    return image


def inside_image(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Find the points (N, 3) of (row, column, metres) in an image of height x width pixels, (N,) bool.

    Raises InputError when most lie beyond it, as those of another frame or in another order do.
    """
    rows, columns = np.asarray(points)[:, :2].astype(int).T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    beyond = int((~inside).sum())
    if 2 * beyond > len(points):
        raise InputError(
            f"{beyond} of the {len(points)} depth points lie beyond the frame of {height} x {width} "
            "pixels; check that they belong to it and their order."
        )
    return inside


def points_of_map(depth: np.ndarray) -> np.ndarray:
    """Convert a dense depth (H, W) in metres to points (H·W, 3) of (row, column, metres)."""
    rows, columns = np.indices(depth.shape)
    return np.stack([rows.ravel(), columns.ravel(), depth.ravel()], axis=1).astype(np.float64)
