"""Measure a run on held-out frames: motion, label sets and detectors in one table.

Labels are made on the held-out frames exactly as they were on the training frames, so that L0, L1 and
L2 are compared where no detector was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.engine import distributed
from moduv.engine.config import build, speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.log import say
from moduv.engine.pipeline import config_class
from moduv.engine.stages import MANIFEST, Stage, fingerprint, read_manifest
from moduv.evaluation.agreement import describe_sets
from moduv.evaluation.consistency import temporal_consistency
from moduv.evaluation.depth_regions import PROTOCOLS, errors_by_region, evaluate_depths
from moduv.evaluation.detection import evaluate
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.evaluation.tables import show_metrics
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.coco import CATEGORIES, select_truth
from moduv.instances.instances import Instances
from moduv.labels.initial import InitialConfig
from moduv.rounds.evidence import with_errors_of
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import DETECTORS, FINAL, JUDGE, LABEL_SETS, folder
from moduv.runs.heldout import HeldOut
from moduv.runs.tables import print_table
from moduv.visual.figures import line_chart

IMAGES = "images.json"
"""The measured frames as COCO images; their ids are those of the results beside it."""
METRICS = "metrics.json"


@dataclass(frozen=True)
class MeasureConfig:
    """How a run is measured."""

    areas: str = "coco"
    """Size ranges: coco, or street for small frames."""
    batch_size: int = speed_only(8)


def measure_run(
    run: Path,
    data: Path,
    split: Path,
    out: Path,
    config: MeasureConfig,
    annotations: Path | None = None,
) -> None:
    """Measure every stage of a run on held-out frames and print the table.

    Args:
        run: folder of the run, with `motion_val` and the rounds' folders.
        data: folder of the frames.
        split: held-out frames.
        out: receives `metrics.json`, label sets and detections of the held-out frames.
        config: size ranges and thresholds.
        annotations: their true objects, COCO JSON; without them label sets are counted and compared
            with one another.

    Raises:
        InputError: when a stage is missing or the ground truth does not know the frames.
    """
    detectors = [folder(run, step.name) for step in DETECTORS.values()]
    labels = [folder(run, step.name) for step in LABEL_SETS.values()]
    inputs = [split, *([] if annotations is None else [annotations]), folder(run, "motion_val")]
    inputs += [path for path in detectors if path.is_dir()]
    inputs += [path for path in labels if (path / MANIFEST).is_file()]
    stage = Stage("measure", out, config, tuple(inputs), data)
    _remove_measures_of_0_1(out)
    # One process measures; the others wait for it.
    stage.run(
        lambda: (
            _measure(run, data, split, annotations, out, config) if distributed.is_main() else None
        )
    )
    print_table(read_metrics(out))


def read_metrics(out: Path) -> dict[str, dict[str, float]]:
    """The metrics of a measured run by stages, from the folder that `measure_run` filled.

    Raises InputError when it was not filled, or the file was changed since.
    """
    path = out / METRICS
    if not path.is_file():
        raise InputError(f"{path}: the run is not measured yet; run 'moduv measure' first.")
    known = read_manifest(out).get("results", {}).get(METRICS)
    if known not in (None, fingerprint(path)):
        raise InputError(
            f"{path}: was changed after it was measured; restore it, or move {out} away and run "
            "'moduv measure' again."
        )
    return read_json(path)


def _remove_measures_of_0_1(out: Path) -> None:
    """Remove measurements of version 0.1, which could use other label settings, so that they are repeated."""
    manifest = read_manifest(out)
    older = manifest.get("stage") == "measure" and str(manifest.get("moduv")).startswith("0.1.")
    # Every process must have looked before one of them removes what there is to see.
    distributed.barrier()
    if older and distributed.is_main():
        say(f"measure: {out} is of version {manifest.get('moduv')} and is made again")
        shutil.rmtree(out)
    distributed.barrier()


def _measure(
    run: Path, data: Path, split: Path, annotations: Path | None, out: Path, config: MeasureConfig
) -> dict[str, Any]:
    motion = folder(run, "motion_val")
    frames = with_motion(motion, split)
    images = _images(annotations, data, frames)
    write_json(out / IMAGES, {**images, "annotations": []})
    metrics: dict[str, dict[str, float]] = {}
    if (data / "truth").is_dir():
        metrics["motion"] = evaluate_motion_outputs(motion, data / "truth", frames)[0]
    held_out = HeldOut(data, frames, images["images"], out, config.batch_size)
    finished = {
        name: folder(run, step.name)
        for name, step in DETECTORS.items()
        if (folder(run, step.name) / MANIFEST).is_file()
    }
    sets = label_sets(run, motion, held_out)
    for name, weights in finished.items():
        held_out.detect([weights])
        if annotations is not None:
            found = held_out.detections(weights.name)
            metrics[name] = evaluate(images, read_json(found), areas=config.areas)
    for name, instances in sets.items():
        metrics[name] = {}
        if annotations is not None:
            metrics[name] = evaluate(
                images, _label_results(instances, images), areas=config.areas, score_threshold=0.0
            )
    if FINAL in finished:
        sets[FINAL] = [one.above(0.5) for one in held_out.found(finished[FINAL].name)]
    consistency = temporal_consistency(sets, frames, data)
    for name, numbers in describe_sets(sets).items():
        numbers["labels/consistency"] = consistency[name]
        metrics[name] = {**metrics.get(name, {}), **numbers}
    write_json(out / METRICS, metrics, indent=1)
    return {"frames": len(frames), METRICS: fingerprint(out / METRICS)}


def with_motion(motion: Path, split: Path) -> list[FrameRef]:
    """The frames of a split that have motion outputs. Raises InputError when none has."""
    wanted = read_split(split)
    frames = [frame for frame in wanted if frame.file(motion, ".npz").is_file()]
    if 0 < len(frames) < len(wanted):
        say(
            f"{motion}: {len(wanted) - len(frames)} of {len(wanted)} frames have no output, left out"
        )
    if not frames:
        raise InputError(
            f"{motion}: has no frame of {split}; predict motion on it first, or give the measured split."
        )
    return frames


def label_sets(run: Path, motion: Path, held_out: HeldOut) -> dict[str, Sequence[Instances]]:
    """L0, L1 and L2 of the held-out frames, made as those of the training frames were.

    The settings are those in the manifest of each label set, with the thresholds that were chosen. A set
    that is not there, or that something else made, is left out.
    """
    sets: dict[str, Sequence[Instances]] = {}
    for name, step in LABEL_SETS.items():
        root = folder(run, step.name)
        manifest = read_manifest(root)
        sources = [folder(run, source) for option, source in step.reads.items() if option != JUDGE]
        # Without a small-scale detector, L2 was made from the other one alone.
        makers = [source for source in sources if source.name in manifest.get("inputs", sources)]
        if manifest.get("stage") != step.command:
            if manifest:
                say(f"  {name}: not measured, because {manifest.get('stage')!r} made {root}")
            continue
        kind = config_class(COMMANDS[step.command])
        settled = {**manifest["config"], **manifest["results"].get("thresholds", {})}
        settings = build(kind, settled, str(root / MANIFEST))
        if isinstance(settings, InitialConfig):
            settings = with_errors_of(settings, manifest["results"], str(root / MANIFEST))
            sets[name] = held_out.initial_labels(name, motion, settings)
        elif all((maker / MANIFEST).is_file() for maker in makers):
            held_out.detect(makers, name, settings.select, settings.views)
            sets[name] = held_out.labels(name)
    return sets


def _images(annotations: Path | None, data: Path, frames: list[FrameRef]) -> dict[str, Any]:
    """The ground truth of the frames, or their images alone, in the frames' order."""
    if annotations is not None:
        return select_truth(annotations, data, frames)
    images = [
        {"id": number, "file_name": f"{frame.segment}/{frame.index:06d}.jpg"}
        for number, frame in enumerate(frames, 1)
    ]
    return {"images": images, "annotations": [], "categories": CATEGORIES}


