"""Depth errors of a network that knows no scale (Eigen et al. 2014; Zhou et al. 2017).

Median scaling, caps, the Garg crop for KITTI, and the same errors for moving, static and background
points (Dynamo-Depth, section 4), or for moving and all other pixels of dense maps (Nguyen et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from moduv.datasets.truth import inside_image
from moduv.engine.errors import InputError

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3")
# Rows and columns as shares of the image: top, bottom, left, right (Garg et al. 2016).
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)


@dataclass(frozen=True)
class DepthProtocol:
    """Which points count: depths in metres, and a crop (top, bottom, left, right) in shares of the image."""

    min_depth: float = 1e-3
    max_depth: float = 75.0
    crop: tuple[float, float, float, float] | None = None


WAYMO = DepthProtocol()
KITTI = DepthProtocol(max_depth=80.0, crop=GARG)
CAPPED = DepthProtocol(max_depth=80.0)
REGIONS = ("all", "static", "dynamic")


class NoDepthPoints(InputError):
    """None of a frame's depth points counts: it has none, or none in the protocol's range and crop."""


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one frame: over all points, and over the points of each label.

    `counts[label]` is the number of points behind `by_label[label]`; `scale` is the factor that the
    prediction was multiplied with.
    """

    overall: dict[str, float]
    by_label: dict[int, dict[str, float]]
    counts: dict[int, int]
    scale: float


