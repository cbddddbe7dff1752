"""Label sets on disk: one JSON a frame under a label root, made whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, read_npz, write_json
from moduv.engine.log import progress, say
from moduv.engine.parallel import process_map
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image
from moduv.frames.splits import read_split
from moduv.labels.initial import extract_instances
from moduv.labels.instances import Instances
from moduv.labels.snapped import snap_to_image

SUFFIX = ".json"
QUANTILES = {
    "smallest": 0.0,
    "lower quartile": 0.25,
    "median": 0.5,
    "upper quartile": 0.75,
    "largest": 1.0,
}
"""Of the sizes of a label set's instances."""


@dataclass(frozen=True)
class InitialConfig:
    """Parameters of L0; the defaults are the published ones, for masks of 320 x 480."""

    window: int = 10
    motion_threshold: float = 0.1
    eps: float = 0.03
    min_samples: int = 100
    relative: bool = False
    """Whether eps is a share of the range instead of a length in units of depth."""
    grow: int = 0
    """Pixels by which instances spread over moving pixels that the window left out."""
    smallest_extent: int = 5
    snap: bool = False
    """Fit the instances to the image's colours."""
    certain: float = 0.0
    """With `snap`: instances whose mean motion is below this are dropped unless they have colours of
    their own; 0: none is."""
    workers: int = 2


def initial_labels(
    split: Path, motion: Path, out: Path, config: InitialConfig, data: Path | None = None
) -> None:
    """Make L0 from motion masks and depth.

    Args:
        split: frames to label; those without motion output are counted and get no labels.
        motion: folder of the motion outputs, `<segment>/NNNNNN.npz`.
        out: label root; receives `<segment>/NNNNNN.json`, finished files are kept.
        config: parameters of the clustering.
        data: folder of the frames; needed to snap instances to the image.

    Raises:
        InputError: when no frame has a motion output, or one is broken; the others are labelled.
    """
    if config.snap and data is None:
        raise InputError(
            "L0: 'snap' needs the frames; give their folder with --data, or set it to false."
        )
    inputs = (split, motion) if (motion / "manifest.json").is_file() else (split,)
    stage = Stage("labels initial", out, config, inputs, data)
    stage.run(lambda: _initial(split, motion, out, config, data))


def _initial(
    split: Path, motion: Path, out: Path, config: InitialConfig, data: Path | None
) -> dict[str, Any]:
    frames = read_split(split)
    known = [frame for frame in frames if frame.file(motion, ".npz").is_file()]
    if not known:
        raise InputError(
            f"{motion}: has no motion output for the {len(frames)} frames of {split}; "
            "run the motion stage first."
        )
    share = distributed.shard(known)
    todo = [frame for frame in share if not is_labelled(out, frame)]
    jobs = [(frame, motion, out, config, data) for frame in todo]
    finished = process_map(_label_frame, jobs, config.workers, chunk=8)
    troubles = list(progress(finished, desc="L0", total=len(jobs), unit="frame"))
    broken = [trouble for trouble in troubles if trouble]
    if broken:
        others = f" ({len(broken)} motion outputs are broken)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{others}")
    distributed.barrier()
    numbers = statistics(out, known)
    say(
        f"  L0: {numbers['instances']} instances in {len(known)} frames; "
        f"{len(share) - len(todo)} were there before, "
        f"{len(frames) - len(known)} are without motion output"
    )
    return {**numbers, "without_motion_output": len(frames) - len(known)}


def _label_frame(job: tuple[FrameRef, Path, Path, InitialConfig, Path | None]) -> str:
    """Label a frame; what is wrong with its motion output, so that one broken file stops no other."""
    frame, motion, out, config, data = job
    image = None if data is None else frame.image_path(data)
    try:
        instances = label_motion_output(frame.file(motion, ".npz"), config, image)
    except InputError as error:
        return str(error)
    write_labels(out, frame, instances)
    return ""


