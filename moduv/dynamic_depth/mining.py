"""Pseudo-depth: every moving object gets its depth from the road, or from an alignment (Nguyen et al. 2024, section 3.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moduv.dynamic_depth.alignment import Aligned
from moduv.dynamic_depth.objects import movers
from moduv.dynamic_depth.outputs import frames_of, made_here, read_depth, teachers
from moduv.dynamic_depth.pseudo import (
    PseudoDepth,
    cut_out,
    object_depth,
    read_pseudo_depth,
    write_pseudo_depth,
)
from moduv.dynamic_depth.scales import ScaleConfig, contact_depth, fit_road
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels


def make_pseudo_depth(
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: ScaleConfig,
    alignment: Path | None = None,
    data: Path | None = None,
    road: Path | None = None,
    shapes: Path | None = None,
) -> None:
    """Write the pseudo-depth of every frame that has moving objects.

    Args:
        split: frames; those without objects or without motion output are left out.
        motion: folder of the motion outputs, whose depth sets the scale.
        objects: label root made by `moduv depth objects`.
        out: receives `<segment>/NNNNNN.npz`; finished files are kept.
        config: how an object gets its depth.
        alignment: folder of `moduv depth align`, which predicts the depths; without it, they come from the road.
        data: folder of the frames, for the alignment.
        road: label root of the road, if the alignment was trained with one.
        shapes: folder of `moduv depth shapes`, if the alignment was trained with it.

    Raises:
        InputError: when no frame has both, objects and depth differ in their aspect ratio, or a depth is not positive and
            finite.
    """
    if (alignment is None) != (data is None) or (alignment is None and (road or shapes)):
        raise InputError(
            "depth pseudo: give --alignment and --data together, or none of them; --road and --shapes go with them."
        )
    inputs = (split, *made_here(motion), objects, *made_here(alignment, road, shapes))
    stage = Stage("depth pseudo", out, config, inputs, data)

    def work() -> dict[str, Any]:
        aligned = None
        if alignment is not None and data is not None:
            aligned = Aligned(alignment, data, motion, road, shapes)
        made = _make(split, motion, objects, out, config, aligned)
        return {**made, "teachers": teachers(motion)}

    stage.run(work)


def _make(
    split: Path,
    motion: Path,
    objects: Path,
    out: Path,
    config: ScaleConfig,
    aligned: Aligned | None,
) -> dict[str, Any]:
    frames = frames_of(split, motion, objects)
    for frame in progress(distributed.shard(frames), desc="pseudo-depth", unit="frame"):
        if not frame.file(out, ".npz").is_file():
            found = read_labels(objects, frame)
            pseudo = frame_pseudo_depth(frame, motion, found, config, aligned)
            write_pseudo_depth(frame.file(out, ".npz"), pseudo)
    distributed.barrier()
    made = [read_pseudo_depth(frame.file(out, ".npz")) for frame in frames]
    count = sum(len(pseudo.objects) for pseudo in made)
    moving = sum(int(movers(read_labels(objects, frame)).sum()) for frame in frames)
    share = np.mean([np.mean(pseudo.rendered() > 0) for pseudo in made])
    say(f"  {count} objects in {len(frames)} frames cover {100 * share:.1f} % of the pixels")
    if count < moving:
        say(f"  {moving - count} moving objects that tell no depth left out")
    return {
        "frames": len(frames),
        "objects": count,
        "left_out": moving - count,
        "share": float(share),
    }


def frame_pseudo_depth(
    frame: FrameRef,
    motion: Path,
    objects: Instances,
    config: ScaleConfig,
    aligned: Aligned | None = None,
) -> PseudoDepth:
    """The pseudo-depth of a frame's moving objects, except those whose depth is unknown or not in front of the camera.

    Raises InputError when the frame's depth is not positive and finite, or its objects have another aspect ratio.
    """
    depth = read_depth(frame.file(motion, ".npz"))
    size = (depth.shape[0], depth.shape[1])
    if not movers(objects).any():
        return PseudoDepth(size, ())
    objects.check_aspect(size, f"objects of {frame.line()}")
    every = objects.resized(*size).decode()
    masks = every[movers(objects) & every.any((1, 2))]
    if aligned is not None:
        fields = aligned.depths(frame, masks)
        found = [cut_out(field, depth, mask) for field, mask in zip(fields, masks, strict=True)]
    else:
        taken = np.logical_or.reduce(every)
        plane = fit_road(depth, taken) if config.plane else None
        levels = [(mask, contact_depth(depth, mask, config, plane)) for mask in masks]
        found = [
            object_depth(depth, mask, level, flat=config.flat)
            for mask, level in levels
            if level is not None
        ]
    return PseudoDepth(size, tuple(item for item in found if item.is_known))