def error_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The seven errors between depths (N,), N > 0, both positive and in metres."""
    difference = truth - predicted
    ratio = np.maximum(truth / predicted, predicted / truth)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / truth)),
        "sq_rel": float(np.mean(difference**2 / truth)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(truth) - np.log(predicted)) ** 2))),
        **{f"d{power}": float(np.mean(ratio < 1.25**power)) for power in (1, 2, 3)},
    }


def depth_errors(
    disparity: np.ndarray,
    points: np.ndarray,
    height: int,
    width: int,
    protocol: DepthProtocol = WAYMO,
    labels: np.ndarray | None = None,
) -> DepthErrors:
    """Errors of one frame.

    disparity  (h, w), inverse depth in any unit; enlarged bilinearly to (height, width)
    points     (N, 3), truth as rows of (row, column, metres) in the image of (height, width); those
               beyond the image do not count
    labels     (height, width) integers, e.g. 0 background, 1 moving, 2 static

    Raises NoDepthPoints when no point lies within the protocol's range and crop, and InputError when
    most lie beyond the image or the disparity is not positive at those that count.
    """
    rows, columns, truth = _counted(points, height, width, protocol)
    sampled = enlarge(disparity, height, width)[rows, columns]
    if not (sampled > 0).all():
        raise InputError("the disparity is not positive everywhere; give 1 / depth.")
    predicted = 1.0 / sampled.astype(np.float64)

    scale = _median(truth) / _median(predicted)
    predicted = np.clip(predicted * scale, protocol.min_depth, protocol.max_depth)
    of_point = np.zeros(len(truth), int) if labels is None else np.asarray(labels)[rows, columns]
    kinds = [] if labels is None else [int(label) for label in np.unique(of_point)]
    return DepthErrors(
        overall=error_metrics(truth, predicted),
        by_label={k: error_metrics(truth[of_point == k], predicted[of_point == k]) for k in kinds},
        counts={k: int((of_point == k).sum()) for k in kinds},
        scale=float(scale),
    )


def _counted(
    points: np.ndarray, height: int, width: int, protocol: DepthProtocol
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and metres of the points that the protocol counts."""
    points = np.asarray(points, dtype=np.float64)
    rows, columns = points[:, :2].astype(int).T
    truth = points[:, 2]
    chosen = inside_image(points, height, width)
    chosen &= (truth > protocol.min_depth) & (truth < protocol.max_depth)
    if protocol.crop is not None:
        top, bottom, left, right = _crop(protocol.crop, height, width)
        chosen &= (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    if not chosen.any():
        raise NoDepthPoints(
            f"none of the {len(points)} depth points lies between {protocol.min_depth:g} and "
            f"{protocol.max_depth:g} m inside the crop; check the unit and the order (row, column)."
        )
    return rows[chosen], columns[chosen], truth[chosen]


def summarise(errors: Sequence[DepthErrors], names: Mapping[int, str]) -> dict[str, float]:
    """Errors over one or more frames: the mean over frames, and for each label the mean over points.

    Args:
        errors: of each frame.
        names: label -> its name.

    Returns `abs_rel`, …, and `abs_rel_{name}`, … for each label; `scale_spread` is the standard
    deviation of the frames' scales over their mean, small where the scale is consistent.
    """
    metrics = {m: sum(frame.overall[m] for frame in errors) / len(errors) for m in METRICS}
    for label, name in sorted(names.items()):
        known = [frame for frame in errors if label in frame.counts]
        count = sum(frame.counts[label] for frame in known)
        for metric in METRICS if known else ():
            total = sum(frame.by_label[label][metric] * frame.counts[label] for frame in known)
            metrics[f"{metric}_{name}"] = total / count
    scales = [frame.scale for frame in errors]
    return metrics | {"scale_spread": float(np.std(scales) / np.mean(scales))}


def region_errors(
    truth: np.ndarray,
    prediction: np.ndarray,
    dynamic: np.ndarray,
    protocol: DepthProtocol = CAPPED,
) -> dict[str, dict[str, float]]:
    """Errors over all, static and dynamic pixels under one median scale an image (Nguyen et al. 2024, section 4).

    Args:
        truth: depths (H, W) or (N, H, W) in metres, 0 where there is none.
        prediction: depths of the same shape in any unit, positive where truth counts.
        dynamic: the same shape, not 0 where something moves.
        protocol: caps and crop.

    Returns:
        The metrics of `all`, `static` and `dynamic`, means over the images that have such pixels; a region that
        no image has is left out. The scale is that of the medians over all pixels of an image.

    Raises:
        InputError: when shapes differ or a prediction is not positive and finite where it counts, and
            NoDepthPoints when an image has no pixel that counts.
    """
    if not truth.shape == prediction.shape == dynamic.shape or truth.ndim not in {2, 3}:
        raise InputError(
            f"truth {truth.shape}, prediction {prediction.shape} and dynamic {dynamic.shape} differ in shape; "
            "give maps (H, W) or (N, H, W) of one size."
        )
    stacks = [maps if maps.ndim == 3 else maps[None] for maps in (truth, prediction, dynamic)]
    found = [image_errors(*maps, protocol) for maps in zip(*stacks, strict=True)]  # type: ignore[call-arg]
    regions = [name for name in REGIONS if any(name in errors for errors in found)]
    return {
        name: mean_errors([errors[name] for errors in found if name in errors]) for name in regions
    }


def image_errors(
    truth: np.ndarray, prediction: np.ndarray, dynamic: np.ndarray, protocol: DepthProtocol
) -> dict[str, dict[str, float]]:
    """The errors of one image by region, see `region_errors`."""
    counted = counted_pixels(truth, protocol)
    true, moving = truth[counted].astype(np.float64), dynamic[counted] != 0
    scaled = median_scaled(prediction[counted], true, protocol)
    chosen = zip(REGIONS, (np.ones_like(moving), ~moving, moving), strict=True)
    return {
        name: error_metrics(true[pixels], scaled[pixels]) for name, pixels in chosen if pixels.any()
    }


def counted_pixels(truth: np.ndarray, protocol: DepthProtocol) -> np.ndarray:
    """Pixels (H, W) whose depth in metres the protocol counts. Raises NoDepthPoints when there are none."""
    counted = (truth > protocol.min_depth) & (truth < protocol.max_depth)
    if protocol.crop is not None:
        top, bottom, left, right = _crop(protocol.crop, *truth.shape)
        counted &= np.pad(
            np.ones((bottom - top, right - left), bool),
            ((top, truth.shape[0] - bottom), (left, truth.shape[1] - right)),
        )
    if not counted.any():
        raise NoDepthPoints(
            f"no pixel of the depth map lies between {protocol.min_depth:g} and {protocol.max_depth:g} m "
            "inside the crop; check the unit."
        )
    return counted


def median_scaled(prediction: np.ndarray, truth: np.ndarray, protocol: DepthProtocol) -> np.ndarray:
    """Depths (N,) with the median of the truth (N,), clipped to the protocol's range."""
    prediction = prediction.astype(np.float64)
    if not (np.isfinite(prediction) & (prediction > 0)).all():
        raise InputError("a predicted depth is not positive and finite; predict it again.")
    scale = np.median(truth) / np.median(prediction)
    return np.clip(prediction * scale, protocol.min_depth, protocol.max_depth)


def mean_errors(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over images or objects, at least one."""
    return {name: float(np.mean([each[name] for each in errors])) for name in errors[0]}


def _crop(shares: tuple[float, ...], height: int, width: int) -> list[int]:
    """Rows and columns: top, bottom, left, right."""
    edges = np.array(shares) * (height, height, width, width)
    # A third of 768 rows is 256, and not a little less.
    return [int(edge) for edge in edges + 1e-6]


def enlarge(disparity: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a disparity (h, w) to (height, width), bilinearly."""
    if disparity.shape == (height, width):
        return disparity
    return cv2.resize(disparity.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _median(values: np.ndarray) -> float:
    """The lower of the two middle values, as torch.median: the published numbers rest on it."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])
