"""One round: a detector trained from the same start on the current labels (MOD-UV, section 3).

No weights are handed from round to round, only labels. What differs between rounds is data: labels,
length, augmentation. The recipes are sections of the presets: `moving2mobile`, `large`, `small`, `final`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moduv.detector.train import DetectorTraining, train_detector
from moduv.engine.log import say
from moduv.engine.stages import Stage
from moduv.frames.splits import read_split
from moduv.labels.store import labelled


def train_round(data: Path, split: Path, labels: Path, out: Path, config: DetectorTraining) -> None:
    """Train the detector of one round.

    Args:
        data: folder of the frames.
        split: frames to train on; those without labels are left out and counted.
        labels: label root, one JSON a frame.
        out: receives `weights.pth`, the training state and its log.
        config: the round's recipe.

    Raises:
        InputError: when no frame is labelled, or frames and labels do not fit.
    """
    inputs = (split, labels) if (labels / "manifest.json").is_file() else (split,)
    Stage("round train", out, config, inputs).run(lambda: _train(data, split, labels, out, config))


def _train(
    data: Path, split: Path, labels: Path, out: Path, config: DetectorTraining
) -> dict[str, Any]:
    frames = read_split(split)
    known = labelled(labels, frames)
    say(f"  {len(known)} frames; {len(frames) - len(known)} left out because they have no labels")
    train_detector(data, labels, known, config, out)
    return {"frames": len(known), "without_labels": len(frames) - len(known)}
