"""Pseudo-depth of what moves: depths of single objects, brought to the scale of the scene (section 3.4).

On disk it is one small file a frame that has moving objects: boxes, masks as bits, depths in half precision
inside of the masks only. Depth outside is the teacher's, which is made again when it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.dynamic_depth.alignment import Aligned, Scene, frames_of, made_here
from moduv.dynamic_depth.objects import movers
from moduv.dynamic_depth.scales import ScaleConfig, contact_depth
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_npz, write_npz
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels

KEYS = ("size", "boxes", "bits", "depths", "scales")


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
    left, top, right, bottom = rle.extent(mask)
    inside = (slice(top, bottom), slice(left, right))
    scale = level / float(np.median(depth[mask]))
    shaped = np.full_like(depth[inside], level) if flat else depth[inside] * np.float32(scale)
    return ObjectDepth(top, left, mask[inside], shaped, scale)


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


def make_pseudo_depth(
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: ScaleConfig,
    alignment: Path | None = None,
    data: Path | None = None,
) -> None:
    """Write the pseudo-depth of every frame that has moving objects.

    Args:
        split: frames; those without objects or without motion output are left out.
        motion: folder of the motion outputs, whose depth is the teacher's.
        objects: label root made by `moduv depth objects`.
        out: receives `<segment>/NNNNNN.npz`; finished files are kept.
        config: how an object gets its depth.
        alignment: folder of `moduv depth align`, which then tells the depths; without, the road below does.
        data: folder of the frames, which the alignment looks at.

    Raises:
        InputError: when no frame has both, objects fit no depth, or a depth is not positive and finite.
    """
    if (alignment is None) != (data is None):
        raise InputError("depth pseudo: give --alignment and --data together, or none of them.")
    inputs = (split, *made_here(motion), objects, *(() if alignment is None else (alignment,)))
    stage = Stage("depth pseudo", out, config, inputs, data)
    stage.run(lambda: _make(split, motion, objects, out, config, alignment, data))


def _make(
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: ScaleConfig,
    alignment: Path | None,
    data: Path | None,
) -> dict[str, Any]:
    frames = frames_of(split, motion, objects)
    aligned = None if alignment is None else Aligned(alignment)
    if aligned is not None and aligned.flat != config.flat:
        raise InputError(
            f"{alignment}: was trained with flat {aligned.flat}, and pseudo-depth is to be made with flat "
            f"{config.flat}; give both the same."
        )
    for frame in progress(distributed.shard(frames), desc="pseudo-depth", unit="frame"):
        if not frame.file(out, ".npz").is_file():
            found = read_labels(objects, frame)
            pseudo = frame_pseudo_depth(frame, motion, found, config, aligned, data)
            write_pseudo_depth(frame.file(out, ".npz"), pseudo)
    distributed.barrier()
    made = [read_pseudo_depth(frame.file(out, ".npz")) for frame in frames]
    count = sum(len(pseudo.objects) for pseudo in made)
    share = np.mean([np.mean(pseudo.rendered() > 0) for pseudo in made])
    say(f"  {count} objects in {len(frames)} frames cover {100 * share:.1f} % of the pixels")
    return {"frames": len(frames), "objects": count, "share": float(share)}


def frame_pseudo_depth(
    frame: FrameRef,
    motion: Path,
    objects: Instances,
    config: ScaleConfig,
    aligned: Aligned | None = None,
    data: Path | None = None,
) -> PseudoDepth:
    """The pseudo-depth of a frame's moving objects; those that tell no depth are left out.

    Raises InputError when its depth is not positive and finite, or its objects are of another aspect.
    """
    path = frame.file(motion, ".npz")
    depth = read_npz(path, ("depth",))["depth"].astype(np.float32)
    if depth.ndim != 2 or not (np.isfinite(depth) & (depth > 0)).all():
        raise InputError(f"{path}: 'depth' is not positive and finite; predict it again.")
    size = (depth.shape[0], depth.shape[1])
    moving = objects[movers(objects)]
    if not len(moving):
        return PseudoDepth(size, ())
    moving.check_aspect(size, f"objects of {frame.line()}")
    masks = moving.resized(*size).decode()
    masks = masks[masks.any((1, 2))]
    levels: list[float | None]
    if aligned is None or data is None:
        levels = [contact_depth(depth, mask, config) for mask in masks]
    else:
        levels = list(aligned.levels(Scene.read(frame, data, motion), masks))
    known = [(mask, level) for mask, level in zip(masks, levels, strict=True) if level is not None]
    return PseudoDepth(
        size, tuple(object_depth(depth, mask, level, flat=config.flat) for mask, level in known)
    )
