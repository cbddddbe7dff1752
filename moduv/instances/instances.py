"""Instances: the currency between stages, and its official form on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.instances import rle
from moduv.instances.crops import Crop, check_finite, crop_masks, dense_masks
from moduv.instances.rle import Rle

LIMIT = float(np.finfo(np.float32).max)
"""Numbers in label files are smaller than this."""
ASPECT_TOLERANCE = 0.12
"""Labels may be made at a size whose aspect ratio was rounded, as 192 x 640 for 375 x 1242."""
COLUMNS = {"id": "ids"}
"""Columns whose key in label files is another word."""


@dataclass(frozen=True)
class Predictions:
    """What a detector says of one image."""

    crops: list[Crop]
    """The probability of each pixel, N times."""
    boxes: Tensor
    """(N, 4), XYXY in pixels."""
    scores: Tensor
    """(N,)."""
    size: tuple[int, int]
    """Height and width of the image."""

    @classmethod
    def from_dense(cls, masks: Tensor, boxes: Tensor, scores: Tensor) -> Predictions:
        """From masks (N, H, W): probabilities, or uint8 in steps of 1 / 255."""
        return cls(crop_masks(masks), boxes, scores, (masks.shape[1], masks.shape[2]))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> Tensor:
        """The masks (N, H, W) at the image's size: for tests and drawings, not for many frames."""
        return dense_masks(self.crops, self.size)

    def above(self, score: float) -> Predictions:
        """The predictions with a score strictly above a threshold, in order."""
        chosen = self.scores.float() > score
        crops = [self.crops[i] for i in chosen.nonzero()[:, 0].tolist()]
        return Predictions(crops, self.boxes[chosen], self.scores[chosen], self.size)

    def to_instances(self, score: float = 0.0, mask_threshold: float = 0.5) -> Instances:
        """The predictions with a score strictly above `score`, with hard masks, in order.

        Pixels with a probability strictly above `mask_threshold` belong to the mask. Boxes are kept as
        predicted, and so are predictions whose mask turns out empty.

        Raises:
            InputError: when probabilities are not finite.
        """
        chosen = self.above(score)
        check_finite(chosen.crops)
        masks = [crop.encode(mask_threshold, self.size) for crop in chosen.crops]
        boxes, scores = chosen.boxes.float().cpu().numpy(), chosen.scores.float().cpu().numpy()
        return Instances(masks, boxes, scores, self.size)


