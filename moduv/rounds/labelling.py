"""Label sets of any frames: L0 from motion outputs, L1 and L2 from what trained detectors find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from moduv.detector.predictor import Detector, View, batches, stream
from moduv.detector.weights import load_detector
from moduv.engine import distributed
from moduv.engine.config import speed_only, to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map, process_map
from moduv.engine.stages import Stage, made_by_stages
from moduv.frames.clip import FrameRef
from moduv.frames.images import image_size, read_image
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances, Predictions
from moduv.instances.store import is_labelled, statistics, write_labels
from moduv.labels.agreement import agreed_score, found_again
from moduv.labels.initial import InitialConfig, initial_labels
from moduv.labels.predicted import fuse, with_fitted_boxes, with_fitted_masks, without_nested
from moduv.labels.snapped import snap_to_image
from moduv.rounds.evidence import expected_errors, label_flow_frames, with_errors

Select = Callable[..., Instances]
"""Makes the labels of a frame: (image (H, W, 3) uint8, the `Predictions` of each detector)."""
SAMPLE = 240
"""Frames, evenly spread, whose views choose a score threshold."""


@dataclass(frozen=True)
class LabelsConfig:
    """How what a detector finds becomes labels. The defaults are the published way."""

    flip: bool = False
    """Look at every frame mirrored, too. A score is the mean over all views of a frame, a mask that of those
    in which the object was found; a score threshold that is not set is chosen by the views' agreement."""
    scales: tuple[float, ...] = ()
    """Sizes at which to look at every frame, too, as factors of the usual one."""
    nested: float = 1.0
    """Largest share that a label may have in common with a better one; 1: any, as published."""
    fit_masks: bool = False
    """Take the pixels of the greatest expected Dice coefficient; off in the published method, which takes those
    with a probability above one half."""
    fit_boxes: bool = False
    """Fit the boxes to the masks; off in the published method, which takes those of the box head."""
    snap: bool = False
    """Fit the labels to the image's colours. Off in the published method."""
    batch_size: int = speed_only(4)
    workers: int = speed_only(2)
    """Threads that decode images, and as many that select, snap and write."""

    @property
    def views(self) -> tuple[View, ...]:
        """The views of a frame beside the plain one."""
        mirrored = (View(flip=True),) if self.flip else ()
        return (*mirrored, *(View(scale=scale) for scale in self.scales))

    @property
    def showing(self) -> dict[str, Any]:
        """How frames are shown to a detector: options of `label_frames`."""
        return {"views": self.views, "batch_size": self.batch_size, "workers": self.workers}

    def confident(self, found: Predictions, score: float | None) -> Predictions:
        """The predictions above a score, with fitted masks where asked for."""
        found = found.above(score or 0.0)
        return with_fitted_masks(found) if self.fit_masks else found

    def finish(self, found: Instances, image: np.ndarray) -> Instances:
        """Labels fitted to their image (H, W, 3) uint8 and their masks, without nested ones, where asked for."""
        if self.snap:
            found = snap_to_image(found, image)
        if self.fit_boxes:
            found = with_fitted_boxes(found)
        return found if self.nested >= 1 else without_nested(found, self.nested)


Config = TypeVar("Config", bound=LabelsConfig)


def label_motion(
    split: Path, motion: Path, out: Path, config: InitialConfig, data: Path | None = None
) -> None:
    """Make L0 from motion masks, or from measured flow, and depth.

    Args:
        split: frames to label; those without motion output are counted and get no labels.
        motion: folder of the motion outputs, `<segment>/NNNNNN.npz`.
        out: label root; receives `<segment>/NNNNNN.json`, finished files are kept.
        config: which evidence, and parameters of the clustering.
        data: folder of the frames; needed to measure flow, and to snap instances to the image.

    Raises:
        InputError: when no frame has a motion output, or one is broken; the others are labelled.
    """
    if data is None and (config.snap or config.evidence == "flow"):
        needs = "'snap'" if config.snap else "'evidence: flow'"
        raise InputError(
            f"L0: {needs} needs the frames; give their folder with --data, or switch it off."
        )
    raft = config.flow.raft if config.evidence == "flow" else ""
    inputs = (split, *made_by_stages(motion), *([Path(raft)] if raft else []))
    stage = Stage("labels initial", out, config, inputs, data)
    stage.run(lambda: _label_split(split, motion, out, config, data))


