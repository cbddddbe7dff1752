"""Pseudo-depth of what moves: depths of single objects, brought to the scale of the scene (section 3.4).

On disk it is one small file a frame that has moving objects: boxes, masks as bits, depths in half precision
inside of the masks only. Depth outside is the teacher's, which is made again when it is needed.
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
"""Rows or columns of a depth beyond which a file is taken for broken."""


@dataclass(frozen=True)
class ObjectDepth:
    """An object's depth in the scene's scale, inside its rectangle."""

    top: int
    left: int
    mask: np.ndarray
    """(h, w) bool."""
    depth: np.ndarray
    """(h, w), counts inside the mask."""
    scale: float
    """Factor from the teacher's depth to this one, in the median."""

    @property
    def is_known(self) -> bool:
        """Whether all of its depth is in front of the camera, and a number in half precision as it is kept."""
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
        """Depth (H, W) float32 on the objects, 0 elsewhere; where they overlap, the nearer one's."""
        nearest = np.full(self.size, np.inf, np.float32)
        for item in self.objects:
            height, width = item.mask.shape
            place = nearest[item.top : item.top + height, item.left : item.left + width]
            place[item.mask] = np.minimum(place[item.mask], item.depth[item.mask])
        return np.where(np.isfinite(nearest), nearest, 0.0)


def compose(scene: np.ndarray, objects: PseudoDepth) -> np.ndarray:
    """The depth (H, W) of a scene with its moving objects where they are."""
    rendered = objects.rendered()
    return np.where(rendered > 0, rendered, scene)


def object_depth(depth: np.ndarray, mask: np.ndarray, level: float, *, flat: bool) -> ObjectDepth:
    """An object of a scene at a depth.

    Args:
        depth: (H, W), the teacher's.
        mask: (H, W) bool, not empty.
        level: the depth at which the object stands.
        flat: give all of it that depth; otherwise it keeps the teacher's shape.
    """
    median = float(np.median(depth[mask]))
    return cut_out(np.full_like(depth, level) if flat else depth * (level / median), depth, mask)


def cut_out(field: np.ndarray, depth: np.ndarray, mask: np.ndarray) -> ObjectDepth:
    """An object (H, W) bool, not empty, whose depth is that of a field (H, W) and not the teacher's (H, W)."""
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
