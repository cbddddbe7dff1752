"""What measured flow tells of motion: expected errors, time, pixels and labels, beside the published mask.

    python benchmarks/evidence.py --data data/street --motion save/street/motion_outputs
        [--labels save/street/L0_pseudo_labels …] [--clips 40]

Prints the errors estimated from the frames, processor seconds, the average precision of pixels
that move by themselves (clips of a standing and of a driving camera apart) and a table of label sets: recall of
moving objects and precision at box IoU 0.5, over the frames that have motion outputs. Truth measures; nothing
here learns from it. On real data without truth only the errors and times are printed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moduv.engine.config import load_preset, to_dict
from moduv.engine.files import read_npz
from moduv.evaluation.detection import evaluate
from moduv.evaluation.motion import MotionMeter
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import camera_poses
from moduv.frames.splits import evenly, read_split
from moduv.instances.coco import select_truth
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels
from moduv.labels.evidence.fusion import over_superpixels
from moduv.labels.initial import InitialConfig
from moduv.rounds.evidence import Clip, estimate_from, with_errors

STANDS = 0.05
"""Units of length that the camera of a standing clip may move by."""
EVEN = 5.0
"""Statistic that is measured as a probability of one half."""


def first_clips(frames: list[FrameRef], count: int) -> list[FrameRef]:
    """The frames of the first segments."""
    chosen = set(list(dict.fromkeys(frame.segment for frame in frames))[:count])
    return [frame for frame in frames if frame.segment in chosen]


def stands(truth: Path, segment: str) -> bool:
    """Whether the camera stands in a segment."""
    poses = camera_poses(truth, segment)
    return poses is not None and bool(np.ptp(poses[:, :3, 3], axis=0).max() < STANDS)


def measure_pixels(
    frames: list[FrameRef], data: Path, motion: Path, config: InitialConfig
) -> tuple[dict[str, dict[str, float]], dict[FrameRef, Instances], float]:
    """Average precision by kind of evidence and of camera, labels, and seconds a frame."""
    assert config.flow.noise is not None
    meters: dict[str, dict[str, MotionMeter]] = {}
    labels, seconds = dict[FrameRef, Instances](), 0.0
    clips = dict[str, Clip]()
    for frame in frames:
        clip = clips.setdefault(frame.segment, Clip(frame.segment, data, motion, config.flow.noise))
        start = time.process_time()
        labels[frame] = clip.labels(frame.index, config)
        seconds += time.process_time() - start
        file = frame.file(data / "truth", ".npz")
        if not file.is_file():
            continue
        truth = read_npz(file, ("instances", "ids", "moving"))
        moving = np.isin(truth["instances"], truth["ids"][truth["moving"].astype(bool)])
        own = clip.observation(frame.index).statistic
        fused = clip.fused(frame.index)
        found = {
            "statistic": own.length,
            "three frames": fused.length,
            "and superpixels": over_superpixels(fused.length, clip.image(frame.index)),
        }
        maps = {name: length / (length + EVEN) for name, length in found.items()}
        stored = read_npz(frame.file(motion, ".npz"), (), ("mot_mask",))
        maps |= {"mask": stored["mot_mask"].astype(np.float32)} if stored else {}
        camera = "standing" if stands(data / "truth", frame.segment) else "driving"
        for name, values in maps.items():
            meter = meters.setdefault(name, {}).setdefault(camera, MotionMeter())
            meter.add(np.clip(values, 0, 1), moving.astype(np.int64))
    precision = {
        name: {camera: meter.result()[0]["motion/AP"] for camera, meter in by_camera.items()}
        for name, by_camera in meters.items()
    }
    return precision, labels, seconds / max(len(frames), 1)


def score(labels: dict[FrameRef, Instances], annotations: Path, data: Path) -> dict[str, float]:
    """Recall of moving objects by size, and precision, of a label set."""
    frames = list(labels)
    truth = select_truth(annotations, data, frames)
    results: list[dict[str, Any]] = []
    for image, frame in zip(truth["images"], frames, strict=True):
        results += labels[frame].to_coco(image["id"], (image["height"], image["width"]))
    metrics = evaluate(truth, results, areas="street", score_threshold=0.0)
    sizes = ("", "_small", "_medium", "_large")
    return {
        "labels": sum(map(len, labels.values())),
        **{f"moving{size}": metrics[f"box/recall_moving{size}"] for size in sizes},
        "precision": metrics["box/precision_at_score"],
    }


def main() -> None:
    """Print errors, times and tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--motion", type=Path, default=Path("save/street/motion_outputs"))
    parser.add_argument("--split", type=Path, help="default: the training split below the data")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="label sets to compare")
    parser.add_argument("--preset", default="street")
    parser.add_argument("--clips", type=int, default=40)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    split = options.split or options.data / "splits/train_files.txt"
    known = [f for f in read_split(split) if f.file(options.motion, ".npz").is_file()]
    config = load_preset(InitialConfig, options.preset, "initial_labels")
    start = time.process_time()
    sample = evenly(known, config.flow.sample)
    noise = estimate_from(sample, options.motion, options.data)
    print(f"errors, from {len(sample)} frames in {time.process_time() - start:.1f} s:")
    for name, value in to_dict(noise).items():
        print(f"  {name:<16}{value:.4f}")
    frames = first_clips(known, options.clips)
    config = with_errors(replace(config, evidence="flow"), noise)
    precision, labels, seconds = measure_pixels(frames, options.data, options.motion, config)
    print(f"{len(frames)} frames, {seconds * 1e3:.0f} ms of processor time each")
    for name, values in precision.items():
        print(f"  AP {name:<18}" + "".join(f"{k} {v:.3f}  " for k, v in sorted(values.items())))
    annotations = options.data / "annotations/train.json"
    if not annotations.is_file():
        return
    sets = {"measured flow": labels}
    sets |= {str(root): {f: read_labels(root, f) for f in frames} for root in options.labels}
    for name, found in sets.items():
        print(
            f"{name:<40}"
            + "  ".join(f"{k} {v:.3f}" for k, v in score(found, annotations, options.data).items())
        )


if __name__ == "__main__":
    main()
