"""Clips of the street world as sequences of DAVIS: frames, and the numbers of their objects pixel by pixel."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_json, read_npz
from moduv.engine.log import say
from moduv.engine.stages import MANIFEST, Stage
from moduv.instances.indexed import DAVIS_FRAMES, DAVIS_LISTS, DAVIS_MASKS, write_indices


@dataclass(frozen=True)
class SequencesConfig:
    """Which clips of a world become sequences."""

    split: str = "val"


def write_sequences(root: Path, out: Path, split: str = "val") -> None:
    """Write clips of a rendered street world in the layout of DAVIS 2017.

    Objects are those that the first frame shows, except for what is too small to be found, numbered from 1;
    what comes later is background, as in DAVIS.

    Args:
        root: folder of the street world.
        out: receives `JPEGImages/480p`, `Annotations/480p` (indexed PNG) and `ImageSets/2017/val.txt`.
        split: val or train.

    Raises:
        InputError: when `root` holds no finished street world with that split.
    """
    clips = sorted(path for path in (root / "truth" / split).glob("clip_*") if path.is_dir())
    if not clips or not (root / MANIFEST).is_file():
        raise InputError(
            f"{root}: holds no finished street world with the split {split!r:.80}; render it with moduv street "
            "render first, and use train or val."
        )
    stage = Stage("street sequences", out, SequencesConfig(split), (), root)
    stage.run(lambda: _write(root, clips, out, split))


def _write(root: Path, clips: list[Path], out: Path, split: str) -> dict[str, Any]:
    counts = {clip.name: _write_clip(root / split / clip.name, clip, out) for clip in clips}
    named = [name for name, count in counts.items() if count]
    with atomic_path(out / DAVIS_LISTS / "val.txt") as temporary:
        temporary.write_text("".join(f"{name}\n" for name in named))
    objects = sum(counts.values())
    say(f"  {len(named)} sequences with {objects} objects")
    return {"sequences": len(named), "objects": objects}


def _write_clip(frames: Path, truth: Path, out: Path) -> int:
    """Write one clip; how many objects it has. One without objects is left out."""
    first, *_ = read_json(truth / "objects.json")
    objects = [item["track_id"] for item in first if not item["ignore"]]
    if not objects:
        return 0
    numbers = np.zeros(256, np.uint8)
    numbers[objects] = np.arange(1, len(objects) + 1)
    for image in sorted(frames.glob("*.jpg")):
        name = f"{int(image.stem):05d}"
        with atomic_path(out / DAVIS_FRAMES / frames.name / f"{name}.jpg") as temporary:
            shutil.copyfile(image, temporary)
        instances = read_npz(truth / f"{image.stem}.npz", ("instances",))["instances"]
        write_indices(out / DAVIS_MASKS / frames.name / f"{name}.png", numbers[instances])
    return len(objects)
