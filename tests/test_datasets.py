"""The data sets that the library knows keep what their entries promise."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import raw_samples as raw
import truth_samples as truth

from moduv.datasets.imagenet_vid import VidConfig
from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.registry import DATASETS, Dataset
from moduv.datasets.truth import TruthConfig
from moduv.engine.config import load_preset
from moduv.engine.pipeline import Command, load_function
from moduv.frames import layouts
from moduv.frames.splits import read_split
from moduv.runs.catalogue import COMMANDS

Write = Callable[[Path], Path]
RAW: dict[str, tuple[Write, ...]] = {
    "cityscapes": (raw.write_cityscapes,),
    "imagenet-vid": (raw.write_imagenet_vid,),
    "kitti": (raw.write_kitti,),
    "nuscenes": (raw.write_nuscenes,),
    "waymo": (raw.write_waymo_records, raw.write_waymo_tables),
}
ANNOTATED: dict[str, tuple[Write, ...]] = {
    "coco": (truth.write_coco,),
    "imagenet-vid": (truth.write_imagenet_vid,),
    "kitti": (truth.write_kitti_objects, truth.write_kitti_tracking),
    "nuscenes": (truth.write_nuimages,),
    "waymo": (truth.write_waymo_records, truth.write_waymo_tables),
}
SAMPLES = [
    pytest.param(name, write, id=f"{name}-{write.__name__}")
    for forms in (RAW, ANNOTATED)
    for name, writes in forms.items()
    for write in writes
]
DATA_PAGE, TRUTH_PAGE = (Path(__file__).parents[1] / f"docs/{n}.md" for n in ("data", "reproduce"))


def readers() -> Iterator[tuple[str, Dataset, Command, type]]:
    for dataset in DATASETS:
        if dataset.prepare is not None:
            config = VidConfig if dataset.name == "imagenet-vid" else PrepareConfig
            yield "prepare", dataset, dataset.prepare, config
        if dataset.truth is not None:
            yield "truth", dataset, dataset.truth, TruthConfig


def test_every_data_set_has_samples() -> None:
    assert {d.name for d in DATASETS if d.prepare} == set(RAW)
    assert {d.name for d in DATASETS if d.truth} == set(ANNOTATED)


@pytest.mark.parametrize(("name", "write"), SAMPLES)
def test_a_download_is_recognised_as_what_it_is(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / "download")
    assert [d.name for d in DATASETS if d.recognise(tmp_path / "download")] == [name]
    assert not any(d.recognise(tmp_path / "absent") for d in DATASETS)


def test_every_reader_is_a_command_with_settings() -> None:
    for verb, dataset, command, config in readers():
        assert COMMANDS[f"{verb} {dataset.name}"] == command
        function = load_function(command.function)
        assert {"out", "config"} <= set(inspect.signature(function).parameters)
        settings = typing.get_type_hints(function)["config"]
        assert issubclass(settings, config)
        assert command.section == f"{verb}_{dataset.name}"
        load_preset(settings, "paper", command.section)
        assert command.resumes == (verb == "prepare")


def test_every_reader_is_documented() -> None:
    prepared, annotated = DATA_PAGE.read_text(), TRUTH_PAGE.read_text()
    for verb, dataset, _, _ in readers():
        page = prepared if verb == "prepare" else annotated
        assert re.search(rf"moduv {verb} {dataset.name}\b", page)


def test_the_page_on_data_says_what_each_brings() -> None:
    for dataset in DATASETS:
        known = [part in dataset.brings for part in ("depth", "poses", "motion")]
        cells = ("yes" if cell else "" for cell in (*known, dataset.truth))
        row = " | ".join((dataset.title, f"`{dataset.name}`", *cells))
        assert f"| {row} |".replace("  ", " ") in DATA_PAGE.read_text()


@pytest.mark.parametrize("dataset", [d for d in DATASETS if d.prepare], ids=lambda d: d.name)
def test_prepared_frames_bring_what_is_promised(tmp_path: Path, dataset: Dataset) -> None:
    assert dataset.prepare is not None
    prepare = load_function(dataset.prepare.function)
    more = {"version": "v1.0-mini"} if dataset.name == "nuscenes" else {}
    source = RAW[dataset.name][0](tmp_path / "source")
    settings = typing.get_type_hints(prepare)["config"]
    size = {"size": 64} if settings is VidConfig else {"height": 32, "width": 64}
    prepare(source, tmp_path / "out", settings(**size, workers=1), **more)
    frames = read_split(tmp_path / "out/splits/all_files.txt")
    found = set()
    for frame in frames:
        known = {
            "camera": layouts.has_intrinsics(tmp_path / "out", frame.segment) or None,
            "poses": layouts.camera_poses(tmp_path / "out", frame.segment),
        }
        for index in (frame.index - 1, frame.index):  # nuScenes' key frame is the first
            at = (tmp_path / "out", frame.segment, index)
            known |= {("depth", index): layouts.depth_points(*at)}
            known |= {("motion", index): layouts.motion_labels(*at)}
        found |= {k if isinstance(k, str) else k[0] for k, v in known.items() if v is not None}
    assert found == dataset.brings
