"""Large2Small: one detector for large objects, one for small ones, merged to L2 (MOD-UV, section 3.3).

The small-scale detector sees every frame shrunk to a quarter, so the large objects that L1 holds teach
it how small ones look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.stages import Stage
from moduv.instances.instances import Instances, Predictions
from moduv.labels.aggregated import AggregationConfig, aggregate_predictions
from moduv.rounds.labelling import LabelsConfig, label_frames, with_agreed_scores


@dataclass(frozen=True)
class AggregatedLabelsConfig(AggregationConfig, LabelsConfig):
    """How L2 is made; the thresholds are the published ones."""

    large_score: float | None = 0.9
    small_score: float | None = 0.8
    """Predictions of either detector with a score strictly above its threshold become labels; None:
    chosen by the views' agreement."""

    def select(
        self, image: np.ndarray, large: Predictions, small: Predictions | None = None
    ) -> Instances:
        """The confident predictions on one image (H, W, 3) uint8, merged where there are two detectors."""
        found = self.confident(large, self.large_score)
        if small is None:
            return self.finish(found.to_instances(), image)
        others = self.confident(small, self.small_score)
        return self.finish(aggregate_predictions(found, others, self), image)


def aggregated_labels(
    data: Path,
    split: Path,
    large: Path,
    out: Path,
    config: AggregatedLabelsConfig,
    small: Path | None = None,
    judge: Path | None = None,
) -> None:
    """Make L2: the merged predictions of the large-scale and the small-scale detector.

    Args:
        data: folder of the frames.
        split: frames to label.
        large: folder of the round trained at full scale.
        out: label root; finished files are kept.
        config: thresholds and batch size.
        small: folder of the round trained on shrunken frames; without it, L2 is what the other one finds.
        judge: folder of the Moving2Mobile round, which helps to choose thresholds that are not set.
    """
    detectors = {"large_score": large} | ({} if small is None else {"small_score": small})
    judge = judge if any(getattr(config, name) is None for name in detectors) else None
    inputs = [split, *detectors.values(), *([] if judge is None else [judge])]
    stage = Stage("labels aggregated", out, config, tuple(inputs), data)
    stage.run(lambda: _label(data, split, detectors, judge, out, config))


def _label(
    data: Path,
    split: Path,
    detectors: dict[str, Path],
    judge: Path | None,
    out: Path,
    config: AggregatedLabelsConfig,
) -> dict[str, Any]:
    settled = with_agreed_scores(config, detectors, data, split, judge)
    thresholds = {name: getattr(settled, name) for name in detectors}
    makers = list(zip(detectors.values(), thresholds.values(), strict=True))
    numbers = label_frames("L2", data, split, makers, out, settled.select, **settled.showing)
    return {**numbers, "thresholds": thresholds}
