"""Moving2Mobile: from what moves to what can move (MOD-UV, section 3.2).

A detector that is trained briefly on moving objects, one still image at a time, finds parked ones too,
before it has time to learn that they are not labelled. What it finds becomes L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from moduv.detector.predict import predict
from moduv.detector.train import load_detector
from moduv.engine import distributed
from moduv.engine.log import say
from moduv.engine.parallel import bounded_map
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split
from moduv.labels.instances import Instances, Predictions
from moduv.labels.predicted import from_predictions, without_nested
from moduv.labels.snapped import snap_to_image
from moduv.labels.store import is_labelled, statistics, write_labels


@dataclass(frozen=True)
class MobileLabels:
    """How L1 is made."""

    SPEED_ONLY: ClassVar = ("batch_size",)

    score_threshold: float = 0.5
    nested: float = 1.0
    """Largest share that a label may have in common with a better one; 1: not looked at, as published."""
    snap: bool = False
    """Fit the labels to the image's colours. Off in the published method."""
    batch_size: int = 4
    workers: int = 2
    """Threads that snap and write."""

    def select(self, predictions: Predictions, image: Path) -> Instances:
        """The labels among the predictions of one frame, whose image is read where they are snapped."""
        found = from_predictions(predictions, self.score_threshold)
        if self.snap:
            found = snap_to_image(found, read_image(image))
        return found if self.nested >= 1 else without_nested(found, self.nested)


def mobile_labels(data: Path, split: Path, detector: Path, out: Path, config: MobileLabels) -> None:
    """Make L1: what the detector finds on the training frames above a score.

    Args:
        data: folder of the frames.
        split: frames to label; also those that L0 left out.
        detector: folder of the Moving2Mobile round.
        out: label root; finished files are kept.
        config: threshold and batch size.
    """
    stage = Stage("labels mobile", out, config, (split, detector), data)
    stage.run(lambda: _label(data, split, detector, out, config))


def _label(
    data: Path, split: Path, detector: Path, out: Path, config: MobileLabels
) -> dict[str, Any]:
    frames = read_split(split)
    todo = [frame for frame in distributed.shard(frames) if not is_labelled(out, frame)]
    model = load_detector(detector)
    # Below the threshold nothing is kept, so its full-size masks are not pasted either.
    found = predict(
        model,
        todo,
        data,
        score_threshold=config.score_threshold,
        batch_size=config.batch_size,
        desc="L1",
    )

    def label(item: tuple[FrameRef, Predictions]) -> None:
        frame, predictions = item
        write_labels(out, frame, config.select(predictions, frame.image_path(data)))

    for _ in bounded_map(label, found, config.workers):
        pass
    distributed.barrier()
    numbers = statistics(out, frames)
    say(f"  L1: {numbers['instances']} instances in {len(frames)} frames")
    return numbers
