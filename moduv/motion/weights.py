"""A trained stage 1 as it lies on disk: a training of this library, or an official checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from moduv.depth.networks import DEPTH_MODELS, depth_networks
from moduv.depth.weights import load_modules, read_module
from moduv.engine import distributed
from moduv.engine.config import build
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.stages import MANIFEST, read_manifest
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MODULES, MotionConfig
from moduv.motion.train import WEIGHTS, MotionTrainingConfig


@dataclass(frozen=True)
class TrainedSettings:
    """What must be known of weights to use them."""

    depth_model: str
    height: int
    width: int
    """Size of the networks' input in pixels."""
    losses: MotionConfig
    """Conventions of depth, ego-motion and flow."""
    field_of_view: float = 0.0
    focal_factor: float = 1.0
    has_mask: bool = True
    """Whether the training came to the phases of the mask."""

    def at(self, folder: Path) -> TrainedMotion:
        """The same with the weights of a training's folder."""
        own = {item.name: getattr(self, item.name) for item in fields(TrainedSettings)}
        return TrainedMotion(**own, weights=folder / WEIGHTS, identity=(folder,))


@dataclass(frozen=True, kw_only=True)
class TrainedMotion(TrainedSettings):
    """Weights, and what must be known to use them."""

    weights: Path
    """Folder of one `.pth` per module."""
    identity: tuple[Path, ...]
    """What tells these weights from others: the training's folder, or every file."""

    @property
    def settings(self) -> TrainedSettings:
        """What must be known of the weights, without where they lie."""
        return TrainedSettings(*(getattr(self, item.name) for item in fields(TrainedSettings)))

    def load(self) -> DynamoDepth:
        """The networks on this process's device. Raises InputError when the weights do not fit."""
        model = DynamoDepth(self.depth_model)
        load_modules(model, MODULES, self.weights)
        return model.to_device(distributed.device())


def find_trained(folder: Path) -> TrainedMotion:
    """What lies in a folder: a finished `motion train`, its `weights`, or an official checkpoint.

    An official checkpoint has no settings beside it: the published ones are taken.

    Raises:
        InputError: when it is none of these.
    """
    for training in (folder, folder.parent) if folder.name == WEIGHTS else (folder,):
        manifest = read_manifest(training)
        if manifest.get("stage") == "motion train":
            return _own(training, manifest)
        if manifest.get("stage") == "depth train":
            return _continued(training, manifest)
        if (training / f".{MANIFEST}").is_file():
            raise InputError(
                f"{training}: the training is not finished; run moduv motion train again, which "
                "continues it."
            )
    if not (folder / "depth_enc.pth").is_file():
        raise InputError(
            f"{folder}: holds neither a finished training of stage 1 nor an official checkpoint "
            f"({', '.join(f'{name}.pth' for name in MODULES)}); finish moduv motion train or give "
            "another folder."
        )
    return _official(folder)


def _own(folder: Path, manifest: Mapping[str, Any]) -> TrainedMotion:
    config = build(MotionTrainingConfig, manifest["config"], f"{folder}/manifest.json")
    networks = config.depth_model, config.height, config.width
    focal = manifest["results"].get("focal_factor", 1.0)
    if not isinstance(focal, int | float) or not 0.01 < focal < 100:
        raise InputError(
            f"{folder / MANIFEST}: 'focal_factor' is {focal!r:.80}, no factor of a focal length; mend it."
        )
    cameras = config.field_of_view, float(focal)
    has_mask = config.phases[-1].has_mask
    return TrainedSettings(*networks, config.losses, *cameras, has_mask).at(folder)


def _continued(folder: Path, manifest: Mapping[str, Any]) -> TrainedMotion:
    """A stage 1 whose depth was trained on, with the settings that it had before."""
    settings = manifest["results"].get("stage1")
    return build(TrainedSettings, settings, f"{folder / MANIFEST}: stage1").at(folder)


def _official(folder: Path) -> TrainedMotion:
    files = tuple(folder / f"{name}.pth" for name in MODULES)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such file; download the checkpoint again.")
    encoder = files[0]
    state, size = read_module(encoder)
    model = _depth_model(state.keys(), encoder)
    if model == "street":
        raise InputError(
            f"{folder}: holds the street world's networks without the settings they were trained "
            "with; give the folder of their training, which has the manifest."
        )
    if size is None:
        raise InputError(
            f"{encoder}: does not tell the 'height' and 'width' of the training; add both to the file."
        )
    say(f"  {folder}: no manifest; {model} at {size[0]} x {size[1]} with the published settings")
    return TrainedMotion(model, *size, losses=MotionConfig(), weights=folder, identity=files)


def _depth_model(keys: Set[str], encoder: Path) -> str:
    """The depth model whose encoder has most of a file's keys."""
    own = {name: set(depth_networks(name)["depth_enc"].state_dict()) for name in DEPTH_MODELS}
    shared = {name: len(keys & names) / len(keys | names) for name, names in own.items()}
    best = max(shared, key=lambda name: shared[name])
    if not shared[best]:
        raise InputError(
            f"{encoder}: fits none of the depth models {DEPTH_MODELS}; give an official checkpoint."
        )
    return best
