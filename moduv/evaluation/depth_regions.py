"""Depth where something moves and where nothing does, and how far off each moving object is (Nguyen et al. 2024)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import label

from moduv.datasets.truth import read_truth
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import progress, say
from moduv.evaluation.depth import (
    CAPPED,
    REGIONS,
    WAYMO,
    DepthProtocol,
    NoDepthPoints,
    counted_pixels,
    enlarge,
    error_metrics,
    image_errors,
    mean_errors,
    median_scaled,
)
from moduv.evaluation.tables import format_table
from moduv.frames import layouts
from moduv.frames.clip import FrameRef

OFF = 1.25
"""Factor by which an object's median depth must differ to be called too far or too near."""


@dataclass(frozen=True)
class RegionProtocol:
    """Which pixels count, and which movers are large enough to be told from the rest."""

    depths: DepthProtocol
    smallest: float = 0.0
    """Share of the image that a mover must cover; the pixels of smaller ones count as static."""


PROTOCOLS = {
    "street": RegionProtocol(WAYMO),
    # Frames are the upper 768 of 1024 rows; of these the lower 512 and columns 192 to 1856 count.
    "cityscapes": RegionProtocol(
        DepthProtocol(max_depth=80.0, crop=(1 / 3, 1.0, 192 / 2048, 1856 / 2048)), 0.005 * 4 / 3
    ),
    # Of 1280 x 1920 pixels the lower 896 rows; movers of half a percent of 896 x 1280.
    "waymo": RegionProtocol(
        DepthProtocol(max_depth=80.0, crop=(0.3, 1.0, 0.0, 1.0)), 0.005 * 896 / 1920
    ),
}


@dataclass(frozen=True)
class ObjectError:
    """How wrong a moving object's depth is."""

    scale: float
    """Its median depth over the true one, where the image has one median scale."""
    own: dict[str, float]
    """Metrics after its own median scale."""


def dynamic_pixels(
    movers: Iterable[np.ndarray], smallest: float, size: tuple[int, int]
) -> np.ndarray:
    """Union (H, W) of the masks (H, W) that cover at least a share of the image."""
    union = np.zeros(size, bool)
    for mask in large_movers(movers, smallest):
        union |= mask
    return union


def large_movers(movers: Iterable[np.ndarray], smallest: float) -> list[np.ndarray]:
    """The masks (H, W) bool that are not empty and cover at least a share of the image."""
    return [mask for mask in movers if np.count_nonzero(mask) >= max(1, smallest * mask.size)]


def object_errors(
    truth: np.ndarray,
    prediction: np.ndarray,
    movers: Sequence[np.ndarray],
    protocol: DepthProtocol = CAPPED,
) -> list[ObjectError]:
    """Errors of each object (H, W) that has pixels which count.

    Args:
        truth: (H, W) metres, 0 where there is none.
        prediction: (H, W), depth in any unit.
        movers: masks (H, W) bool.
    """
    counted = counted_pixels(truth, protocol)
    scale = np.median(truth[counted]) / np.median(prediction[counted])
    errors = []
    for mask in movers:
        chosen = counted & mask
        if chosen.any():
            true, found = truth[chosen].astype(np.float64), prediction[chosen]
            own = error_metrics(true, median_scaled(found, true, protocol))
            errors.append(ObjectError(float(scale * np.median(found) / np.median(true)), own))
    return errors


