"""The commands that are struck, with what they read and write."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = "<out>"
"""Stands for the output among the arguments of a command."""


@dataclass(frozen=True)
class Target:
    """A command that writes; `OUT` among its arguments stands for its output."""

    name: str
    arguments: list[str]
    file: str = ""
    """Name of the output where it is a file."""

    def at(self, folder: Path) -> tuple[list[str], Path]:
        """The arguments and the output in an empty folder."""
        out = folder / (self.file or "out")
        return [str(out) if word == OUT else word for word in self.arguments], out


def targets(root: Path) -> dict[str, Target]:
    """Every command that writes, below a root with a finished chain; makes what else they need."""
    import raw_samples
    from chain import chain
    from detector_world import write_detectors
    from fault_rooms import room_commands

    from moduv.engine import checkpoint
    from moduv.frames.splits import read_split

    found: dict[str, Target] = {}
    for link in chain(root):
        name = " ".join(word for word in link.arguments[:2] if not word.startswith("-"))
        words = [OUT if word == str(link.out) else word for word in link.arguments]
        found.setdefault(name, Target(name, words))
    del found["round large"], found["round small"], found["round final"]
    street, run = root / "street", root / "run"
    split = street / "splits/train_files.txt"
    if not (root / "else").is_dir():
        raw_samples.write_kitti(root / "else/kitti")
        clip = root / "else/clips/one"
        clip.mkdir(parents=True)
        for frame in read_split(split)[:3]:
            shutil.copy(frame.image_path(street), clip / f"{frame.index:06d}.jpg")
        write_detectors(root / "else", "detector")
        weights = checkpoint.load(root / "else/detector/weights.pth")
        checkpoint.save_weights(root / "else/given.pth", weights)
    labels = ["--labels", run / "true_labels", "--split", split, "--data", street]
    detector = ["--load_ckpt", root / "else/detector"]
    more: list[tuple[str, list[Any], str]] = [
        ("prepare kitti", ["--source", root / "else/kitti", "--config.workers", "1"], ""),
        (
            "frames import",
            [
                "--source",
                root / "else/clips",
                "--config.field_of_view",
                "60",
                "--config.every",
                "1",
            ],
            "",
        ),
        ("labels export", labels, "labels.json"),
        ("labels show", [*labels, "--count", "2"], ""),
        ("export", [*detector, "--format", "safetensors"], "detector.safetensors"),
        ("demo", [*detector, "--input", root / "else/clips", "--vis_conf_thrd", "0.01"], ""),
        (
            "checkpoints fetch",
            ["moduv_final", "--source", root / "else/given.pth"],
            "",
        ),
        (
            "detect",
            [
                *("--weights", root / "else/detector", "--images", street),
                *("--truth", street / "annotations/val.json"),
            ],
            "",
        ),
        (
            "motion evaluate",
            [
                *("--motion", run / "motion_outputs", "--truth", street / "truth"),
                *("--split", split),
            ],
            "",
        ),
    ]
    for name, arguments, file in more:
        option = "--folder" if name == "checkpoints fetch" else "--out"
        words = [*name.split(), *map(str, arguments), option, OUT]
        found[name] = Target(name, words, file)
    for name, arguments in room_commands(root).items():
        found[name] = Target(name, [*map(str, arguments), "--out", OUT])
    return found
