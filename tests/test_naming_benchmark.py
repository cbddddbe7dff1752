"""The benchmarks of names and slots: their tables, and what slots learn of small objects."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
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


def test_the_benchmark_of_grouping_compares_the_same_attention() -> None:
    from moduv.naming.videomae import Attention

    torch.manual_seed(0)
    module, tokens = Attention(48, 3), torch.randn(2, 20, 48)
    torch.nn.init.normal_(module.q_bias)
    assert torch.allclose(load("grouping").written_out(module, tokens), module(tokens), atol=1e-6)


@pytest.fixture(scope="module")
def slots() -> ModuleType:
    return load("slots")


def test_no_single_measure_tells_objects_from_grids_and_colours(slots: ModuleType) -> None:
    plain = slots.draw_clips(24, 2)
    clips = slots.standardised(plain, plain)
    found = {
        name: max((slots.measure(clips, one) for one in settings), key=lambda m: m["ARI"])
        for name, settings in slots.baselines(slots.SLOTS)
    }
    assert found["grid"]["FG-ARI"] > 0.5 > 0.3 > found["grid"]["ARI"]
    assert found["k-means"]["ARI"] > 0.5
    assert found["k-means"]["pairs split"] < 0.3
    truth = slots.measure(clips, lambda clip: clip.labels)
    assert set(truth.values()) == {1.0}


def test_the_benchmark_of_slots_prints_its_tables(
    slots: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from moduv.street.dataset import StreetConfig, render_dataset

    render_dataset(tmp_path / "street", StreetConfig(train_clips=1, val_clips=1, frames_per_clip=3))
    options = ["--out", str(tmp_path / "out"), "--seeds", "1", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["slots.py", *options, "--world", str(tmp_path / "street")])
    slots.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = ["segments", "grid", "k-means", "k-means with positions", "same colour", "moving"]
    names += ["untrained 0", "attention 0", "alphas 0"]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == 2 * names


@pytest.mark.slow
@pytest.mark.timeout(1200)  # other programs may share the cores
def test_slots_find_objects_where_no_baseline_does(slots: ModuleType, tmp_path: Path) -> None:
    plain = slots.draw_clips(600, 1)
    clips = slots.standardised(plain, plain)
    test = slots.standardised(slots.draw_clips(64, 2), plain)
    model = slots.train(clips, slots.SLOTS, 2500, 0, tmp_path)
    found = slots.measure(test, slots.segments_of(model, 0))

    def finds_objects(measured: dict[str, float]) -> bool:
        return (
            measured["ARI"] >= 0.8 and measured["mBO"] >= 0.65 and measured["pairs split"] >= 0.65
        )

    assert finds_objects(found)
    for name, settings in slots.baselines(slots.SLOTS):
        assert not any(finds_objects(slots.measure(test, one)) for one in settings), name
