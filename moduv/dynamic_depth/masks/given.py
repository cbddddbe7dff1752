"""Masks of objects and of the road from other programs, as label sets (for the variant with given masks)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moduv.datasets.cityscapes import original_frame
from moduv.dynamic_depth.objects import NOTHING
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import image_size
from moduv.frames.layouts import IMAGE_SUFFIXES
from moduv.frames.splits import read_split
from moduv.instances.indexed import read_png
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, read_labels, write_labels


@dataclass(frozen=True)
class MasksConfig:
    """How images become masks."""

    folder: str = "masks"
    """Folder of the masks, relative to the folder of the frames, or absolute."""
    certain: int = 128
    """Smallest grey level of a pixel in a mask; in images of 0 and 1 only, it is 1."""


def import_masks(data: Path, split: Path, out: Path, config: MasksConfig) -> None:
    """Turn images of masks into a label set.

    Args:
        data: folder of the frames, whose aspect ratio the masks must have.
        split: frames; those without masks are left out and counted.
        out: label root; finished files are kept.
        config: folder of the masks. The objects of a frame are `<frame>/0.png`, `1.png` and so on; a single mask, such
            as the road's, is `<frame>.png`. `<frame>` is `<segment>/NNNNNN` or, for Cityscapes,
            `<split>/<city>/<original name>`.

    Raises:
        InputError: when no frame has masks, all masks are empty, or a mask is broken or does not fit its frame.
    """
    stage = Stage("depth masks", out, config, (split,), data)
    stage.run(lambda: _import(data, split, out, config))


def _import(data: Path, split: Path, out: Path, config: MasksConfig) -> dict[str, Any]:
    frames, masks = read_split(split), data / config.folder
    found = {frame: paths for frame in frames if (paths := _mask_files(masks, frame)) is not None}
    if not found:
        raise InputError(
            f"{masks}: has no masks of the {len(frames)} frames of {split}, such as "
            f"{masks / frames[0].segment / f'{frames[0].index:06d}'}; check the folder."
        )
    say(f"  {len(found)} frames with masks, {len(frames) - len(found)} without left out")
    for frame in progress(distributed.shard(list(found)), desc="masks", unit="frame"):
        if not is_labelled(out, frame):
            size = image_size(frame.image_path(data))
            write_labels(out, frame, _read_masks(found[frame], size, config))
    distributed.barrier()
    count = sum(len(read_labels(out, frame)) for frame in found)
    empty = sum(map(len, found.values())) - count
    if not count:
        raise InputError(
            f"{masks}: all masks of the {len(found)} frames are empty; masks are images of one object each, "
            f"white where it is; mend them, and move {out} away to read them again."
        )
    say(f"  {count} masks" + (f"; left out: {empty} without a pixel" if empty else ""))
    return {"frames": len(found), "without": len(frames) - len(found), "masks": count}


def _mask_files(root: Path, frame: FrameRef) -> list[Path] | None:
    """The images of a frame's masks; None where there is neither a folder nor a file of that name.

    Raises InputError where there is more than one of them, and for other images in such a folder.
    """
    names = [name for name in (f"{frame.segment}/{frame.index:06d}", original_frame(frame)) if name]
    places = [root / place for name in dict.fromkeys(names) for place in (name, f"{name}.png")]
    found = [path for path in places if path.exists()]
    if len(found) > 1:
        raise InputError(
            f"{found[0]}: and {found[1]} are both masks of frame {frame.line()}; move one of them away."
        )
    if not found or found[0].is_file():
        return found or None
    images = [p for p in found[0].glob("[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES]
    other = next((path for path in images if path.suffix.lower() != ".png"), None)
    if other is not None:
        raise InputError(f"{other}: is no PNG; save masks as PNG files, which lose nothing.")
    return sorted(images, key=lambda path: (len(path.stem), path.stem))


def _read_levels(path: Path) -> np.ndarray:
    """The grey levels (H, W) uint8 of a mask. Raises InputError when it is broken, in colours, or of 16 bits."""
    kind, values = read_png(path)
    if kind == "P":
        with Image.open(path) as picture:
            values = np.asarray(picture.convert("RGB"))
    if values.dtype == bool:
        return 255 * values.astype(np.uint8)
    levels = values if values.ndim == 2 else values[..., 0]
    colours = values[..., :3] if values.ndim == 3 and values.shape[-1] > 2 else levels[..., None]
    if values.dtype != np.uint8 or (colours != levels[..., None]).any():
        raise InputError(
            f"{path}: is a picture of kind {kind}, of 16 bits or in colours; save each object as black and white."
        )
    return levels


def _read_masks(paths: list[Path], size: tuple[int, int] | None, config: MasksConfig) -> Instances:
    masks = []
    for path in paths:
        mask = _read_levels(path)
        # Masks of 0 and 1 are as common as those of 0 and 255.
        masks.append(mask >= (config.certain if mask.max(initial=0) > 1 else 1))
        if masks[-1].shape != masks[0].shape:
            raise InputError(f"{path}: is of another size than {paths[0].name}; make them again.")
    if not masks:
        return NOTHING
    found = Instances.from_dense(np.stack(masks))
    if size is not None:  # an image that cannot be read is named by who reads it
        width, height = size
        found.check_aspect((height, width), paths[0])
    return found[found.areas() > 0]
