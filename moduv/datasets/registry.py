"""The data sets that the library knows.

To add one, write `moduv/datasets/<name>.py` (a package beyond 400 lines) with up to two functions and name
them in `DATASETS`. Commands and their help follow from that entry.

- `prepare_…(source, out, config: PrepareConfig, …)` collects a job a segment and hands them to
  `prepare.prepare`, which writes frames in one of `frames.layouts.LAYOUTS`. Its settings are the preset
  section `prepare_<name>`.
- `convert_…(source, out, config: TruthConfig or a subclass, split=None, …)` yields `TrueImage`s to
  `truth.write_truth`, which writes COCO JSON. Its settings are the preset section `truth_<name>`.

Both raise InputError with what to download when files are missing. The tests want a tiny sample in the data
set's own form (`tests/raw_samples.py`, `tests/truth_samples.py`), docs/data.md and docs/reproduce.md a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moduv.engine.pipeline import Command


@dataclass(frozen=True)
class Dataset:
    """A data set in its public raw form."""

    name: str
    """The last word of `moduv prepare <name>` and `moduv truth <name>`."""
    title: str
    marks: tuple[str, ...]
    """Patterns of files and folders below its root that no other data set has."""
    prepare: Command | None = None
    """Makes segments for stage 1."""
    truth: Command | None = None
    """Makes ground truth for `moduv evaluate`."""
    brings: frozenset[str] = frozenset()
    """What is known of prepared frames: camera, depth, poses, motion."""

    def recognise(self, folder: Path) -> bool:
        """Check whether a folder holds this data set as it is downloaded."""
        return any(next(folder.glob(mark), None) is not None for mark in self.marks)


def _prepare(name: str, function: str, help: str) -> Command:
    return Command(f"moduv.datasets.{function}", f"prepare_{name}", help, resumes=True)


def _truth(name: str, function: str, help: str) -> Command:
    return Command(f"moduv.datasets.{function}", f"truth_{name}", f"{help} as ground truth")


DATASETS = (
    Dataset(
        "cityscapes",
        "Cityscapes",
        ("leftImg8bit_sequence/*/*/*_leftImg8bit.png",),
        _prepare("cityscapes", "cityscapes:prepare_cityscapes", "convert Cityscapes' snippets"),
        brings=frozenset({"camera"}),
    ),
    Dataset(
        "coco",
        "COCO",
        ("instances_*.json", "annotations/instances_*.json"),
        truth=_truth("coco", "coco:convert_coco", "COCO's mobile objects"),
    ),
    Dataset(
        "imagenet-vid",
        "ImageNet-VID",
        ("Data/VID", "Annotations/VID"),
        _prepare("imagenet-vid", "imagenet_vid:prepare_imagenet_vid", "convert ImageNet-VID"),
        _truth("imagenet-vid", "imagenet_vid:convert_imagenet_vid", "ImageNet-VID's boxes"),
    ),
    Dataset(
        "kitti",
        "KITTI",
        ("*/*_sync", "training/label_2", "training/label_02"),
        _prepare("kitti", "kitti:prepare_kitti", "convert KITTI raw"),
        _truth("kitti", "kitti:convert_kitti", "KITTI's boxes"),
        frozenset({"camera", "depth", "poses"}),
    ),
    Dataset(
        "nuscenes",
        "nuScenes",
        ("*/calibrated_sensor.json", "*/object_ann.json"),
        _prepare("nuscenes", "nuscenes.prepare:prepare_nuscenes", "convert nuScenes"),
        _truth("nuscenes", "nuscenes.truth:convert_nuimages", "nuImages' masks"),
        frozenset({"camera", "depth", "poses", "motion"}),
    ),
    Dataset(
        "waymo",
        "Waymo Open",
        ("*.tfrecord", "camera_*/*.parquet"),
        _prepare("waymo", "waymo.prepare:prepare_waymo", "convert Waymo Open"),
        _truth("waymo", "waymo.truth:convert_waymo", "Waymo's masks or boxes"),
        frozenset({"camera", "depth", "poses", "motion"}),
    ),
)
