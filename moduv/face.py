"""Functions of the Python face that join several rooms; import them from `moduv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.config import load_preset
from moduv.engine.pipeline import Place, perform, select
from moduv.frames.images import Picture, as_image, write_image
from moduv.instances.instances import Instances
from moduv.rounds.recipe import RoundConfig
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import MODUV, RENDER, chain_of, folder
from moduv.runs.run import run_videos
from moduv.visual.drawing import draw_instances, instance_color


def draw(image: Picture, found: Instances, out: str | Path | None = None) -> np.ndarray:
    """Draw objects over an image; where they have tracks, a track has one colour in all frames.

    Args:
        image: a path, an array (H, W, 3) uint8 RGB, or a PIL image.
        found: the objects, of this or another size of the image.
        out: file to write, by its suffix; None: nothing is written.

    Returns:
        The picture, (H, W, 3) uint8 RGB.

    Raises:
        InputError: for an image that is missing or of another form.
    """
    tracks = found.columns.get("track")
    colors = None if tracks is None else [instance_color(int(track)) for track in tracks]
    picture = draw_instances(as_image(image), found, colors=colors)
    if out is not None:
        write_image(out, picture)
    return picture


def run(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    preset: str = "auto",
    **options: Any,
) -> Path:
    """Train a detector of mobile objects on clips without labels, as `moduv run` does.

    Args:
        sources: a video, a folder of videos or of folders of frames, or a list of them.
        out: folder of the run; the same call continues an interrupted one.
        preset: `paper` for GPUs, `street` for laptops, a YAML file, or `auto`: by the hardware.
        **options: those of `moduv run`, such as `field_of_view`, `every`, `insist`.

    Returns:
        The folder of the final detector, for `load_detector`.

    Raises:
        InputError: for clips in which nothing can be learned, and a run of other settings in `out`.
    """
    listed = [sources] if isinstance(sources, str | Path) else sources
    run_videos([Path(source) for source in listed], Path(out), preset, **options)
    return folder(Path(out), "final")


def run_steps(
    steps: Sequence[str], run: str | Path, data: str | Path, preset: str = "paper"
) -> None:
    """Run steps of the chain on prepared frames, as the numbered scripts do; finished ones are kept.

    Steps that the preset leaves out are left out.

    Args:
        steps: names, such as `motion`, `L0`, `moving2mobile`, `evaluation`; see `moduv.runs.chains`.
        run: folder of the run.
        data: folder of the frames, with `splits` and perhaps `annotations`.
        preset: name or file.

    Raises:
        InputError: for an unknown step, and what the steps refuse.
    """
    data, kinds = Path(data), ("train", "val")
    splits = {kind: data / "splits" / f"{kind}_files.txt" for kind in kinds}
    known = {kind: data / "annotations" / f"{kind}.json" for kind in kinds}
    # Held-out frames may be without ground truth; the upper bound cannot.
    annotations = {k: path for k, path in known.items() if k == "train" or path.is_file()}
    place = Place(Path(run), data, splits, annotations, Path(run))
    chain, wanted = chain_of(preset), {step.name for step in select((RENDER, *MODUV), steps)}
    for step in chain:
        if step.name in wanted:
            perform(step, chain, place, COMMANDS[step.command], preset)


def train_round(
    name: str,
    data: str | Path,
    split: str | Path,
    labels: str | Path,
    out: str | Path,
    preset: str = "paper",
    **overrides: Any,
) -> Path:
    """Train the detector of one round on a label set.

    Args:
        name: section of the preset: moving2mobile, large, small or final.
        data: folder of the frames.
        split: frames to train on.
        labels: label root.
        out: receives the weights; the same call continues an interrupted training.
        preset: name or file.
        **overrides: settings that replace those of the preset; nested ones as dictionaries.

    Returns:
        `out`, for `load_detector`.

    Raises:
        InputError: when no frame is labelled, or frames and labels do not fit.
    """
    config = load_preset(RoundConfig, preset, name, **overrides)
    paths = {"data": data, "split": split, "labels": labels, "out": out}
    given = {option: Path(path) for option, path in paths.items()}
    COMMANDS["round final"].call({**given, "config": config})
    return Path(out)
