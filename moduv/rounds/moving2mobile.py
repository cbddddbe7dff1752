"""Moving2Mobile: from what moves to what can move (MOD-UV, section 3.2).

A detector that is trained briefly on moving objects, one still image at a time, finds parked ones too,
before it has time to learn that they are not labelled. What it finds becomes L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from moduv.engine.stages import Stage
from moduv.labels.instances import Instances, Predictions
from moduv.labels.predicted import from_predictions
from moduv.rounds.labelling import label_frames, refine


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
    """Threads that decode images, and as many that snap and write."""

    def select(self, predictions: Predictions, image: Path) -> Instances:
        """The labels among the predictions of one frame, whose image is read where they are snapped."""
        found = from_predictions(predictions, self.score_threshold)
        return refine(found, image, snap=self.snap, nested=self.nested)


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
    return label_frames(
        "L1",
        data,
        split,
        [(detector, config.score_threshold)],
        out,
        config.select,
        batch_size=config.batch_size,
        workers=config.workers,
    )