def evaluate_depths(
    motion_root: Path, truth_root: Path, frames: Sequence[FrameRef], protocol: RegionProtocol
) -> dict[str, float]:
    """Depth errors of motion outputs by region, and of every moving object.

    Args:
        motion_root: `<segment>/NNNNNN.npz` with depth (h, w); its inverse is enlarged to the truth's size.
        truth_root: the street world's or Cityscapes' `truth` folder, or a prepared data set with points.
        frames: which; those without truth, or with none that counts, are left out.

    Returns:
        `abs_rel_all`, `abs_rel_static`, `abs_rel_dynamic` and so on, means over frames; `objects`, how many
        movers were seen; of them `object_scale_error`, the mean |log| of the scale, the shares
        `object_too_far` and `object_too_near`, and `object_abs_rel` after a scale of their own; and
        `dynamic_share` of the pixels.

    Raises:
        InputError: when a file is missing or damaged, and when no frame is left.
    """
    regions: list[dict[str, dict[str, float]]] = []
    objects: list[ObjectError] = []
    shares = []
    left_out = Counter[str]()
    for frame in progress(frames, desc="depth", unit="frame"):
        depth = read_npz(frame.file(motion_root, ".npz"), ("depth",))["depth"].astype(np.float32)
        known = _true_depth(truth_root, frame)
        if known is None:
            left_out["without true depth"] += 1
            continue
        truth, movers = known
        movers = large_movers(movers, protocol.smallest)
        dynamic = dynamic_pixels(movers, 0.0, (truth.shape[0], truth.shape[1]))
        try:
            counted = counted_pixels(truth, protocol.depths)
        except NoDepthPoints:
            left_out["of which no depth counts"] += 1
            continue
        if not (np.isfinite(depth) & (depth > 0)).all():
            raise InputError(
                f"{frame.file(motion_root, '.npz')}: 'depth' is not positive and finite; predict it again."
            )
        prediction = 1 / enlarge(1 / depth, *truth.shape)
        regions.append(image_errors(truth, prediction, dynamic, protocol.depths))
        objects += object_errors(truth, prediction, movers, protocol.depths)
        shares.append(np.mean(dynamic[counted]))
    for why, count in left_out.items():
        say(f"  depth: {count} of {len(frames)} frames {why}, left out")
    if not regions:
        raise InputError(
            f"{truth_root}: has no depth for these {len(frames)} frames; give the street world's truth "
            "folder or a prepared data set."
        )
    return {
        **_summary(regions),
        **_object_summary(objects),
        "dynamic_share": float(np.mean(shares)),
    }


def errors_by_region(metrics: Mapping[str, float]) -> tuple[str, dict[str, float]]:
    """A table of the errors, a line a region, and the other metrics of `evaluate_depths`."""
    errors = [name.removesuffix("_all") for name in metrics if name.endswith("_all")]
    rows: dict[str, dict[str, float]] = {region: {} for region in REGIONS}
    others = {}
    for name, value in metrics.items():
        error, _, region = name.rpartition("_")
        if error in errors and region in rows:
            rows[region][error] = value
        else:
            others[name] = value
    return format_table(rows, {error: error for error in errors}), others


def _summary(regions: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    found = {name: [image[name] for image in regions if name in image] for name in REGIONS}
    return {
        f"{metric}_{name}": value
        for name, errors in found.items()
        if errors
        for metric, value in mean_errors(errors).items()
    }


def _object_summary(objects: list[ObjectError]) -> dict[str, float]:
    if not objects:
        return {"objects": 0}
    scales = np.array([item.scale for item in objects])
    return {
        "objects": len(objects),
        "object_scale_error": float(np.abs(np.log(scales)).mean()),
        "object_too_far": float(np.mean(scales > OFF)),
        "object_too_near": float(np.mean(scales < 1 / OFF)),
        "object_abs_rel": float(np.mean([item.own["abs_rel"] for item in objects])),
    }


def _true_depth(root: Path, frame: FrameRef) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """Depth (H, W) in metres, 0 where unknown, and masks of what moves; None where there is no depth."""
    if layouts.layout_of(root, frame.segment).name == "folder":
        if not frame.file(root, ".npz").is_file():
            return None
        keys = ("depth", "instances", "ids", "moving")
        truth = read_npz(frame.file(root, ".npz"), keys)
        moving = truth["ids"][truth["moving"].astype(bool)]
        depth = truth["depth"].astype(np.float32)
        return depth, [truth["instances"] == identity for identity in moving]
    known = read_truth(root, frame)
    if known is None or known.points is None:
        return None
    depth = np.zeros((known.height, known.width), np.float32)
    rows, columns = known.points[:, :2].astype(int).T
    inside = (rows >= 0) & (rows < known.height) & (columns >= 0) & (columns < known.width)
    depth[rows[inside], columns[inside]] = known.points[inside, 2]
    if known.labels is None:
        return depth, []
    # Labels of pixels do not tell objects apart: what is connected is one.
    numbers, count = label(known.labels == layouts.MOVING)
    return depth, [numbers == number for number in range(1, count + 1)]
