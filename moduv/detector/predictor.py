"""A trained detector in use: images in, instances out; masks stay inside their boxes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from moduv.detector.pasting import paste_masks
from moduv.engine.errors import InputError
from moduv.engine.parallel import bounded_map
from moduv.frames.decoding import Timed
from moduv.frames.images import Picture, as_image, read_image
from moduv.frames.video import read_clip, scenes
from moduv.instances.instances import Instances, Predictions
from moduv.instances.tracks import NOT_FOLLOWED, FrameTracker, TrackConfig, Tracker

Item = TypeVar("Item")


@dataclass(frozen=True)
class View:
    """How a detector is shown an image; what it finds is told in the image's own pixels."""

    scale: float = 1.0
    """Of the network's usual input size."""
    flip: bool = False
    """Mirrored."""


class Detector:
    """A Mask R-CNN in evaluation mode. It holds no state of a call, so threads may share it.

    Attributes:
        model: the network, on its device.
        view: how it is shown every image.
    """

    def __init__(self, model: GeneralizedRCNN, view: View | None = None) -> None:
        self.model = model.eval()
        self.view = view or View()

    def seeing(self, view: View) -> Detector:
        """The same network, shown another view of every image."""
        return Detector(self.model, view)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check_size(self, image: np.ndarray, name: str = "an image") -> None:
        """Raise InputError when nothing is left of an image (H, W, 3) at the network's input size."""
        height, width = image.shape[:2]
        longest = int(self.model.transform.max_size)
        if min(height, width) * longest <= max(height, width):
            raise InputError(
                f"{name}: is of {width} x {height} pixels, and the longer side is shrunk to {longest}; "
                "crop it or leave it out."
            )

    @overload
    def predict(self, images: Picture, score: float = ..., batch_size: int = ...) -> Instances: ...

    @overload
    def predict(
        self, images: Sequence[Picture], score: float = ..., batch_size: int = ...
    ) -> list[Instances]: ...

    def predict(
        self, images: Picture | Sequence[Picture], score: float = 0.5, batch_size: int = 1
    ) -> Instances | list[Instances]:
        """Find mobile objects in an image or in a list of images.

        Args:
            images: a path, an array (H, W, 3) uint8 RGB, a PIL image, or a list of them.
            score: detections with a score strictly above it are returned.
            batch_size: images at once; only images of equal size share a batch.

        Returns:
            The objects of the image by falling score, boxes in its pixels; of a list, one each.

        Raises:
            InputError: for a file that is missing or no image, and an array of another form.
        """
        if isinstance(images, list | tuple):
            decoded = ([as_image(i) for i in batch] for batch in batches(images, batch_size))
            return [one.to_instances(score) for batch in decoded for one in self.predictions(batch)]
        return self.predictions([as_image(images)])[0].to_instances(score)  # type: ignore[arg-type]

    def predictions(
        self, images: Sequence[np.ndarray], score: float | None = None
    ) -> list[Predictions]:
        """Detections with soft masks in images (H, W, 3) uint8 RGB of any sizes, on the CPU.

        Boxes are (N, 4) continuous XYXY in the image's pixels, by falling score. Detections with a score
        strictly above `score` are kept, before non-maximum suppression and the limit on their number;
        None: the network's own threshold.
        """
        for image in images:
            self.check_size(image)
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        with torch.inference_mode():
            groups = [list(group) for _, group in groupby(tensors, key=lambda image: image.shape)]
            return [found for group in groups for found in self._run(group, score)]

    def stream(
        self,
        paths: Iterable[Path],
        batch_size: int = 1,
        workers: int = 2,
        score: float | None = None,
    ) -> Iterator[tuple[np.ndarray, Predictions]]:
        """Images (H, W, 3) uint8 RGB and their detections, in order, while threads decode ahead.

        Args:
            paths: image files.
            batch_size: images at once; only images of equal size share a batch.
            workers: threads that decode.
            score: see `predictions`.

        Raises:
            InputError: for an image that is missing or broken.
        """
        for image, (found,) in stream([self], paths, [score], batch_size, workers):
            yield image, found

    def video(
        self,
        path: str | Path,
        score: float = 0.5,
        batch_size: int = 1,
        tracks: TrackConfig | None = None,
    ) -> Iterator[tuple[np.ndarray, Instances]]:
        """Frames (H, W, 3) uint8 RGB of a video and their objects, with identities in the column `track`.

        Args:
            path: a video file, or a folder of frames.
            score: detections with a score strictly above it are returned and followed.
            batch_size: frames at once.
            tracks: when two detections are of one object.

        Raises:
            InputError: for a file that is missing or does not decode.
        """
        tracker = Tracker(tracks)
        for (_, image), found in self.follow(read_clip(Path(path)), tracker, score, batch_size):
            yield image, found[found.columns["track"] != NOT_FOLLOWED]

    def follow(
        self, frames: Iterable[Timed], tracker: FrameTracker, score: float, batch_size: int = 1
    ) -> Iterator[tuple[Timed, Instances]]:
        """Frames of one video with all their detections; `track` is set for those above `score`.

        Args:
            frames: (time, image) in order.
            tracker: gives the identities; it forgets all objects at a cut.
            score: detections with a score strictly above it are followed.
            batch_size: frames at once.
        """
        shots = (((scene, at), image) for scene, (at, image) in scenes(iter(frames)))
        before = 0
        for batch in batches(shots, batch_size):
            predictions = self.predictions([image for _, image in batch])
            for ((scene, at), image), one in zip(batch, predictions, strict=True):
                if scene != before:
                    tracker.forget()
                before = scene
                found = one.to_instances()
                assert found.scores is not None
                above = found.scores > score
                track = np.full(len(found), NOT_FOLLOWED)
                track[above] = tracker.assign(image, found[above])
                yield (at, image), found.with_columns(track=track)

    def _run(self, images: list[Tensor], score: float | None) -> list[Predictions]:
        """What the model's own `forward` does, but for the masks, which are not pasted at full size."""
        model: Any = self.model
        # Copies share the modules and have a threshold and sizes of their own.
        heads, transform = copy.copy(model.roi_heads), copy.copy(model.transform)
        if score is not None:
            heads.score_thresh = score
        transform.min_size = tuple(round(side * self.view.scale) for side in transform.min_size)
        transform.max_size = round(transform.max_size * self.view.scale)
        if self.view.flip:
            images = [image.flip(-1) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch, _ = transform([image.to(self.device, non_blocking=True) for image in images])
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        found, _ = heads(features, proposals, batch.image_sizes)
        masks = [entry.pop("masks")[:, 0] for entry in found]
        found = transform.postprocess(found, batch.image_sizes, sizes)
        predictions = []
        for small, entry, size in zip(masks, found, sizes, strict=True):
            boxes = entry["boxes"].cpu()
            crops = paste_masks(small, boxes, size)
            one = Predictions(crops, boxes, entry["scores"].cpu(), size)
            predictions.append(mirrored(one) if self.view.flip else one)
        return predictions


def mirrored(found: Predictions) -> Predictions:
    """The predictions of a mirrored image in the image's own pixels."""
    left, top, right, bottom = found.boxes.unbind(1)
    width = found.size[1]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    return Predictions(
        [crop.mirrored(width) for crop in found.crops], boxes, found.scores, found.size
    )


def stream(
    detectors: Sequence[Detector],
    paths: Iterable[Path],
    scores: Sequence[float | None],
    batch_size: int = 1,
    workers: int = 2,
) -> Iterator[tuple[np.ndarray, tuple[Predictions, ...]]]:
    """As `Detector.stream`, with the detections of every detector; images are read once."""

    def decode(batch: list[Path]) -> list[np.ndarray]:
        images = [read_image(path) for path in batch]
        for path, image in zip(batch, images, strict=True):
            for detector in detectors:
                detector.check_size(image, str(path))
        return images

    for images in bounded_map(decode, batches(paths, batch_size), max(1, workers)):
        found = [d.predictions(images, s) for d, s in zip(detectors, scores, strict=True)]
        yield from zip(images, zip(*found, strict=True), strict=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
