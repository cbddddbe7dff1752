"""Label sets as COCO JSON, the form that annotation tools and evaluations read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.log import progress, say
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split
from moduv.instances.coco import CATEGORIES
from moduv.instances.masks import to_polygons
from moduv.instances.store import labelled, read_labels


def export_labels(
    labels: Path,
    split: Path,
    data: Path,
    out: Path,
    polygons: bool = False,
    tolerance: float = 0.0,
) -> None:
    """Write a label set as COCO JSON, for other tools and for `evaluate`.

    Args:
        labels: label root.
        split: frames to export; those without labels are left out.
        data: folder of the frames, for the size of their images; one a segment is read.
        out: the file to write.
        polygons: masks as polygons instead of runs, for tools that read no runs; objects without
            pixels are left out.
        tolerance: pixels by which polygons may miss the masks' edges, for fewer points; 0: exact.
    """
    if tolerance < 0 or (tolerance and not polygons):
        raise InputError(
            f"--tolerance is {tolerance:g}; give 0 or more pixels, and --polygons true with it."
        )
    frames = labelled(labels, read_split(split))
    examples = {frame.segment: frame for frame in frames}
    sizes = {
        segment: read_image(frame.image_path(data)).shape[:2]
        for segment, frame in progress(examples.items(), desc="sizes", unit="segment")
    }
    content = to_coco(labels, frames, {frame: sizes[frame.segment] for frame in frames})
    found = len(content["annotations"])
    if polygons:
        content = with_polygons(content, tolerance)
    write_json(out, content)
    left_out = found - len(content["annotations"])
    more = f"; {left_out} without pixels are left out" if left_out else ""
    say(f"{out}: {found - left_out} instances in {len(frames)} frames{more}")


def with_polygons(content: dict[str, Any], tolerance: float = 0.0) -> dict[str, Any]:
    """A COCO data set of run-length masks with polygons instead, without the masks that are empty.

    Boxes and areas stay those of the masks. For `tolerance` in pixels see `to_polygons`.
    """
    drawn = [
        {**entry, "segmentation": to_polygons(entry["segmentation"], tolerance)}
        for entry in content["annotations"]
    ]
    return {**content, "annotations": [entry for entry in drawn if entry["segmentation"]]}


def to_coco(
    root: str | Path,
    frames: Sequence[FrameRef],
    image_sizes: Mapping[FrameRef, tuple[int, int]] | tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A label set as a COCO data set of one category, at the images' size.

    Args:
        root: label root.
        frames: which frames; image ids count them from 1.
        image_sizes: (height, width) of every frame's image, or of all; None: the masks' size.

    Annotations carry a `score` (1 for labels without), so that the list is also one of COCO results;
    images whose labels have none say `scored: false`. Labels that were imported keep their ids, those
    with identities have a `track_id`, which counts within a segment, and those with names a `name`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    kept: list[int | None] = []
    for image_id, frame in enumerate(frames, 1):
        size = image_sizes[frame] if isinstance(image_sizes, Mapping) else image_sizes
        instances = read_labels(root, frame, size)
        height, width = size or instances.size or (0, 0)
        images.append(
            {"id": image_id, "file_name": f"{frame.segment}/{frame.index:06d}.jpg"}
            | ({"height": int(height), "width": int(width)} if height else {})
            | ({"scored": False} if instances.scores is None else {})
        )
        annotations += instances.to_coco(image_id, (height, width))
        kept += instances.columns.get("id", np.full(len(instances), None)).tolist()
    numbered = [
        {"id": number, "iscrowd": 0, **entry}
        for number, entry in zip(_numbers(kept), annotations, strict=True)
    ]
    return {"images": images, "annotations": numbered, "categories": CATEGORIES}


def _numbers(kept: list[int | None]) -> list[int]:
    """Ids that occur once stay; the others follow the largest of them."""
    free = max((number for number in kept if number is not None), default=0) + 1
    numbers: list[int] = []
    used: set[int] = set()
    for number in kept:
        if number is None or number in used:
            number, free = free, free + 1
        used.add(number)
        numbers.append(number)
    return numbers
