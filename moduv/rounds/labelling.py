"""Label sets of any frames: L0 from motion outputs, L1 and L2 from what trained detectors find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduv.detector.predictor import stream
from moduv.detector.weights import load_detector
from moduv.engine import distributed
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map, process_map
from moduv.engine.stages import MANIFEST, Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import image_size, read_image
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances, Predictions
from moduv.instances.store import is_labelled, statistics, write_labels
from moduv.labels.initial import InitialConfig, initial_labels
from moduv.labels.predicted import without_nested
from moduv.labels.snapped import snap_to_image
from moduv.rounds.evidence import expected_errors, label_flow_frames, with_errors

Select = Callable[..., Instances]
"""Makes the labels of a frame: (image (H, W, 3) uint8, the `Predictions` of each detector)."""


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
    inputs = (split, motion) if (motion / MANIFEST).is_file() else (split,)
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
        arrays = read_npz(path, ("mot_mask", "depth", "inv_K"))
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
    detectors: Sequence[tuple[Path, float]],
    out: Path,
    select: Select,
    *,
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
        batch_size: frames at once.
        workers: threads that decode images, and as many that select and write.

    Returns:
        The label set's statistics.
    """
    frames = read_split(split)
    todo = distributed.unfinished(frames, batch_size, lambda frame: is_labelled(out, frame))
    for _ in detect_frames(name, data, todo, detectors, out, select, batch_size, workers):
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
) -> Iterator[tuple[FrameRef, tuple[Predictions, ...]]]:
    """Detections of every detector on any frames, in order; labels made of them are written on the way.

    Args:
        name: what the progress bar calls the work.
        data: folder of the frames.
        frames: which.
        detectors: folders of rounds, each with its score threshold; None: the network's own.
        out: label root.
        select: makes the labels of a frame; None: none are made.
        batch_size: frames at once.
        workers: threads that decode images, and as many that select and write.
    """
    models = [load_detector(folder, distributed.device()) for folder, _ in detectors]
    paths = [frame.image_path(data) for frame in frames]
    found = stream(models, paths, [score for _, score in detectors], batch_size, workers)
    bar = progress(zip(frames, found, strict=True), desc=name, total=len(frames), unit="frame")

    def label(
        item: tuple[FrameRef, tuple[np.ndarray, tuple[Predictions, ...]]],
    ) -> tuple[FrameRef, tuple[Predictions, ...]]:
        frame, (image, predictions) = item
        if select is not None and out is not None and not is_labelled(out, frame):
            write_labels(out, frame, select(image, *predictions))
        return frame, predictions

    yield from bounded_map(label, bar, workers)


def refine(found: Instances, image: np.ndarray, *, snap: bool, nested: float) -> Instances:
    """Labels fitted to their image (H, W, 3) uint8, and without nested ones, where asked for."""
    if snap:
        found = snap_to_image(found, image)
    return found if nested >= 1 else without_nested(found, nested)
