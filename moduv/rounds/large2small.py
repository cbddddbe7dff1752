"""Large2Small: one detector for large objects, one for small ones, merged to L2 (MOD-UV, section 3.3).

The small-scale detector sees every frame shrunk to a quarter, so the large objects that L1 holds teach
it how small ones look.
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
from moduv.labels.aggregated import aggregate_predictions
from moduv.labels.instances import Instances, Predictions
from moduv.labels.predicted import without_nested
from moduv.labels.snapped import snap_to_image
from moduv.labels.store import is_labelled, statistics, write_labels


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
    """Threads that merge, snap and write."""

    def aggregate(self, large: Predictions, small: Predictions, image: Path) -> Instances:
        """Merge the confident predictions of both detectors on one frame.

        The frame's image is read where the labels are snapped.
        """
        merged = aggregate_predictions(
            above(large, self.large_score),
            above(small, self.small_score),
            match_iou=self.match_iou,
            self_filter=self.self_filter,
            cross_filter=self.cross_filter,
            binary_cover=self.binary_cover,
            one_to_one=self.one_to_one,
            veto_by_survivors=self.veto_by_survivors,
        )
        if self.snap:
            merged = snap_to_image(merged, read_image(image))
        return merged if self.nested >= 1 else without_nested(merged, self.nested)


def above(predictions: Predictions, score: float) -> Predictions:
    """The predictions with a score strictly above a threshold."""
    chosen = predictions.scores > score
    return Predictions(
        predictions.masks[chosen], predictions.boxes[chosen], predictions.scores[chosen]
    )


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
    frames = read_split(split)
    todo = [frame for frame in distributed.shard(frames) if not is_labelled(out, frame)]
    batch = config.batch_size
    pairs = zip(
        predict(load_detector(large), todo, data, batch_size=batch, desc="L2"),
        predict(load_detector(small), todo, data, batch_size=batch, desc="L2 small"),
        strict=True,
    )

    def label(pair: tuple[tuple[FrameRef, Predictions], tuple[FrameRef, Predictions]]) -> None:
        (frame, found_large), (_, found_small) = pair
        write_labels(out, frame, config.aggregate(found_large, found_small, frame.image_path(data)))

    for _ in bounded_map(label, pairs, config.workers):
        pass
    distributed.barrier()
    numbers = statistics(out, frames)
    say(f"  L2: {numbers['instances']} instances in {len(frames)} frames")
    return numbers
