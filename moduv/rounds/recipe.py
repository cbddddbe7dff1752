"""One round: a detector trained from the same start on the current labels (MOD-UV, section 3).

No weights are handed from round to round, only labels. What differs between rounds is data: labels,
length, augmentation. The recipes are sections of the presets: `moving2mobile`, `large`, `small`, `final`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.detector.train import DetectorTrainingConfig, train_detector
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.stages import Stage, made_by_stages
from moduv.frames.splits import read_split
from moduv.instances.store import labelled, read_labels


@dataclass(frozen=True)
class RoundConfig(DetectorTrainingConfig):
    """A round's recipe: how the detector is trained, and on which frames."""

    skip_empty: bool = False
    """Leave out frames without a labelled object. The published split of L0 seems to be made so; as
    long as labels miss most objects, such frames teach that nothing is there."""


def train_round(data: Path, split: Path, labels: Path, out: Path, config: RoundConfig) -> None:
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
    stage = Stage("round train", out, config, (split, *made_by_stages(labels)), data)
    stage.run(lambda: _train(data, split, labels, out, config))


def _train(data: Path, split: Path, labels: Path, out: Path, config: RoundConfig) -> dict[str, Any]:
    frames = read_split(split)
    known = labelled(labels, frames)
    chosen = (
        [frame for frame in known if len(read_labels(labels, frame))]
        if config.skip_empty
        else known
    )
    if not chosen:
        raise InputError(
            f"{labels}: no frame of {split} has a labelled object; lower the label stage's thresholds."
        )
    say(f"  {len(chosen)} frames; {len(frames) - len(chosen)} left out because they have no labels")
    train_detector(data, labels, chosen, config, out)
    return {"frames": len(chosen), "left_out": len(frames) - len(chosen)}
