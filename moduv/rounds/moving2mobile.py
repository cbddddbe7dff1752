"""Moving2Mobile: from what moves to what can move (MOD-UV, section 3.2).

A detector that is trained briefly on moving objects, one still image at a time, finds parked ones too,
before it has time to learn that they are not labelled. What it finds becomes L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.stages import Stage
from moduv.instances.instances import Instances, Predictions
from moduv.rounds.labelling import label_frames, refine


@dataclass(frozen=True)
class MobileLabelsConfig:
    """How L1 is made."""

    score_threshold: float = 0.5
    """Detections with a score strictly above it become labels."""
    nested: float = 1.0
    """Largest share that a label may have in common with a better one; 1: any, as published."""
    snap: bool = False
    """Fit the labels to the image's colours. Off in the published method."""
    batch_size: int = speed_only(4)
    workers: int = speed_only(2)
    """Threads that decode images, and as many that snap and write."""

    def select(self, image: np.ndarray, predictions: Predictions) -> Instances:
        """The labels among the predictions of one image (H, W, 3) uint8."""
        found = predictions.to_instances(self.score_threshold)
        return refine(found, image, snap=self.snap, nested=self.nested)


def mobile_labels(
    data: Path, split: Path, detector: Path, out: Path, config: MobileLabelsConfig
) -> None:
    """Make L1: what the detector finds on the training frames above a score.

    Args:
        data: folder of the frames.
        split: frames to label; also those that L0 left out.
        detector: folder of the Moving2Mobile round.
        out: label root; finished files are kept.
        config: threshold and batch size.
    """
    makers = [(detector, config.score_threshold)]
    speed = {"batch_size": config.batch_size, "workers": config.workers}
    stage = Stage("labels mobile", out, config, (split, detector), data)
    stage.run(lambda: label_frames("L1", data, split, makers, out, config.select, **speed))
