"""Crops of named objects and of the background, with captions: training samples of a small encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from pycocotools import mask as coco
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.frames.images import read_image
from moduv.instances import rle
from moduv.instances.coco import (
    Annotation,
    DataSet,
    Image,
    group_by_image,
    is_ignored,
    read_ground_truth,
)
from moduv.naming.regions import crop_object
from moduv.naming.vocabulary import spoken

WIDER = 1.25
"""Cached crops are wider than training samples by this factor, so that they can be jittered."""
TRIES = 10
"""Largest number of attempts at a crop of the background in a frame."""
CROWDED = 0.1
"""Largest share of a background crop that objects may cover."""


@dataclass(frozen=True)
class CaptionConfig:
    """The captions of crops."""

    caption: str = "a photo of a {}"
    """Template of a caption."""
    kind_share: float = 0.3
    """Share of captions that use the last word of a name only, such as "van" of "red van"."""
    background_share: float = 0.17
    """Share of crops of the background."""
    background_name: str = "street"
    """Name of the background."""

    def __post_init__(self) -> None:
        shares = self.kind_share, self.background_share
        if self.caption.count("{}") != 1 or not all(0 <= share < 1 for share in shares):
            raise InputError(
                "'caption' needs one {}, and shares are in [0, 1); change the setting."
            )


@dataclass(frozen=True)
class Sample:
    """A crop (S, S, 3) uint8 and its caption."""

    pixels: np.ndarray
    caption: str


class NamedCrops:
    """Training samples of an image-text encoder, drawn from the sample seed alone.

    Names are drawn in proportion to the square root of their frequency. At most `cache_bytes` of crops are cached.

    Raises InputError for a ground truth without names.
    """

    def __init__(
        self,
        truth: Path,
        find: Callable[[str], Path],
        size: int,
        captions: CaptionConfig,
        tokenize: Callable[[list[str]], Tensor],
        cache_bytes: int = 1 << 29,
    ) -> None:
        data = read_ground_truth(truth)
        self.images, self.find, self.size = data.images, find, size
        self.captions, self.tokenize = captions, tokenize
        self.by_image = group_by_image(data.annotations)
        self.objects = named_objects(data)
        self._free = cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        names = [entry["name"] for entry in self.objects]
        _, owners, counts = np.unique(names, return_inverse=True, return_counts=True)
        weights = counts[owners] ** -0.5
        self._chances = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (any index, sample seed)."""
        rng = np.random.default_rng(item[1])
        number = int(np.searchsorted(self._chances, rng.random() * self._chances[-1]))
        if rng.random() < self.captions.background_share:
            background = self._background(number, rng)
            if background is not None:
                name = self.captions.background_name
                return Sample(background, self.captions.caption.format(name))
        name = spoken(self.objects[number]["name"])
        if rng.random() < self.captions.kind_share:
            name = name.split()[-1]
        return Sample(
            _jittered(self._crop(number), self.size, rng), self.captions.caption.format(name)
        )

    def collate(self, samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, S, S) uint8, tokens (B, L), and which samples share a caption: numbers (B,)."""
        pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
        captions = [sample.caption for sample in samples]
        owners = np.unique(captions, return_inverse=True)[1]
        return pixels.permute(0, 3, 1, 2), self.tokenize(captions), torch.from_numpy(owners)

    def _crop(self, number: int) -> np.ndarray:
        if number in self._cache:
            return self._cache[number]
        entry = self.objects[number]
        image = self._image(self.images[entry["image_id"]])
        crop = crop_object(image, entry["segmentation"], _wider(entry["bbox"]), _kept(self.size))
        if crop.nbytes <= self._free:
            self._free -= crop.nbytes
            self._cache[number] = crop
        return crop

    def _background(self, number: int, rng: np.random.Generator) -> np.ndarray | None:
        """A crop of the background of an object's frame, as large as the object; None if there is no room."""
        entry = self.objects[number]
        image = self._image(self.images[entry["image_id"]])
        height, width = image.shape[:2]
        others = [
            other.get("segmentation") or rle.from_box(other["bbox"], (height, width))
            for other in self.by_image[entry["image_id"]]
        ]
        w, h = (float(side) for side in entry["bbox"][2:])
        for _ in range(TRIES):
            box = [rng.uniform(0, max(1, width - w)), rng.uniform(0, max(1, height - h)), w, h]
            piece = rle.from_box(box, (height, width))
            # Overlap with a crowd counts as a share of the first mask alone.
            covered = coco.iou([piece], others, [1] * len(others)).sum()
            if rle.area(piece) and covered < CROWDED:
                crop = crop_object(image, piece, _wider(box), _kept(self.size))
                return _jittered(crop, self.size, rng)
        return None

    def _image(self, image: Image) -> np.ndarray:
        pixels = read_image(self.find(image.name))
        if image.size not in (None, pixels.shape[:2]):
            raise InputError(
                f"{self.find(image.name)}: is not of the size in the annotations; use theirs."
            )
        return pixels


def named_objects(data: DataSet) -> list[Annotation]:
    """The objects that have a name and a mask and are not ignored. Raises InputError when there is none."""
    kept = [
        entry
        for entry in data.annotations
        if isinstance(entry.get("name"), str)
        and spoken(entry["name"])
        and "segmentation" in entry
        and rle.area(entry["segmentation"])
        and not is_ignored(entry)
    ]
    if not kept:
        raise InputError(
            f"{data.name}: none of its annotations has a 'name' and a mask; add names, or render the street "
            "world anew in another folder."
        )
    return kept


def _wider(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A COCO box [x, y, width, height] as XYXY, `WIDER` times as large about its centre."""
    x, y, width, height = (float(value) for value in box)
    more_x, more_y = (WIDER - 1) / 2 * width, (WIDER - 1) / 2 * height
    return x - more_x, y - more_y, x + width + more_x, y + height + more_y


def _kept(size: int) -> int:
    return round(WIDER * size)


def _jittered(crop: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A sample (size, size, 3) from a wider crop, randomly scaled, moved, mirrored, and lighter or darker."""
    whole = len(crop)
    side = whole / WIDER * rng.uniform(0.88, 1.12)
    left, top = ((whole - side) / 2 + rng.uniform(-0.06, 0.06, 2) * side).tolist()
    picture = Picture.fromarray(crop)
    box: Any = (left, top, left + side, top + side)
    pixels = np.asarray(
        picture.transform((size, size), Picture.Transform.EXTENT, box, Picture.Resampling.BICUBIC)
    )
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    lit = pixels.astype(np.float32) * rng.uniform(0.92, 1.08)
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)
