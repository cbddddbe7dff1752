"""What the stages share that turn one label set into another, with or without a correspondence network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moduv.correspondence.predict import USUAL_SIDE, Follower, PropagatedConfig
from moduv.correspondence.weights import weights_file
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.stages import Stage, made_by_stages


def relabelling_stage(
    name: str, labels: Path, split: Path, data: Path, out: Path, config: Any, follow: Path | None
) -> Stage:
    """The stage that reads the labels of a split and writes others.

    Args:
        name: of the stage.
        labels: label root that is read.
        split: frames of the stage.
        data: folder of the frames.
        out: label root that is written.
        config: settings of the stage.
        follow: weights of a correspondence network, if one is used.

    Raises:
        InputError: when `out` is `labels`, or the weights are missing.
    """
    if out.resolve() == labels.resolve():
        raise InputError(f"{out}: is the label set itself; choose another folder for --out.")
    weights = [weights_file(follow)] if follow else []
    return Stage(name, out, config, (split, *made_by_stages(labels), *weights), data)


def load_follower(weights: Path) -> Follower:
    """A correspondence network for frames of the usual size, on this process's device."""
    return Follower.load(weights, PropagatedConfig(), distributed.device(), USUAL_SIDE)
