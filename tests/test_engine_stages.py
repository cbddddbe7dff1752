"""Stages: run once, refuse other settings, run again after an interruption."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_world import Inner, Labour

from moduv.engine.config import added, speed_only
from moduv.engine.errors import InputError
from moduv.engine.stages import OtherSettings, Stage, read_manifest


def test_stage_runs_once_and_refuses_other_settings(tmp_path: Path) -> None:
    calls = []
    source = tmp_path / "split.txt"
    source.write_text("a 1\n")

    def stage(rate: float) -> Stage:
        return Stage("inner", tmp_path / "out", Inner(rate), (source,))

    for _ in range(2):
        stage(1.0).run(lambda: calls.append(1) or {"frames": 3})  # type: ignore[func-returns-value]
    assert len(calls) == 1
    assert read_manifest(tmp_path / "out")["results"] == {"frames": 3}
    with pytest.raises(InputError, match=r"another config \(rate: 1.0 instead of 2.0\)"):
        stage(2.0).run(dict)
    source.write_text("a 2\n")
    with pytest.raises(InputError, match="another inputs"):
        stage(1.0).run(dict)


def test_another_number_of_workers_is_the_same_stage(tmp_path: Path) -> None:
    def stop() -> None:
        (tmp_path / "out/half").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stage("labour", tmp_path / "out", Labour(1.0, workers=2)).run(stop)
    Stage("labour", tmp_path / "out", Labour(1.0, workers=1)).run(dict)
    assert read_manifest(tmp_path / "out")["config"] == {"rate": 1.0}
    with pytest.raises(InputError, match="another config"):
        Stage("labour", tmp_path / "out", Labour(2.0, workers=1)).run(dict)


@dataclass(frozen=True)
class GrownLabour:
    rate: float
    halved: tuple[float, ...] = added(())


def test_outputs_outlive_a_setting_that_is_new_and_not_used(tmp_path: Path) -> None:
    Stage("labour", tmp_path / "out", Labour(1.0)).run(dict)
    Stage("labour", tmp_path / "out", GrownLabour(1.0)).run(lambda: pytest.fail("kept"))
    with pytest.raises(InputError, match=r"halved: None instead of \[0.5\]"):
        Stage("labour", tmp_path / "out", GrownLabour(1.0, (0.5,))).run(dict)


def test_interrupted_stage_runs_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    stage = Stage("inner", tmp_path / "out", Inner())
    with pytest.raises(KeyboardInterrupt):
        stage.run(fail)
    assert read_manifest(tmp_path / "out") == {}
    stage.run(lambda: {"done": True})
    assert read_manifest(tmp_path / "out")["results"] == {"done": True}


@dataclass(frozen=True)
class Nested:
    loop: Labour
    batch_size: int = speed_only(1)


def test_what_only_changes_the_speed_is_the_same_stage(tmp_path: Path) -> None:
    def stage(rate: float = 1.0, workers: int = 0, batch_size: int = 1) -> Stage:
        return Stage("labour", tmp_path / "out", Nested(Labour(rate, workers), batch_size))

    stage().run(lambda: {"made": 1})
    stage(workers=3, batch_size=8).run(lambda: {"made": 2})
    assert read_manifest(tmp_path / "out")["results"] == {"made": 1}
    with pytest.raises(InputError, match=r"loop: rate: 1.0 instead of 2.0"):
        stage(rate=2.0).run(dict)


def test_a_stage_knows_its_inputs_apart_and_its_frames(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "round").write_text(name)
    frames = tmp_path / "frames"
    Stage("import", frames, Inner(1.0)).run(dict)

    def stage(first: str, second: str) -> Stage:
        inputs = tuple(tmp_path / name / "round" for name in (first, second))
        return Stage("merge", tmp_path / "out", Inner(), inputs, frames)

    stage("a", "b").run(dict)
    stage("a", "b").run(pytest.fail)
    with pytest.raises(OtherSettings, match="another inputs"):
        stage("b", "a").run(dict)
    shutil.rmtree(frames)
    Stage("import", frames, Inner(2.0)).run(dict)
    with pytest.raises(OtherSettings, match="frames"):
        stage("a", "b").run(dict)
