"""Memory and time of every stage over frames, at two sizes of a data set: both must not grow with it.

    python benchmarks/scale.py [--frames 2000 20000]

One clip of the street world, at half its size, is rendered and repeated under new names by hard links. The
networks are untrained, so they find something in every frame: ten objects, as many as the detectors may
give. Every stage is the chain's command in a process of its own. Processor time is counted without that of
the start; memory is the highest of the whole process, of which Python and torch take most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.weights import ARCHITECTURE, WEIGHTS
from moduv.engine import checkpoint
from moduv.engine.config import load_preset, to_dict
from moduv.engine.files import read_json, write_json
from moduv.engine.pipeline import Place, command_lines, select
from moduv.engine.stages import MANIFEST
from moduv.frames.clip import FrameRef
from moduv.frames.splits import write_split
from moduv.motion.train import MotionTrainingConfig, train_motion
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import MODUV, folder
from moduv.street.dataset import StreetConfig, render_dataset

HEIGHT, WIDTH = 48, 80
CLIP = 22
"""Frames of a clip; all but the first and the last have motion outputs."""
OBJECTS = 10
STEPS = ("motion_outputs", "L0", "L1", "L2", "evaluation")
ROUNDS = ("moving2mobile", "large", "small", "final")
PRESET = """
extends: street
initial_labels: {motion_threshold: 0.4, snap: false}
steps: {small: true}
mobile_labels: {score_threshold: 0.12, flip: false, scales: []}
aggregated_labels: {large_score: 0.15, small_score: 0.1, flip: false, scales: []}
"""
"""Untrained masks lie a little below 0.5 everywhere; snapping would take most of the time."""
LAUNCH = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=sys.stderr, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]))
"""
"""A small process of its own, because Linux counts a parent's memory as its child's."""


class SmallStreet(StreetConfig):
    """A street world smaller than one can learn from."""

    def __post_init__(self) -> None:
        pass


def render_clip(root: Path) -> Path:
    """One clip, in both splits."""
    config = SmallStreet(HEIGHT, WIDTH, 1, 1, CLIP, workers=1)
    render_dataset(root, config)
    return root


def repeat_clip(clip: Path, frames: int, out: Path) -> Path:
    """A data set with at least so many frames that have neighbours, all of them those of one clip."""
    truth = read_json(clip / "annotations/val.json")
    images, annotations, refs = [], [], []
    for copy in range(-(-frames // (CLIP - 2))):
        segment = f"val/clip_{copy:06d}"
        for root in ("", "truth"):
            source, target = clip / root / "val/clip_0000", out / root / segment
            target.mkdir(parents=True)
            for path in source.iterdir():
                os.link(path, target / path.name)
        shift = {image["id"]: image["id"] + copy * CLIP for image in truth["images"]}
        for number, image in enumerate(truth["images"]):
            name = FrameRef(segment, number).file("", ".jpg").as_posix()
            images.append({**image, "id": shift[image["id"]], "file_name": name})
        for entry in truth["annotations"]:
            number = len(annotations) + 1
            annotations.append({**entry, "id": number, "image_id": shift[entry["image_id"]]})
        refs += [FrameRef(segment, index) for index in range(1, CLIP - 1)]
    content = {**truth, "images": images, "annotations": annotations}
    write_json(out / "annotations.json", content)
    write_split(out / "split.txt", refs[:frames])
    return out


def make_networks(clip: Path, run: Path) -> None:
    """Stage 1 and the detectors of all rounds, hardly trained."""
    motion = load_preset(MotionTrainingConfig, "street", "motion")
    loops = {name: replace(loop, steps=1) for name, loop in motion.loops.items()}
    motion = replace(motion, loops=loops, height=HEIGHT, width=WIDTH)
    split = clip / "splits/train_files.txt"
    train_motion(clip, split, folder(run, "motion"), motion)
    config = replace(
        detector_config("street"),
        min_size=HEIGHT,
        max_size=WIDTH,
        max_detections=OBJECTS,
        proposals_test=32,
    )
    torch.manual_seed(0)
    for name in ROUNDS:
        out = folder(run, name)
        checkpoint.save_weights(out / WEIGHTS, build_detector(config).state_dict())
        write_json(out / ARCHITECTURE, to_dict(config))
        manifest = {"stage": f"round {name}", "config": {}, "inputs": {}, "results": {}}
        write_json(out / MANIFEST, manifest)


def measure(data: Path, run: Path) -> dict[str, tuple[float, float]]:
    """Processor seconds and MB of every stage on a data set."""
    folder(run, "motion_val").symlink_to(folder(run, "motion_outputs").name)
    split, preset = data / "split.txt", run / "preset.yaml"
    preset.write_text(PRESET)
    truth = {"val": data / "annotations.json"}
    place = Place(run, data, {"train": split, "val": split}, truth)
    steps = select(MODUV, STEPS)
    lines = command_lines(steps, MODUV, place, COMMANDS, str(preset))
    return {step.command: cost(line[1:]) for step, line in zip(steps, lines, strict=True)}


def cost(words: list[str]) -> tuple[float, float]:
    """Processor seconds of a command, less those of its start, and the most MB that it holds."""
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-m", "moduv.cli", *words]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    # The second time, a stage finds that it is finished.
    done = [subprocess.run(command, stdout=subprocess.PIPE, check=True, env=alone) for _ in "12"]
    (seconds, memory), (start, _) = (json.loads(one.stdout) for one in done)
    return seconds - start, memory


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--frames", type=int, nargs=2, default=[2000, 20000])
    few, many = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        clip = render_clip(root / "clip")
        costs = []
        for count in (CLIP, few, many):  # the first compiles what the others use
            run = root / f"run_{count}"
            make_networks(clip, run)
            costs.append(measure(repeat_clip(clip, count, root / f"data_{count}"), run))
            print(count, costs[-1], file=sys.stderr)
    print(f"| stage | ms a frame, {few} / {many} frames | ratio | MB | ratio |")
    print("|---|---|---|---|---|")
    _, before, after = costs
    for stage in before:
        times = 1000 * before[stage][0] / few, 1000 * after[stage][0] / many
        memory = before[stage][1], after[stage][1]
        cells = [f"{a:.1f} / {b:.1f} | {b / a:.2f}" for a, b in (times, memory)]
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
