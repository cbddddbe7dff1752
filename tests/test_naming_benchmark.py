"""The benchmark of names prints its table."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_of_names_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")
    from detector_world import write_detectors

    from moduv.naming.training.encoder import EncoderTrainingConfig
    from moduv.street.dataset import StreetConfig, render_dataset

    naming = load("naming")
    config = EncoderTrainingConfig()
    short = replace(config, loop=replace(config.loop, steps=2, batch_size=8))
    monkeypatch.setattr(naming, "EncoderTrainingConfig", lambda: short)
    render_dataset(tmp_path / "street", StreetConfig(train_clips=1, val_clips=1, frames_per_clip=3))
    write_detectors(tmp_path, "detector")
    options = ["--world", "street", "--out", "out", "--detector", "detector", "--seeds", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["naming.py", *options])
    naming.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 0 |")]
    assert [row.split(" | ")[1:3] for row in rows] == [
        [objects, words]
        for words in ("street", "street_paints")
        for objects in ("val", "tracks", "frames")
    ]
