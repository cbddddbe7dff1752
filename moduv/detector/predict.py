"""Detections of a trained detector: in batches, with full-size masks, frame by frame in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection import MaskRCNN

from moduv.engine.loading import Carried, raised
from moduv.engine.log import progress
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.labels import rle
from moduv.labels.instances import Predictions


def predict(
    model: MaskRCNN,
    refs: Sequence[FrameRef],
    root: str | Path,
    *,
    score_threshold: float | None = None,
    batch_size: int = 1,
    workers: int = 0,
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
        workers: processes that decode images.
        desc: what the progress bar calls the work.

    Predictions are on the CPU: soft masks (N, H, W) at the image's size, boxes (N, 4) continuous
    XYXY in its pixels, scores (N,), by falling score.

    Raises InputError naming an image that is missing or broken.
    """
    images = Carried(_Images(refs, Path(root)), list)
    loader: DataLoader = DataLoader(
        images, batch_size=batch_size, num_workers=workers, collate_fn=images.collate
    )
    yield from progress(
        zip(refs, _detections(model, raised(loader), score_threshold), strict=True),
        desc=desc,
        total=len(refs),
        unit="frame",
    )


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
    return list(_detections(model, [tensors], score_threshold))


def detections_to_coco(
    found: Predictions, image_id: int, *, mask_threshold: float = 0.5
) -> list[dict[str, Any]]:
    """COCO results of an image: `bbox` [x, y, width, height], `score`, `segmentation` as RLE.

    Masks are the pixels with a probability strictly above `mask_threshold`.
    """
    masks = (found.masks > mask_threshold).cpu().numpy()
    results = []
    for mask, box, score in zip(masks, found.boxes.tolist(), found.scores.tolist(), strict=True):
        x0, y0, x1, y1 = box
        results.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
                "segmentation": rle.encode(mask),
            }
        )
    return results


def _detections(
    model: MaskRCNN, batches: Iterable[list[Tensor]], score_threshold: float | None
) -> Iterator[Predictions]:
    for images in batches:
        # Entered per batch: a caller that stops halfway leaves the model as it was.
        with inference(model, score_threshold):
            found = [detection for group in _same_size(images) for detection in _run(model, group)]
        yield from found


class _Images:
    """The frames' images as tensors (3, H, W) uint8, which the detector scales."""

    def __init__(self, refs: Sequence[FrameRef], root: Path) -> None:
        self.refs, self.root = refs, root

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> Tensor:
        return _to_tensor(read_image(self.refs[index].image_path(self.root)))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def _same_size(images: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of consecutive images of equal size."""
    for _, group in groupby(images, key=lambda image: image.shape):
        yield list(group)


def _run(model: MaskRCNN, images: list[Tensor]) -> list[Predictions]:
    device = next(model.parameters()).device
    found = model([image.to(device, non_blocking=True) for image in images])
    return [
        Predictions(
            masks=entry["masks"][:, 0].cpu(),
            boxes=entry["boxes"].cpu(),
            scores=entry["scores"].cpu(),
        )
        for entry in found
    ]
