"""Pseudo-depth: the depths of moving objects in the scale of the scene (Nguyen et al. 2024, section 3.4).

It is stored as one small file for each frame with moving objects: boxes, masks as bits, and depths in half precision inside
the masks only. The depth outside is that of stage 1, which is predicted again where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_npz, write_npz
from moduv.instances import rle

KEYS = ("size", "boxes", "bits", "depths", "scales")
LARGEST_SIDE = 1 << 14
"""Files that claim more rows or columns than this are broken."""


@dataclass(frozen=True)
class ObjectDepth:
    """The depth of an object in the scale of the scene, inside its box."""

    top: int
    left: int
    mask: np.ndarray
    """(h, w) bool."""
    depth: np.ndarray
    """(h, w), valid inside the mask."""
    scale: float
    """Median of this depth divided by the median of stage 1's."""

    @property
    def is_known(self) -> bool:
        """Whether its whole depth is positive and finite in the half precision in which it is stored."""
        with np.errstate(over="ignore"):
            kept = self.depth[self.mask].astype(np.float16)
        return bool((np.isfinite(kept) & (kept > 0)).all())


@dataclass(frozen=True)
class PseudoDepth:
    """The moving objects of a frame."""

    size: tuple[int, int]
    """Height and width of the frame's depth."""
    objects: tuple[ObjectDepth, ...]

    def rendered(self) -> np.ndarray:
        """Depth (H, W) float32 of the objects, 0 elsewhere; where they overlap, the nearer one counts."""
        nearest = np.full(self.size, np.inf, np.float32)
        for item in self.objects:
            height, width = item.mask.shape
            place = nearest[item.top : item.top + height, item.left : item.left + width]
            place[item.mask] = np.minimum(place[item.mask], item.depth[item.mask])
        return np.where(np.isfinite(nearest), nearest, 0.0)


def compose(scene: np.ndarray, objects: PseudoDepth) -> np.ndarray:
    """The depth (H, W) of a scene (H, W), replaced by that of its moving objects."""
    rendered = objects.rendered()
    return np.where(rendered > 0, rendered, scene)


def object_depth(depth: np.ndarray, mask: np.ndarray, level: float, *, flat: bool) -> ObjectDepth:
    """An object whose median depth is set to `level`.

    Args:
        depth: (H, W), predicted by stage 1.
        mask: (H, W) bool, not empty.
        level: the depth at which the object stands.
        flat: give the whole object this depth; otherwise it keeps its predicted shape.
    """
    median = float(np.median(depth[mask]))
    return cut_out(np.full_like(depth, level) if flat else depth * (level / median), depth, mask)


def cut_out(field: np.ndarray, depth: np.ndarray, mask: np.ndarray) -> ObjectDepth:
    """An object with depths of its own.

    Args:
        field: (H, W), the depths of the object inside `mask`.
        depth: (H, W), predicted by stage 1.
        mask: (H, W) bool, not empty.
    """
    left, top, right, bottom = rle.extent(mask)
    inside = (slice(top, bottom), slice(left, right))
    scale = float(np.median(field[mask]) / np.median(depth[mask]))
    return ObjectDepth(top, left, mask[inside], field[inside].astype(np.float32), scale)


def write_pseudo_depth(path: Path, pseudo: PseudoDepth) -> None:
    """Write the objects of a frame, atomically."""
    masks = [item.mask for item in pseudo.objects]
    corners = [(item.left, item.top, *item.mask.shape[::-1]) for item in pseudo.objects]
    bits = np.concatenate([mask.ravel() for mask in masks]) if masks else np.zeros(0, bool)
    inside = [item.depth[item.mask] for item in pseudo.objects]
    write_npz(
        path,
        size=np.array(pseudo.size, np.int32),
        boxes=np.array(corners, np.int32).reshape(-1, 4),
        bits=np.packbits(bits),
        depths=np.concatenate(inside).astype(np.float16) if inside else np.zeros(0, np.float16),
        scales=np.array([item.scale for item in pseudo.objects], np.float32),
    )


def read_pseudo_depth(path: Path) -> PseudoDepth:
    """Read the objects of a frame. Raises InputError when the file is missing or damaged."""
    arrays = read_npz(path, KEYS)
    try:
        return _parse(arrays)
    except (ValueError, IndexError, TypeError, OverflowError):
        raise InputError(f"{path}: is no pseudo-depth of a frame; {MEND}.") from None


def _parse(arrays: dict[str, np.ndarray]) -> PseudoDepth:
    height, width = (int(side) for side in arrays["size"])
    if not 0 < min(height, width) <= max(height, width) <= LARGEST_SIDE:
        raise ValueError
    depths = arrays["depths"].astype(np.float32)
    if not (np.isfinite(depths) & (depths > 0)).all():
        raise ValueError
    areas = [int(box[2]) * int(box[3]) for box in arrays["boxes"]]
    bits = np.unpackbits(arrays["bits"], count=sum(areas)).astype(bool)
    objects, pixel, value = [], 0, 0
    for box, area, scale in zip(arrays["boxes"], areas, arrays["scales"], strict=True):
        left, top, columns, rows = (int(side) for side in box)
        if min(left, top) < 0 or left + columns > width or top + rows > height:
            raise ValueError
        mask = bits[pixel : pixel + area].reshape(rows, columns)
        depth = np.zeros((rows, columns), np.float32)
        count = int(np.count_nonzero(mask))
        depth[mask] = depths[value : value + count]
        pixel, value = pixel + area, value + count
        objects.append(ObjectDepth(top, left, mask, depth, float(scale)))
    if value != len(depths):
        raise ValueError
    return PseudoDepth((height, width), tuple(objects))
