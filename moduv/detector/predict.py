"""Detections of trained detectors, frame by frame in order; masks stay inside their boxes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from moduv.detector.pasting import paste_masks
from moduv.engine.log import progress
from moduv.engine.parallel import bounded_map
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.labels.instances import Predictions


def predict(
    model: MaskRCNN,
    refs: Sequence[FrameRef],
    root: str | Path,
    *,
    score_threshold: float | None = None,
    batch_size: int = 1,
    workers: int = 2,
    desc: str = "detect",
) -> Iterator[tuple[FrameRef, Predictions]]:
    """Yield every frame with its detections, in the order of `refs`.

    Args:
        model: the detector, on any device; its mode is restored afterwards.
        refs: the frames.
        root: folder of the segments' images.
        score_threshold: detections with a score strictly above it are kept, before non-maximum
            suppression and the limit on their number; None: the detector's own threshold.
        batch_size: frames at once; only frames of equal size share a batch, so that the result
            does not depend on it.
        workers: threads that decode images ahead.
        desc: what the progress bar calls the work.

    Predictions are on the CPU: soft masks, boxes (N, 4) continuous XYXY in the image's pixels, scores
    (N,), by falling score.

    Raises InputError naming an image that is missing or broken.
    """
    thresholds = [score_threshold]
    found = predict_together([model], refs, root, thresholds, batch_size, workers, desc)
    yield from ((ref, predictions) for ref, (predictions,) in found)


def predict_together(
    models: Sequence[MaskRCNN],
    refs: Sequence[FrameRef],
    root: str | Path,
    score_thresholds: Sequence[float | None],
    batch_size: int = 1,
    workers: int = 2,
    desc: str = "detect",
) -> Iterator[tuple[FrameRef, tuple[Predictions, ...]]]:
    """As `predict`, with the detections of every model, each with its threshold; images are read once."""
    paths = [ref.image_path(root) for ref in refs]
    found = predict_files(models, paths, score_thresholds, batch_size, workers)
    yield from progress(zip(refs, found, strict=True), desc=desc, total=len(refs), unit="frame")


def predict_files(
    models: Sequence[MaskRCNN],
    paths: Iterable[Path],
    score_thresholds: Sequence[float | None],
    batch_size: int = 1,
    workers: int = 2,
) -> Iterator[tuple[Predictions, ...]]:
    """The detections of every model in each image file, in order, while threads decode the next batches.

    Arguments as of `predict_together`. Raises InputError naming an image that is missing or broken.
    """

    def decode(batch: list[Path]) -> list[Tensor]:
        return [_to_tensor(read_image(path)) for path in batch]

    for images in bounded_map(decode, _batches(paths, batch_size), max(1, workers)):
        found = [
            _detections(model, images, threshold)
            for model, threshold in zip(models, score_thresholds, strict=True)
        ]
        yield from zip(*found, strict=True)


@contextlib.contextmanager
def inference(model: MaskRCNN, score_threshold: float | None = None) -> Iterator[None]:
    """Evaluation mode without gradients and, if given, with another score threshold."""
    was_training, own_threshold = model.training, model.roi_heads.score_thresh
    model.eval()
    if score_threshold is not None:
        model.roi_heads.score_thresh = score_threshold
    try:
        with torch.inference_mode():
            yield
    finally:
        model.roi_heads.score_thresh = own_threshold
        model.train(was_training)


def predict_images(
    model: MaskRCNN, images: Sequence[np.ndarray], *, score_threshold: float | None = None
) -> list[Predictions]:
    """Detections in images (H, W, 3) uint8 RGB of any sizes, as `predict` gives them."""
    tensors = [_to_tensor(image) for image in images]
    return _detections(model, tensors, score_threshold)


def detections_to_coco(
    found: Predictions, image_id: int, *, mask_threshold: float = 0.5
) -> list[dict[str, Any]]:
    """COCO results of an image: `bbox` [x, y, width, height], `score`, `segmentation` as RLE.

    Masks are the pixels with a probability strictly above `mask_threshold`.
    """
    results = []
    for crop, box, score in zip(
        found.crops, found.boxes.tolist(), found.scores.tolist(), strict=True
    ):
        x0, y0, x1, y1 = box
        results.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
                "segmentation": crop.encode(mask_threshold, found.size),
            }
        )
    return results


def _detections(
    model: MaskRCNN, images: list[Tensor], score_threshold: float | None
) -> list[Predictions]:
    # Entered per batch: a caller that stops halfway leaves the model as it was.
    with inference(model, score_threshold):
        return [found for group in _same_size(images) for found in _run(model, group)]


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    remaining = iter(paths)
    while batch := list(islice(remaining, size)):
        yield batch


def _to_tensor(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (3, H, W), which the detector scales."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _same_size(images: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of consecutive images of equal size."""
    for _, group in groupby(images, key=lambda image: image.shape):
        yield list(group)


def _run(model: MaskRCNN, images: list[Tensor]) -> list[Predictions]:
    """What the model's own `forward` does, but for the masks, which are not pasted at full size."""
    device = next(model.parameters()).device
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    batch, _ = model.transform([image.to(device, non_blocking=True) for image in images])
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    found, _ = model.roi_heads(features, proposals, batch.image_sizes)
    masks = [entry.pop("masks")[:, 0] for entry in found]
    found = model.transform.postprocess(found, batch.image_sizes, sizes)
    predictions = []
    for small, entry, size in zip(masks, found, sizes, strict=True):
        boxes = entry["boxes"].cpu()
        crops = paste_masks(small, boxes, size)
        predictions.append(Predictions(crops, boxes, entry["scores"].cpu(), size))
    return predictions