@dataclass(frozen=True)
class Instances:
    """Objects of one frame.

    Boxes are continuous XYXY in pixels of the masks' size: an object that covers one pixel (x, y) has
    the box (x, y, x + 1, y + 1). Any other fact about an object is a column: `track`, `name`, `moving`,
    `id`. Selections and concatenations carry all columns along.
    """

    masks: list[Rle]
    boxes: np.ndarray
    """(N, 4) float32."""
    scores: np.ndarray | None = None
    """(N,) float32; initial labels have none."""
    size: tuple[int, int] | None = None
    """Height and width of the masks; unknown only when there is none."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further facts by name, (N,) each."""

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        object.__setattr__(self, "boxes", boxes)
        if self.scores is not None:
            object.__setattr__(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        if self.size is None and self.masks:
            height, width = self.masks[0]["size"]
            object.__setattr__(self, "size", (int(height), int(width)))
        others = [] if self.scores is None else [self.scores]
        lengths = {
            len(self.masks),
            *(len(values) for values in (boxes, *others, *columns.values())),
        }
        if len(lengths) > 1:
            raise ValueError(
                f"masks, boxes, scores and columns of different lengths: {sorted(lengths)}"
            )

    def __len__(self) -> int:
        return len(self.masks)

    def __repr__(self) -> str:
        """How many there are, and what is known of them; the masks are too long to be read."""
        told = [f"{len(self)} objects"]
        if self.size is not None:
            told.append("size {} x {}".format(*self.size))
        if self.scores is not None and len(self):
            told.append(f"scores {self.scores.min():.2f} to {self.scores.max():.2f}")
        if self.columns:
            told.append(f"columns {', '.join(self.columns)}")
        return f"Instances({'; '.join(told)})"

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Instances:
        """A selection by slice, positions or booleans."""
        chosen = np.arange(len(self))[index].reshape(-1)
        scores = None if self.scores is None else self.scores[chosen]
        columns = {name: values[chosen] for name, values in self.columns.items()}
        masks = [self.masks[i] for i in chosen]
        return Instances(masks, self.boxes[chosen], scores, self.size, columns)

    def above(self, score: float) -> Instances:
        """The objects with a score strictly above a threshold; all where there are no scores."""
        return self if self.scores is None else self[self.scores > np.float32(score)]

    def with_columns(self, **columns: np.ndarray | Sequence[Any]) -> Instances:
        """The same objects with columns (N,) added or replaced."""
        added = {name: np.asarray(values) for name, values in columns.items()}
        return replace(self, columns={**self.columns, **added})

    @classmethod
    def concatenate(cls, parts: Sequence[Instances]) -> Instances:
        """All objects of one frame, part after part.

        Raises ValueError when the masks are of different sizes, or only some parts have scores or a
        column.
        """
        # An empty frame read from disk knows neither its size nor whether its kind has scores.
        filled = [part for part in parts if len(part)] or list(parts)
        sizes = {part.size for part in parts} - {None}
        scores = [part.scores for part in filled if part.scores is not None]
        names = {frozenset(part.columns) for part in filled}
        if len(sizes) > 1 or len(scores) not in {0, len(filled)} or len(names) > 1:
            raise ValueError(
                "parts with masks of different sizes, or of different scores or columns"
            )
        return cls(
            [mask for part in filled for mask in part.masks],
            np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in filled)]),
            np.concatenate(scores) if scores else None,
            next(iter(sizes), None),
            {
                name: np.concatenate([part.columns[name] for part in filled])
                for name in next(iter(names), ())
            },
        )

    def areas(self) -> np.ndarray:
        """Pixels of each mask, (N,)."""
        # One by one: pycocotools counts no more than 255 at once with numpy 2.
        return np.array([rle.area(mask) for mask in self.masks], np.int64)

    def iou(self, other: Instances) -> np.ndarray:
        """Intersection over union of the masks, (N, M). Raises ValueError for different sizes."""
        if not len(self) or not len(other):
            return np.zeros((len(self), len(other)))
        if self.size != other.size:
            raise ValueError(f"masks of {self.size} cannot be compared with masks of {other.size}")
        return np.asarray(coco.iou(self.masks, other.masks, [0] * len(other)))

    def decode(self) -> np.ndarray:
        """The masks (N, H, W), bool."""
        height, width = self.size or (0, 0)
        if not self.masks:
            return np.zeros((0, height, width), bool)
        return np.stack([rle.decode(mask) for mask in self.masks])

    def boxes_at(self, height: int, width: int) -> np.ndarray:
        """Boxes (N, 4) in pixels of an image of another size."""
        if self.size is None:
            return self.boxes.copy()
        factors = np.array([width / self.size[1], height / self.size[0]] * 2, np.float32)
        return self.boxes * factors

    def check_aspect(self, image: Sequence[int], source: str | Path) -> None:
        """Raise InputError, naming the source, when an image (height, width) has another aspect ratio."""
        height, width = self.size or image[:2]
        if abs((height * image[1]) / (width * image[0]) - 1) > ASPECT_TOLERANCE:
            raise InputError(
                f"{source}: 'masks' are {height} x {width} but the image is {image[0]} x {image[1]}, "
                "another aspect ratio; make the labels from these frames."
            )

    def resized(self, height: int, width: int) -> Instances:
        """The same objects at another image size; masks by nearest neighbour, boxes exactly."""
        if self.size == (height, width):
            return self
        full = (rle.decode(mask).view(np.uint8) for mask in self.masks)
        to, by = (width, height), cv2.INTER_NEAREST
        masks = [rle.encode(cv2.resize(pixels, to, interpolation=by)) for pixels in full]
        return replace(self, masks=masks, boxes=self.boxes_at(height, width), size=(height, width))

    def to_coco(
        self, image_id: int | str = 1, size: tuple[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: `bbox` [x, y, width, height], `score` (1 without scores), RLE `segmentation`.

        Objects that are followed have a `track_id`, those with names a `name`.

        Args:
            image_id: of the image.
            size: height and width of the image; None: that of the masks.
        """
        from moduv.instances.conversions import coco_results

        return coco_results(self if size is None else self.resized(*size), image_id)

    @classmethod
    def from_coco(
        cls, annotations: Sequence[dict[str, Any]], size: tuple[int, int] | None = None
    ) -> Instances:
        """See `moduv.instances.coco.coco_instances`; `track_id` and `name` that all have become columns."""
        from moduv.instances.conversions import from_coco

        return from_coco(annotations, size)

    def to_supervision(self) -> Any:
        """`supervision.Detections` of class 0; `track` becomes `tracker_id`, `name` the data `class_name`.

        Other columns are data under their names. Raises ModuleNotFoundError where the package `supervision`
        is not installed.
        """
        from moduv.instances.conversions import to_supervision

        return to_supervision(self)

    @classmethod
    def from_supervision(cls, detections: Any, size: tuple[int, int] | None = None) -> Instances:
        """Of `supervision.Detections` with masks (N, H, W); the way back of `to_supervision`.

        `size`, height and width of the image, is needed where there is no object. Raises ValueError when
        objects have no masks.
        """
        from moduv.instances.conversions import from_supervision

        return from_supervision(detections, size)

    def to_torchvision(self) -> dict[str, Tensor]:
        """A target of torchvision's detectors: `boxes` (N, 4), `labels` (N,) 1, `masks` (N, H, W) uint8."""
        from moduv.instances.conversions import to_torchvision

        return to_torchvision(self)

    @classmethod
    def from_torchvision(
        cls, target: Mapping[str, Tensor], mask_threshold: float = 0.5
    ) -> Instances:
        """Of a target or an output of torchvision's detectors.

        `masks` are (N, H, W) or (N, 1, H, W), whole or probabilities that exceed a threshold; `scores` may
        be missing.
        """
        from moduv.instances.conversions import from_torchvision

        return from_torchvision(target, mask_threshold)

    @classmethod
    def from_dense(
        cls,
        masks: np.ndarray,
        boxes: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> Instances:
        """Of masks (N, H, W) bool; boxes (N, 4) XYXY are fitted to them where there are none."""
        runs = [rle.encode(mask) for mask in masks.astype(bool)]
        if boxes is None:
            boxes = np.asarray(coco.toBbox(runs), np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
        size = (int(masks.shape[1]), int(masks.shape[2]))
        return cls(runs, boxes, scores, size, columns or {})

    def to_json(self) -> dict[str, Any]:
        """The official form, and columns under their names.

        Without scores (L0), boxes are inclusive pixel indices.
        """
        masks = [{"size": list(mask["size"]), "counts": mask["counts"]} for mask in self.masks]
        columns = {
            COLUMNS.get(name, name): values.tolist() for name, values in self.columns.items()
        }
        if self.scores is None:
            inclusive = np.round(self.boxes - np.array([0, 0, 1, 1])).astype(int)
            return {"masks": masks, "boxes": inclusive.tolist(), **columns}
        scored = {"boxes": self.boxes.tolist(), "scores": self.scores.tolist()}
        return {"masks": masks, **scored, **columns}

    @classmethod
    def from_json(cls, content: Any, source: str | Path = "labels") -> Instances:
        """Read the official form; boxes of labels without scores become continuous.

        Raises InputError naming the source and the key that is missing or broken.
        """
        try:
            if not isinstance(content, dict):
                raise ValueError("holds no labels")
            masks = _list(content, "masks")
            for position, mask in enumerate(masks):
                if not rle.is_whole(mask):
                    raise ValueError(f"'masks' entry {position} is no whole run-length mask")
            if len({tuple(mask["size"]) for mask in masks}) > 1:
                raise ValueError("'masks' are of different sizes")
            boxes = _numbers(content, "boxes", 4, len(masks))
            inverted = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(1))
            if len(inverted):
                raise ValueError(f"'boxes' entry {inverted[0]} is not left, top, right, bottom")
            columns = _columns(content, len(masks))
            if "scores" not in content:
                return cls(masks, boxes + np.array([0, 0, 1, 1], np.float32), columns=columns)
            scores = _numbers(content, "scores", 0, len(masks))
        except ValueError as error:
            raise InputError(
                f"{source}: {error}; make the labels again, or mend the file."
            ) from None
        return cls(masks, boxes, scores, columns=columns)


def _columns(content: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    """What a file says of its objects beside the official keys; lists about other things are left.

    Raises ValueError for a known column of another length or of values that are no plain facts.
    """
    columns = {}
    for key, values in content.items():
        if key in {"masks", "boxes", "scores"} or not isinstance(values, list):
            continue
        kinds = {type(value) for value in values}
        plain = kinds <= {int, float} or kinds in ({str}, {bool})
        # Whole numbers beyond 64 bits are none of ours.
        plain = plain and all(abs(value) < 1 << 63 for value in values if type(value) is int)
        if len(values) == count and plain and (key != "ids" or kinds <= {int}):
            name = next((name for name, stored in COLUMNS.items() if stored == key), key)
            columns[name] = np.asarray(values, np.int64 if key == "ids" else None)
        elif key in {"ids", "track", "name", "moving"}:
            kind = "whole number" if key == "ids" else "value"
            raise ValueError(f"{key!r} is not one {kind} per mask")
    return columns


def _list(content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list):
        raise ValueError(f"lacks the list '{key}'")
    return list(content[key])


def _numbers(content: dict[str, Any], key: str, width: int, count: int) -> np.ndarray:
    """The list `key` as finite numbers (N, width), or (N,) when the width is 0."""
    rows = _list(content, key)
    if len(rows) != count:
        raise ValueError(f"'{key}' has {len(rows)} entries for {count} masks")
    for position, row in enumerate(rows):
        values = row if width else [row]
        plain = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        # NaN compares false; larger numbers would become infinite in float32.
        if not plain or len(values) != (width or 1) or not all(abs(v) < LIMIT for v in values):
            raise ValueError(f"'{key}' entry {position} is not made of {width or 1} finite numbers")
    return np.asarray(rows, np.float32).reshape((-1, width) if width else -1)
