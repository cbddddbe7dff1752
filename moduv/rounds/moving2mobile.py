"""Moving2Mobile: from what moves to what can move (MOD-UV, section 3.2).

A detector that is trained briefly on moving objects, one still image at a time, finds parked ones too,
before it has time to learn that they are not labelled. What it finds becomes L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.stages import Stage
from moduv.instances.instances import Instances, Predictions
from moduv.rounds.labelling import LabelsConfig, label_frames, with_agreed_scores


@dataclass(frozen=True)
class MobileLabelsConfig(LabelsConfig):
    """How L1 is made."""

    score_threshold: float | None = 0.5
    """Detections with a score strictly above it become labels; None: chosen by the views' agreement."""

    def select(self, image: np.ndarray, predictions: Predictions) -> Instances:
        """The labels among the predictions of one image (H, W, 3) uint8."""
        found = self.confident(predictions, self.score_threshold)
        return self.finish(found.to_instances(), image)


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
    stage = Stage("labels mobile", out, config, (split, detector), data)
    stage.run(lambda: _label(data, split, detector, out, config))


def _label(
    data: Path, split: Path, detector: Path, out: Path, config: MobileLabelsConfig
) -> dict[str, Any]:
    settled = with_agreed_scores(config, {"score_threshold": detector}, data, split)
    makers = [(detector, settled.score_threshold)]
    numbers = label_frames("L1", data, split, makers, out, settled.select, **settled.showing)
    return {**numbers, "thresholds": {"score_threshold": settled.score_threshold}}
