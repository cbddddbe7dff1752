"""The ground: whole files or none, honest checkpoints, runs that resume exactly."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from moduv.engine import checkpoint
from moduv.engine.config import (
    added,
    build,
    load_preset,
    merge,
    preset_names,
    read_preset,
    speed_only,
)
from moduv.engine.errors import InputError
from moduv.engine.files import (
    atomic_path,
    json_list,
    read_json,
    read_npz,
    write_json,
    write_npz,
)
from moduv.engine.log import prefixed_bars, progress_bar, read_log
from moduv.engine.loop import LoopConfig, SampleStream, StepState, fit, learning_rate, spread
from moduv.engine.parallel import process_map
from moduv.engine.stages import OtherSettings, Stage, read_manifest


def test_atomic_path_keeps_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    target = tmp_path / "labels.json"
    write_json(target, {"old": 1})

    def fail_half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert read_json(target) == {"old": 1}
    assert os.listdir(tmp_path) == ["labels.json"]


@pytest.mark.parametrize("parts", [[], [[]], [[{"a": 1}], [], [2, "b"]]])
def test_a_list_written_in_parts_is_that_written_at_once(tmp_path: Path, parts: list[list]) -> None:
    with json_list(tmp_path / "parts.json") as add:
        for part in parts:
            add(part)
    write_json(tmp_path / "whole.json", [entry for part in parts for entry in part])
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_json_refuses_nan_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_broken_npz_and_json_name_the_file(tmp_path: Path, content: bytes) -> None:
    for reader, suffix in ((lambda p: read_npz(p, ("depth",)), ".npz"), (read_json, ".json")):
        path = tmp_path / f"000003{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"000003\..* not readable"):
            reader(path)


def test_json_that_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("{}")
    for path, reason in (("folder.json", "Is a directory"), ("file/a.json", "Not a directory")):
        with pytest.raises(InputError, match=rf"{path}: not readable \({reason}\); give a file"):
            read_json(tmp_path / path)
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(Path, "open", Mock(side_effect=refused))
    with pytest.raises(InputError, match=r"file: not readable \(Permission denied\)"):
        read_json(tmp_path / "file")


def test_npz_names_the_missing_array(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", depth=np.ones(3))
    with pytest.raises(InputError, match=r"a\.npz: lacks the array 'mot_mask'"):
        read_npz(tmp_path / "a.npz", ("depth", "mot_mask"))


def test_checkpoint_refuses_pickled_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"weights": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: not readable as a checkpoint"):
        checkpoint.load(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint at all"])
def test_broken_checkpoint_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: not readable as a checkpoint"):
        checkpoint.load_weights(tmp_path / "w.pth")


def test_same_content_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one.pth", "two.pth"):
        checkpoint.save(tmp_path / name, {"weight": torch.arange(3.0)})
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_gradients_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    def train_second(stale: float) -> Tensor:
        network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.5)
            parameter.grad = torch.full_like(parameter, stale)
        network[0].requires_grad_(False)
        config = LoopConfig(
            steps=2, batch_size=4, learning_rate=1.0, optimizer="sgd", clip_norm=0.1
        )

        def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
            return {"loss": network(batch).square().mean()}

        fit(network, step, Numbers(), config, tmp_path / f"{stale}", label="numbers")
        return network[1].weight.detach()

    assert torch.equal(train_second(0.0), train_second(100.0))


def test_mismatched_weights_name_the_keys_and_change_nothing() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.detach().clone()
    with pytest.raises(
        InputError, match=r"1 missing: bias; 1 unexpected: scale; 1 of another shape: weight"
    ):
        checkpoint.load_strict(
            module, {"weight": torch.zeros(3, 3), "scale": torch.zeros(1)}, "w.pth"
        )
    assert torch.equal(module.weight, before)


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    sizes: tuple[int, ...] = (1,)


def test_configuration_is_built_nested_and_strict() -> None:
    config = build(Outer, {"inner": {"rate": "1e-3"}, "sizes": [2, 3]}, "test")
    assert config == Outer(Inner(1e-3), (2, 3))
    with pytest.raises(InputError, match=r"unknown key 'size'"):
        build(Outer, {"inner": {}, "size": 3}, "test")
    with pytest.raises(InputError, match="unknown key 'speed'"):
        build(Outer, {"inner": {"speed": 3}}, "test")
    with pytest.raises(InputError, match="not a number"):
        build(Outer, {"inner": {"rate": "fast"}}, "test")


def test_unknown_preset_names_the_choice() -> None:
    assert {"paper", "street"} <= set(preset_names())
    with pytest.raises(InputError, match="choose one of"):
        read_preset("fastest")
    with pytest.raises(InputError, match="add the missing key"):
        load_preset(
            Labour, "street", "nothing"
        )  # a missing section means defaults, and one has none


@pytest.mark.parametrize(
    ("text", "section", "changed"),
    [
        ("motion: {losses: {min_depth: 1.0}}", "motion", ("losses", "min_depth", 1.0)),
        ("large: {loop: {steps: 900}}", "large", ("loop", "steps", 900)),
    ],
)
def test_an_extended_preset_replaces_single_keys_at_any_depth(
    tmp_path: Path, text: str, section: str, changed: tuple[str, str, float]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: street\n{text}\n")
    # YAML's anchors let sections share their content.
    sections, street = (
        {name: copy.deepcopy(section) for name, section in read_preset(preset).items()}
        for preset in (str(mine), "street")
    )
    inner, key, value = changed
    assert sections[section][inner].pop(key) == value
    street[section][inner].pop(key)
    assert sections == street  # nothing else has changed, also not the preset that is extended


trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@settings(deadline=None)
@given(mappings, mappings)
def test_merging_keeps_what_is_not_named_and_takes_what_is(base: dict, changes: dict) -> None:
    merged = merge(base, changes)
    assert merge(base, {}) == base
    assert merge({}, changes) == changes
    assert merge(merged, changes) == merged
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        assert merged[key] == (merge(base[key], value) if both else value)
    assert {key: merged[key] for key in base if key not in changes} == {
        key: value for key, value in base.items() if key not in changes
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"extends: b.yaml", "must not lead back"),
        (b"measure: [1, 2]", "section 'measure' is .*write a mapping"),
        (b"measure: street", "section 'measure' is .*write a mapping"),
        (b"\xdf{}", "is not UTF-8 text"),
        (b"a: " + 3000 * b"[", "nested too deep|is not valid YAML"),
        (b"- a", "holds no sections"),
    ],
)
def test_broken_presets_are_one_sentence(
    tmp_path: Path, content: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_bytes(content)
    Path("b.yaml").write_text("extends: a.yaml")
    with pytest.raises(InputError, match=sentence) as refused:
        read_preset("a.yaml")
    assert len(str(refused.value)) < 400


def test_files_of_version_0_1_still_work(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: paper\nmeasure: {labels_preset: street, areas: coco}\nx: {ema: 0, steps: 5}"
    )
    assert load_preset(Areas, str(mine), "measure") == Areas("coco")
    assert load_preset(OnlySteps, str(mine), "x") == OnlySteps(5)
    mine.write_text("x: {ema: 0.9}")
    with pytest.raises(InputError, match="'ema' was removed"):
        load_preset(OnlySteps, str(mine), "x")
    stage = Stage("train", tmp_path / "out", OnlySteps())
    stage.run(dict)
    manifest = read_manifest(stage.out)
    write_json(stage.out / "manifest.json", {**manifest, "config": {"steps": 1, "ema": 0.0}})
    stage.run(pytest.fail)
    write_json(stage.out / "manifest.json", {**manifest, "config": {"steps": 1, "ema": 0.9}})
    with pytest.raises(InputError, match=r"ema: 0.9 instead of None"):
        stage.run(dict)


def test_a_preset_extends_another(tmp_path: Path) -> None:
    paper, kitti = read_preset("paper"), read_preset("paper_kitti")
    assert (kitti["motion"]["height"], kitti["motion"]["width"]) == (192, 640)
    assert kitti["motion"]["loops"] == paper["motion"]["loops"]
    assert kitti["final"] == paper["final"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: street\nmeasure: {batch_size: 2}\n")
    assert read_preset(str(mine))["measure"] == {
        **read_preset("street")["measure"],
        "batch_size": 2,
    }
    mine.write_text(f"extends: {mine}\n")
    with pytest.raises(InputError, match="name another preset"):
        read_preset(str(mine))


@dataclass(frozen=True)
class Areas:
    areas: str = "street"


@dataclass(frozen=True)
class OnlySteps:
    steps: int = 1


class Numbers:
    """Samples whose noise depends on the sample seed alone."""

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        index, seed = item
        noise = torch.randn(3, generator=torch.Generator().manual_seed(seed))
        return noise + index

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)


def train(run_dir: Path, config: LoopConfig, *, stop_at: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        if state.step == stop_at:
            raise KeyboardInterrupt
        noise = torch.randn(len(batch), 1, generator=state.generator)
        return {"loss": (network(batch) - noise).square().mean()}

    fit(network, step, Numbers(), config, run_dir, label="numbers")
    return network


CONFIG = LoopConfig(
    steps=12, batch_size=4, learning_rate=1e-2, halve_every=5, save_every=5, log_every=3
)


@pytest.mark.parametrize("stop_at", [3, 5, 8, 11])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", CONFIG, stop_at=stop_at)
    resumed = train(tmp_path / "killed", CONFIG)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    losses = [
        [e["loss"] for e in read_log(tmp_path / run / "log.jsonl")] for run in ("whole", "killed")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, CONFIG)
    with pytest.raises(InputError, match="other settings"):
        train(tmp_path, LoopConfig(steps=12, batch_size=3, learning_rate=1e-2))


def test_accumulated_gradients_are_averaged(tmp_path: Path) -> None:
    def weights(batch_size: int, accumulate: int) -> Tensor:
        network = nn.Linear(3, 1)
        nn.init.ones_(network.weight)
        nn.init.zeros_(network.bias)
        config = LoopConfig(
            steps=3,
            batch_size=batch_size,
            learning_rate=1e-3,
            accumulate=accumulate,
            optimizer="sgd",
        )

        def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
            return {"loss": network(batch).square().mean()}

        fit(network, step, Numbers(), config, tmp_path / f"{accumulate}", label="numbers")
        return network.weight.detach()

    assert torch.allclose(weights(6, 1), weights(2, 3), rtol=1e-5)


def test_loss_that_is_not_finite_stops_with_a_sentence(tmp_path: Path) -> None:
    network = nn.Linear(3, 1)

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        return {"loss": network(batch).sum() * float("nan")}

    with pytest.raises(InputError, match="numbers: the loss is not finite at step 0"):
        fit(network, step, Numbers(), CONFIG, tmp_path, label="numbers")


def test_every_sample_is_seen_once_an_epoch() -> None:
    config = LoopConfig(steps=11, batch_size=3, learning_rate=1.0)
    drawn = [index for batch in SampleStream(11, config) for index, _ in batch]
    for epoch in range(3):
        assert sorted(drawn[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    resumed = list(SampleStream(11, config, start=4))
    assert resumed == list(SampleStream(11, config))[4:]


def test_short_epochs_draw_from_the_whole_set_anew() -> None:
    config = LoopConfig(steps=400, batch_size=1, learning_rate=1.0, epoch=4)
    drawn = [index for batch in SampleStream(11, config) for index, _ in batch]
    epochs = [drawn[4 * epoch : 4 * epoch + 4] for epoch in range(100)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert set(drawn) == set(range(11))
    # Some frames of an epoch come again in the next one before others were seen.
    assert any(set(first) & set(second) for first, second in itertools.pairwise(epochs))


@given(batch=st.integers(1, 16), processes=st.integers(1, 8), steps=st.integers(50, 10_000))
def test_spread_batches_are_shared_evenly_over_the_same_samples(
    batch: int, processes: int, steps: int
) -> None:
    given_loop = LoopConfig(
        steps=steps, batch_size=batch, learning_rate=1e-3, halve_every=steps // 2
    )
    loop = spread(given_loop, processes)
    assert loop.batch_size % processes == 0
    assert 0 <= loop.batch_size - batch < processes
    assert abs(loop.steps * loop.batch_size - steps * batch) <= loop.batch_size / 2
    assert loop.learning_rate == pytest.approx(1e-3 * (loop.batch_size / batch) ** 0.5)
    if batch % processes == 0:
        assert loop == given_loop


def test_learning_rate_follows_the_schedule() -> None:
    config = LoopConfig(steps=40, batch_size=1, learning_rate=1.0, halve_every=10, warmup=4)
    assert [learning_rate(config, step) for step in (0, 3, 9, 10, 25)] == [0.25, 1, 1, 0.5, 0.25]


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from torch import nn
sys.path.insert(0, sys.argv[2])
from test_engine import Numbers
from moduv.engine import distributed
from moduv.engine.loop import LoopConfig, fit
distributed.start()
network = nn.Linear(3, 1)
nn.init.ones_(network.weight); nn.init.zeros_(network.bias)
config = LoopConfig(steps=4, batch_size=4, learning_rate=0.05, optimizer="sgd")
fit(network, lambda batch, state: {"loss": network(batch).square().mean()}, Numbers(), config,
    Path(sys.argv[1]), label="numbers")
distributed.stop()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = [sys.executable, str(script), str(tmp_path / "one"), here]
    two = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
        *(str(script), str(tmp_path / "two"), here),
    ]
    for command in (one, two):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    states = [checkpoint.load(tmp_path / run / "train_state.pt") for run in ("one", "two")]
    weights = [state["modules"]["weight"] for state in states]
    assert not torch.equal(weights[0], torch.ones(1, 3))
    assert torch.allclose(*weights, rtol=1e-5)


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


@dataclass(frozen=True)
class Labour:
    rate: float
    workers: int = speed_only(2)


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


def test_log_cut_by_a_kill_is_read_up_to_the_cut(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 2.0}]


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


def test_bars_tell_where_in_the_run_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with prefixed_bars("[2/13]"):
        for _ in progress_bar(range(4), desc="motion", delay=0, mininterval=0, miniters=1):
            time.sleep(0.01)
    assert "[2/13] motion:  50%" in capsys.readouterr().err
    assert "[2/13]" not in str(progress_bar(range(4), desc="alone"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("batch_size", 0), ("accumulate", 0), ("log_every", 0), ("save_every", -1)),
        *(("workers", -1), ("seed", -1), ("learning_rate", -0.1), ("weight_decay", -1.0)),
    ],
)
def test_trainings_that_cannot_be_are_one_sentence(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{name} is {value}; use [01] or more\.$"):
        LoopConfig(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, name: value})


MARK = ["as imported"]


def seen_by_a_worker(number: int) -> tuple[int, str]:
    return number, MARK[0]


def test_processes_start_afresh_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_engine.MARK", ["changed since"])
    alone = list(process_map(seen_by_a_worker, range(5), 1))
    assert alone == [(number, "changed since") for number in range(5)]
    shared = list(process_map(seen_by_a_worker, range(5), 2))
    assert shared == [(number, "as imported") for number in range(5)]
