"""The whole chain of commands, small enough for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOOP = [
    "--config.loop.steps",
    "4",
    "--config.loop.batch_size",
    "2",
    "--config.loop.save_every",
    "1",
]
PRESET = "street_mask"
"""All phases of stage 1; the chain with measured flow is run in `test_run.py`."""
PHASES = ("disp_init", "motion_init", "mask_init", "fine_tune")
MOTION = [
    word
    for phase in PHASES
    for key, value in (("steps", "3"), ("batch_size", "2"), ("save_every", "1"))
    for word in (f"--config.loops.{phase}.{key}", value)
]
WORLD = [
    *("--config.train_clips", "3", "--config.val_clips", "1", "--config.frames_per_clip", "5"),
    *("--config.workers", "1"),
]


@dataclass(frozen=True)
class Link:
    """One command of the chain, its output, and a file that shows that it is half done."""

    arguments: list[str]
    out: Path
    half_done: str


def chain(root: Path) -> list[Link]:
    """Every stage from rendering to measuring, in order, below `root`."""
    data, run = root / "street", root / "run"
    train, val = data / "splits/train_files.txt", data / "splits/val_files.txt"
    annotations = data / "annotations"

    def link(command: str, out: Path, half_done: str, *arguments: object) -> Link:
        words = [*command.split(), "--preset", PRESET, *map(str, arguments)]
        name = "--root" if command == "street render" else "--out"
        return Link([*words, name, str(out)], out, half_done)

    frames = ["--data", data, "--split", train]

    def training(recipe: str, labels: str, out: str) -> Link:
        words = [*frames, "--labels", run / labels, *LOOP]
        return link(f"round {recipe}", run / out, "train_state.pt", *words)

    return [
        link("street render", data, "truth/*/*/objects.json", *WORLD),
        link("motion train", run / "motion", "2_motion_init/train_state.pt", *frames, *MOTION),
        link(
            "motion predict",
            run / "motion_outputs",
            "*/*/*.npz",
            *frames,
            "--weights",
            run / "motion",
        ),
        link(
            *("labels initial", run / "L0_pseudo_labels", "*/*/*.json", "--split", train),
            *("--motion", run / "motion_outputs", "--data", data, "--config.workers", "1"),
        ),
        link(
            *("labels true", run / "true_labels", "*/*/*.json", "--split", train),
            *("--annotations", annotations / "train.json"),
        ),
        training("moving2mobile", "true_labels", "R1_M2M"),
        link(
            *("labels mobile", run / "L1_pseudo_labels", "*/*/*.json", *frames),
            *("--detector", run / "R1_M2M", "--config.score_threshold", "0.05"),
            *("--config.batch_size", "1"),
        ),
        training("large", "true_labels", "R2_L2S_large"),
        training("small", "true_labels", "R2_L2S_small"),
        link(
            *("labels aggregated", run / "L2_pseudo_labels", "*/*/*.json", *frames),
            *("--large", run / "R2_L2S_large", "--small", run / "R2_L2S_small"),
            *("--config.large_score", "0.05", "--config.small_score", "0.05"),
            *("--config.batch_size", "1"),
        ),
        training("final", "L2_pseudo_labels", "R3_Final"),
        training("final", "true_labels", "supervised"),
        link(
            *("motion predict", run / "motion_val", "*/*/*.npz", "--data", data, "--split", val),
            *("--weights", run / "motion"),
        ),
        link(
            *(
                "measure",
                run / "evaluation",
                "*.json",
                "--run",
                run,
                "--data",
                data,
                "--split",
                val,
            ),
            *("--annotations", annotations / "val.json"),
        ),
        link(
            *("report", root / "out", "report.html", "--run", run, "--data", data, "--split", val),
            *(
                "--annotations",
                annotations / "val.json",
                "--config.frames",
                "1",
                "--config.clips",
                "1",
            ),
        ),
    ]
