"""Labels of frames from what trained detectors find on them: what L1 and L2 have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moduv.detector.predict import predict_together
from moduv.detector.train import load_detector
from moduv.engine import distributed
from moduv.engine.log import say
from moduv.engine.parallel import bounded_map
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split
from moduv.labels.instances import Instances, Predictions
from moduv.labels.predicted import without_nested
from moduv.labels.snapped import snap_to_image
from moduv.labels.store import is_labelled, statistics, write_labels


def label_frames(
    name: str,
    data: Path,
    split: Path,
    detectors: Sequence[tuple[Path, float]],
    out: Path,
    select: Callable[..., Instances],
    *,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Write the labels of a split's frames; finished files are kept.

    Under torchrun every process takes its share.

    Args:
        name: of the label set.
        data: folder of the frames.
        split: frames to label.
        detectors: folders of rounds, and the scores below which `select` keeps nothing: what lies
            below is neither given to the mask head nor pasted.
        out: label root.
        select: makes labels of the `Predictions` of each detector and the path of the frame's image.
        batch_size: frames at once.
        workers: threads that decode images, and as many that select and write.

    Returns:
        The label set's statistics.
    """
    frames = read_split(split)
    todo = [frame for frame in distributed.shard(frames) if not is_labelled(out, frame)]
    models = [load_detector(folder) for folder, _ in detectors]
    thresholds = [score for _, score in detectors]
    found = predict_together(models, todo, data, thresholds, batch_size, workers, name)

    def label(item: tuple[FrameRef, tuple[Predictions, ...]]) -> None:
        frame, predictions = item
        write_labels(out, frame, select(*predictions, frame.image_path(data)))

    for _ in bounded_map(label, found, workers):
        pass
    distributed.barrier()
    numbers = statistics(out, frames)
    say(f"  {name}: {numbers['instances']} instances in {len(frames)} frames")
    return numbers


def refine(found: Instances, image: Path, *, snap: bool, nested: float) -> Instances:
    """Labels snapped to their image, which is read for it, and without nested ones, where asked for."""
    if snap:
        found = snap_to_image(found, read_image(image))
    return found if nested >= 1 else without_nested(found, nested)
