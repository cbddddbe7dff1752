"""Large2Small: one detector for large objects, one for small ones, merged to L2 (MOD-UV, section 3.3).

The small-scale detector sees every frame shrunk to a quarter, so the large objects that L1 holds teach
it how small ones look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from moduv.engine.stages import Stage
from moduv.labels.aggregated import aggregate_predictions
from moduv.labels.instances import Instances, Predictions
from moduv.rounds.labelling import label_frames, refine


@dataclass(frozen=True)
class Large2SmallLabels:
    """How L2 is made; the thresholds are the published ones."""

    SPEED_ONLY: ClassVar = ("batch_size",)

    large_score: float = 0.9
    small_score: float = 0.8
    match_iou: float = 0.5
    self_filter: float = 0.75
    cross_filter: float = 0.5
    binary_cover: bool = False
    """Compare masks instead of their soft supports, which reach as far as the boxes."""
    one_to_one: bool = False
    """Use up both masks of a pair, so that no object is kept twice."""
    veto_by_survivors: bool = False
    """Let only small masks that survive drop a large one."""
    nested: float = 1.0
    """Largest share that a label may have in common with a better one; 1: not looked at, as published."""
    snap: bool = False
    """Fit the labels to the image's colours. Off in the published method."""
    batch_size: int = 4
    workers: int = 2
    """Threads that decode images, and as many that merge, snap and write."""

    def aggregate(self, large: Predictions, small: Predictions, image: Path) -> Instances:
        """Merge the confident predictions of both detectors on one frame.

        The frame's image is read where the labels are snapped.
        """
        merged = aggregate_predictions(
            large.above(self.large_score),
            small.above(self.small_score),
            match_iou=self.match_iou,
            self_filter=self.self_filter,
            cross_filter=self.cross_filter,
            binary_cover=self.binary_cover,
            one_to_one=self.one_to_one,
            veto_by_survivors=self.veto_by_survivors,
        )
        return refine(merged, image, snap=self.snap, nested=self.nested)


def aggregated_labels(
    data: Path, split: Path, large: Path, small: Path, out: Path, config: Large2SmallLabels
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
    stage = Stage("labels aggregated", out, config, (split, large, small), data)
    stage.run(lambda: _label(data, split, large, small, out, config))


def _label(
    data: Path, split: Path, large: Path, small: Path, out: Path, config: Large2SmallLabels
) -> dict[str, Any]:
    return label_frames(
        "L2",
        data,
        split,
        [(large, config.large_score), (small, config.small_score)],
        out,
        config.aggregate,
        batch_size=config.batch_size,
        workers=config.workers,
    )