def _label_split(
    split: Path, motion: Path, out: Path, config: InitialConfig, data: Path | None
) -> dict[str, Any]:
    frames = read_split(split)
    known = [frame for frame in frames if frame.file(motion, ".npz").is_file()]
    if not known:
        raise InputError(
            f"{motion}: has no motion output for the {len(frames)} frames of {split}; "
            "run the motion stage first."
        )
    noise = None
    if config.evidence == "flow" and data is not None:
        noise = expected_errors(known, motion, out, config, data)
        config = with_errors(config, noise)
    label_motion_frames(distributed.shard(known), motion, out, config, data)
    distributed.barrier()
    numbers = statistics(out, known)
    say(
        f"  L0: {numbers['instances']} instances in {len(known)} frames; "
        f"{len(frames) - len(known)} are without motion output"
    )
    results = {**numbers, "without_motion_output": len(frames) - len(known)}
    return results if noise is None else {**results, "noise": to_dict(noise)}


def label_motion_frames(
    frames: Sequence[FrameRef], motion: Path, out: Path, config: InitialConfig, data: Path | None
) -> None:
    """Write L0 of frames that have motion outputs; finished files are kept.

    Raises:
        InputError: naming a broken motion output, when the other frames are labelled.
    """
    if config.evidence == "flow" and data is not None:
        label_flow_frames(frames, motion, out, config, data)
        return
    todo = [frame for frame in frames if not is_labelled(out, frame)]
    jobs = [(frame, motion, out, config, data) for frame in todo]
    finished = process_map(_label_motion_frame, jobs, config.workers, chunk=8)
    errors = [e for e in progress(finished, desc="L0", total=len(jobs), unit="frame") if e]
    if errors:
        others = f" ({len(errors)} motion outputs are broken)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{others}")


def _label_motion_frame(job: tuple[FrameRef, Path, Path, InitialConfig, Path | None]) -> str:
    """Label a frame; the error of its motion output, so that one broken file stops no other."""
    frame, motion, out, config, data = job
    path = frame.file(motion, ".npz")
    try:
        arrays = read_npz(path, ("depth", "inv_K"), ("mot_mask",))
        if "mot_mask" not in arrays:
            raise InputError(
                f"{path}: stage 1 was trained without a mask ('mot_mask'); set the evidence to flow, or train "
                "its later phases."
            )
        image = read_image(frame.image_path(data)) if config.snap and data else None
        size = image_size(frame.image_path(data)) if data else None
        mask, depth, inv_K = (np.asarray(arrays[name]) for name in ("mot_mask", "depth", "inv_K"))
        found = initial_labels(mask, depth, None, image, config, inv_K=inv_K, source=str(path))
        if size is not None:
            found.check_aspect(size[::-1], path)
    except InputError as error:
        return str(error)
    write_labels(out, frame, found)
    return ""


