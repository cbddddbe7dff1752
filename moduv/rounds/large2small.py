"""Large2Small: one detector for large objects, one for small ones, merged to L2 (MOD-UV, section 3.3).

The small-scale detector sees every frame shrunk to a quarter, so the large objects that L1 holds teach
it how small ones look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.stages import Stage
from moduv.instances.instances import Instances, Predictions
from moduv.labels.aggregated import AggregationConfig, aggregate_predictions
from moduv.rounds.labelling import label_frames, refine


@dataclass(frozen=True)
class AggregatedLabelsConfig(AggregationConfig):
    """How L2 is made; the thresholds are the published ones."""

    large_score: float = 0.9
    small_score: float = 0.8
    """Predictions of either detector with a score strictly above its threshold are merged."""
    nested: float = 1.0
    """Largest share that a label may have in common with a better one; 1: any, as published."""
    snap: bool = False
    """Fit the labels to the image's colours. Off in the published method."""
    batch_size: int = speed_only(4)
    workers: int = speed_only(2)
    """Threads that decode images, and as many that merge, snap and write."""

    def select(self, image: np.ndarray, large: Predictions, small: Predictions) -> Instances:
        """Merge the confident predictions of both detectors on one image (H, W, 3) uint8."""
        merged = aggregate_predictions(
            large.above(self.large_score), small.above(self.small_score), self
        )
        return refine(merged, image, snap=self.snap, nested=self.nested)


def aggregated_labels(
    data: Path, split: Path, large: Path, small: Path, out: Path, config: AggregatedLabelsConfig
) -> None:
    """Make L2: the merged predictions of the large-scale and the small-scale detector.

    Args:
        data: folder of the frames.
        split: frames to label.
        large: folder of the round trained at full scale.
        small: folder of the round trained on shrunken frames.
        out: label root; finished files are kept.
        config: thresholds and batch size.
    """
    makers = [(large, config.large_score), (small, config.small_score)]
    speed = {"batch_size": config.batch_size, "workers": config.workers}
    stage = Stage("labels aggregated", out, config, (split, large, small), data)
    stage.run(lambda: label_frames("L2", data, split, makers, out, config.select, **speed))
