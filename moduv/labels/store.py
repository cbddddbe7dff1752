"""Label sets on disk: one JSON a frame under a label root, made whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, read_npz, write_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.labels.initial import extract_instances
from moduv.labels.instances import Instances

SUFFIX = ".json"


@dataclass(frozen=True)
class InitialConfig:
    """Parameters of L0; the defaults are the published ones, for masks of 320 x 480."""

    window: int = 10
    motion_threshold: float = 0.1
    eps: float = 0.03
    min_samples: int = 100
    relative: bool = False
    """Whether eps is a share of the range instead of a length in units of depth."""
    smallest_extent: int = 5
    workers: int = 2


def initial_labels(split: Path, motion: Path, out: Path, config: InitialConfig) -> None:
    """Make L0 from motion masks and depth.

    Args:
        split: frames to label; those without motion output are counted and get no labels.
        motion: folder of the motion outputs, `<segment>/NNNNNN.npz`.
        out: label root; receives `<segment>/NNNNNN.json`, finished files are kept.
        config: parameters of the clustering.

    Raises:
        InputError: when a motion output is broken, or no frame has one.
    """
    inputs = (split, motion) if (motion / "manifest.json").is_file() else (split,)
    Stage("labels initial", out, config, inputs).run(lambda: _initial(split, motion, out, config))


def _initial(split: Path, motion: Path, out: Path, config: InitialConfig) -> dict[str, Any]:
    frames = read_split(split)
    known = [frame for frame in frames if frame.file(motion, ".npz").is_file()]
    if not known:
        raise InputError(
            f"{motion}: has no motion output for the {len(frames)} frames of {split}; "
            "run the motion stage first."
        )
    todo = [frame for frame in distributed.shard(known) if not is_labelled(out, frame)]
    jobs = [(frame, motion, out, config) for frame in todo]
    with ProcessPoolExecutor(max(1, config.workers)) as pool:
        counts = progress(
            pool.map(_label_frame, jobs, chunksize=8), desc="L0", total=len(jobs), unit="frame"
        )
        list(counts)
    distributed.barrier()
    numbers = statistics(out, known)
    say(
        f"  L0: {numbers['instances']} instances in {len(known)} frames; {len(frames) - len(known)} without motion output"
    )
    return {**numbers, "without_motion_output": len(frames) - len(known)}


def _label_frame(job: tuple[FrameRef, Path, Path, InitialConfig]) -> int:
    frame, motion, out, config = job
    instances = label_motion_output(frame.file(motion, ".npz"), config)
    write_labels(out, frame, instances)
    return len(instances)


def label_motion_output(path: Path, config: InitialConfig) -> Instances:
    """L0 of one motion output file. Raises InputError naming the file when it is broken."""
    arrays = read_npz(path, ("mot_mask", "depth", "inv_K"))
    return extract_instances(
        arrays["mot_mask"],
        arrays["depth"],
        arrays["inv_K"],
        window=config.window,
        motion_threshold=config.motion_threshold,
        eps=config.eps,
        min_samples=config.min_samples,
        relative=config.relative,
        smallest_extent=config.smallest_extent,
        source=str(path),
    )


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
    quantiles = np.quantile(roots, [0, 0.25, 0.5, 0.75, 1]).round(1).tolist() if roots else []
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
    for key, value in statistics(labels, labelled(labels, read_split(split))).items():
        say(f"{key:<22} {value}")


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