def _label_results(instances: Sequence[Instances], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Label sets as COCO results at the images' size; labels without scores count as certain."""
    results: list[dict[str, Any]] = []
    for image, labels in zip(truth["images"], instances, strict=True):
        if "height" not in image:
            raise InputError(
                f"ground truth: {image['file_name']!r} lacks 'height' and 'width'; add them."
            )
        size = (image["height"], image["width"])
        labels.check_aspect(size, f"labels of {image['file_name']}")
        results += labels.to_coco(image["id"], size)
    return results


def measure_motion(motion: Path, truth: Path, split: Path, out: Path | None = None) -> None:
    """Print the metrics of motion masks (AP against the base rate, best F1), depth and odometry.

    Args:
        motion: folder of the motion outputs.
        truth: the street world's `truth` folder, or the data folder of a prepared real data set.
        split: frames to look at; those without motion output are left out.
        out: receives `metrics.json` and, where motion is labelled, `precision_recall.svg`.
    """
    metrics, curve = evaluate_motion_outputs(motion, truth, with_motion(motion, split))
    show_metrics(metrics, None if out is None else out / "metrics.json")
    if out is not None and curve is not None:
        points = list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True))
        base_rate = metrics["motion/base_rate"]
        series = {"motion mask": points, "chance": [(0.0, base_rate), (1.0, base_rate)]}
        title = (
            f"motion masks: AP {metrics['motion/AP']:.3f}, best F1 {metrics['motion/best_F1']:.3f}"
        )
        line_chart(title, series, "recall", "precision").save(out / "precision_recall.svg")


def measure_depth(
    motion: Path, truth: Path, split: Path, protocol: str = "street", out: Path | None = None
) -> None:
    """Print depth errors over all, static and dynamic pixels under one scale an image, and of moving objects.

    Args:
        motion: folder of the motion outputs.
        truth: the street world's or Cityscapes' `truth` folder, or the data folder of a prepared data set.
        split: frames to look at; those without motion output are left out.
        protocol: street, cityscapes or waymo: crop, caps and the smallest mover.
        out: where to write the metrics as JSON.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is unknown; choose one of {tuple(PROTOCOLS)}.")
    frames = with_motion(motion, split)
    metrics = evaluate_depths(motion, truth, frames, PROTOCOLS[protocol])
    table, others = errors_by_region(metrics)
    say(table)
    show_metrics(others)
    if out is not None:
        write_json(out, metrics, indent=1)


def evaluate_detections(
    ground_truth: Path, predictions: Path, out: Path | None = None, areas: str = "coco"
) -> None:
    """Evaluate detections as one class and print every metric.

    Args:
        ground_truth: COCO JSON; `iscrowd` and `ignore` annotations are neither asked for nor punished.
        predictions: COCO results, or a COCO data set such as an exported label set.
        out: where to write the metrics as JSON.
        areas: size ranges, coco or street.
    """
    metrics = evaluate(ground_truth, predictions, areas=areas)
    show_metrics(metrics, out)