def label_frames(
    name: str,
    data: Path,
    split: Path,
    detectors: Sequence[tuple[Path, float | None]],
    out: Path,
    select: Select,
    *,
    views: Sequence[View] = (),
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Write the labels that detectors make of a split's frames; finished files are kept.

    Under torchrun every process takes its share.

    Args:
        name: of the label set.
        data: folder of the frames.
        split: frames to label.
        detectors: folders of rounds, and the scores below which `select` keeps nothing: what lies
            below is neither given to the mask head nor pasted.
        out: label root.
        select: makes the labels of a frame.
        views: of every frame, beside the plain one.
        batch_size: frames at once.
        workers: threads that decode images, and as many that select and write.

    Returns:
        The label set's statistics.
    """
    frames = read_split(split)
    todo = distributed.unfinished(frames, batch_size, lambda frame: is_labelled(out, frame))
    for _ in detect_frames(name, data, todo, detectors, out, select, batch_size, workers, views):
        pass
    distributed.barrier()
    numbers = statistics(out, frames)
    say(f"  {name}: {numbers['instances']} instances in {len(frames)} frames")
    return numbers


def detect_frames(
    name: str,
    data: Path,
    frames: Sequence[FrameRef],
    detectors: Sequence[tuple[Path, float | None]],
    out: Path | None,
    select: Select | None,
    batch_size: int,
    workers: int,
    views: Sequence[View] = (),
) -> Iterator[tuple[FrameRef, tuple[Predictions, ...]]]:
    """Detections of every detector on any frames, in order; labels made of them are written on the way.

    Args:
        name: what the progress bar calls the work.
        data: folder of the frames.
        frames: which.
        detectors: folders of rounds, each with its score threshold; None: the network's own.
        out: label root.
        select: makes the labels of a frame, of all its views; None: none are made.
        batch_size: frames at once.
        workers: threads that decode images, and as many that select and write.
        views: of every frame, beside the plain one, whose detections these are.
    """
    models = [model for folder, _ in detectors for model in viewers(folder, views)]
    # An object's mean score may exceed a threshold that not all of its views do.
    limits = [None if views else score for _, score in detectors for _ in range(1 + len(views))]
    floors = [score or 0.0 for _, score in detectors]
    paths = [frame.image_path(data) for frame in frames]
    found = stream(models, paths, limits, batch_size, workers)
    bar = progress(zip(frames, found, strict=True), desc=name, total=len(frames), unit="frame")

    def label(
        item: tuple[FrameRef, tuple[np.ndarray, tuple[Predictions, ...]]],
    ) -> tuple[FrameRef, tuple[Predictions, ...]]:
        frame, (image, predictions) = item
        plain = predictions[:: 1 + len(views)]
        if select is not None and out is not None and not is_labelled(out, frame):
            seen = batches(predictions, 1 + len(views))
            fused = [fuse(one, floor) for one, floor in zip(seen, floors, strict=True)]
            write_labels(out, frame, select(image, *fused))
        return frame, plain

    yield from bounded_map(label, bar, workers)


def viewers(folder: Path, views: Sequence[View]) -> list[Detector]:
    """A round's detector for the plain view of a frame, and for each further one."""
    detector = load_detector(folder, distributed.device())
    return [detector, *(detector.seeing(view) for view in views)]


def with_agreed_scores(
    config: Config,
    thresholds: Mapping[str, Path],
    data: Path,
    split: Path,
    judge: Path | None = None,
) -> Config:
    """Settings whose score thresholds are all set: those that are not, by the agreement of views.

    Every process must call it.

    Args:
        config: settings of a label set.
        thresholds: names of their score thresholds, and the folder of the detector that each is for.
        data: folder of the frames.
        split: frames that will be labelled.
        judge: folder of a round that was taught by other labels; without one a detector's views judge each other.

    Raises:
        InputError: when a threshold is not set and there is only one view.
    """
    unset = {name: folder for name, folder in thresholds.items() if getattr(config, name) is None}
    if unset and not config.views and judge is None:
        raise InputError(
            f"{next(iter(unset))!r} is not set, and one view of a frame has nothing to agree with; "
            "set it, or look at frames mirrored with flip: true."
        )
    frames = read_split(split)
    sample = frames[:: max(1, len(frames) // SAMPLE)]
    for name, folder in unset.items():
        score: Any = _agreed_score(config, folder, judge, data, sample)
        say(f"  {name} {score:.3f}, by what is found again")
        config = replace(config, **{name: score})
    return config


def _agreed_score(
    config: LabelsConfig, folder: Path, judge: Path | None, data: Path, frames: Sequence[FrameRef]
) -> float:
    """The score above which a detector's labels of these frames have the greatest expected F1."""
    share = distributed.unfinished(frames, config.batch_size, lambda _: False)
    models = viewers(folder, config.views)
    own = len(models)
    models += [] if judge is None else viewers(judge, config.views)
    paths = [frame.image_path(data) for frame in share]
    found = stream(models, paths, [None] * len(models), config.batch_size, config.workers)
    # Where a mask ends at a colour does not tell whether there is an object.
    plain = replace(config, snap=False)
    judged: list[tuple[float, bool]] = []
    for image, seen in progress(found, desc="agreement", total=len(share), unit="frame"):
        for made_from, witness in _judgements(seen[:own], seen[own:]):
            labels, again = (
                plain.finish(plain.confident(one, None).to_instances(), image)
                for one in (fuse(made_from), witness)
            )
            assert labels.scores is not None
            judged += zip(labels.scores.tolist(), found_again(labels, again).tolist(), strict=True)
    rows = torch.tensor(judged, dtype=torch.float64).reshape(-1, 2)
    scores, agreed = distributed.gather_rows(rows).numpy().T
    # Rounded, because the last digits of scores depend on the machine.
    return round(agreed_score(scores, agreed), 3)


def _judgements(
    own: Sequence[Predictions], others: Sequence[Predictions]
) -> Iterator[tuple[Sequence[Predictions], Predictions]]:
    """Views that make labels and one that judges them: another detector's, or the own in turn."""
    for witness in others or own:
        yield [view for view in own if view is not witness], witness