def label_motion_output(path: Path, config: InitialConfig, image: Path | None = None) -> Instances:
    """L0 of one motion output file and, where it is snapped, of the frame's image.

    Raises InputError naming the file when it is broken.
    """
    arrays = read_npz(path, ("mot_mask", "depth", "inv_K"))
    instances = extract_instances(
        arrays["mot_mask"],
        arrays["depth"],
        arrays["inv_K"],
        window=config.window,
        motion_threshold=config.motion_threshold,
        eps=config.eps,
        min_samples=config.min_samples,
        relative=config.relative,
        grow=config.grow,
        smallest_extent=config.smallest_extent,
        source=str(path),
    )
    if not config.snap or image is None or instances.size is None:
        return instances
    motion = [float(arrays["mot_mask"][mask].mean()) for mask in instances.decode()]
    frame = resize_image(read_image(image), *instances.size)
    return snap_to_image(instances, frame, certain=np.array(motion) >= config.certain)


def write_labels(root: str | Path, frame: FrameRef, instances: Instances) -> None:
    """Write a frame's labels in the official form, atomically."""
    write_json(frame.file(root, SUFFIX), instances.to_json())


def read_labels(root: str | Path, frame: FrameRef) -> Instances:
    """Read a frame's labels. Raises InputError naming the file when it is missing or broken."""
    path = frame.file(root, SUFFIX)
    return Instances.from_json(read_json(path), path)


def is_labelled(root: str | Path, frame: FrameRef) -> bool:
    """Whether a frame has a whole label file; a broken one counts as missing."""
    if not frame.file(root, SUFFIX).is_file():
        return False
    try:
        read_labels(root, frame)
    except InputError:
        return False
    return True


def labelled(root: str | Path, frames: Iterable[FrameRef]) -> list[FrameRef]:
    """The frames that have a label file. Raises InputError when there is none."""
    frames = list(frames)
    found = [frame for frame in frames if frame.file(root, SUFFIX).is_file()]
    if not found:
        raise InputError(
            f"{root}: has no labels for the {len(frames)} frames of the split; "
            "run the label stage first or check the folder."
        )
    return found


def statistics(root: str | Path, frames: Sequence[FrameRef]) -> dict[str, Any]:
    """Counts and sizes of a label set: frames, instances, empty frames, quantiles of the area's root."""
    roots: list[float] = []
    scores: list[float] = []
    empty = 0
    for frame in frames:
        instances = read_labels(root, frame)
        roots += np.sqrt(instances.areas()).tolist()
        scores += [] if instances.scores is None else instances.scores.tolist()
        empty += not len(instances)
    quantiles = np.quantile(roots, list(QUANTILES.values())).round(1).tolist() if roots else []
    return {
        "frames": len(frames),
        "empty_frames": empty,
        "instances": len(roots),
        "root_area_quantiles": quantiles,
        "mean_score": round(float(np.mean(scores)), 4) if scores else None,
    }


def check(root: str | Path, frames: Sequence[FrameRef]) -> list[str]:
    """One sentence for every frame whose labels are missing or broken."""
    problems = []
    for frame in frames:
        try:
            read_labels(root, frame)
        except InputError as error:
            problems.append(str(error))
    return problems


def label_statistics(labels: Path, split: Path) -> None:
    """Print counts, sizes and scores of a label set.

    Args:
        labels: label root.
        split: frames to look at; those without labels are left out.
    """
    numbers = statistics(labels, labelled(labels, read_split(split)))
    roots = numbers.pop("root_area_quantiles")
    for key, value in numbers.items():
        say(f"{key:<22} {value}")
    # Without instances there are no quantiles.
    sizes = ", ".join(f"{name} {value}" for name, value in zip(QUANTILES, roots, strict=False))
    say(f"{'root of area, pixels':<22} {sizes or None}")


def check_labels(labels: Path, split: Path) -> None:
    """Read every label file of a split and report those that are missing or broken.

    Args:
        labels: label root.
        split: frames to check.

    Raises:
        InputError: when any is.
    """
    frames = read_split(split)
    problems = check(labels, frames)
    for problem in problems[:20]:
        say(problem)
    if problems:
        raise InputError(
            f"{labels}: {len(problems)} of {len(frames)} label files are missing or broken."
        )
    say(f"{labels}: all {len(frames)} label files are whole")
