"""Training of stage 1: initial weights, resuming, failures, seeds, precision."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from motion_world import config, final_weights

from moduv.depth.weights import load_initial_weights
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames.clip import FrameRef, with_neighbours
from moduv.frames.splits import write_split
from moduv.motion import losses, train
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.motion.train import MotionTrainingConfig
from moduv.runs.watch import train_stage1

# --- initial weights --------------------------------------------------------------------------------


def test_imagenet_weights_reach_every_resnet(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = DynamoDepth("monodepthv2").depth_enc.encoder.state_dict()
    checkpoint.save_weights(tmp_path / "resnet.pth", source)
    torch.manual_seed(2)
    model = DynamoDepth("monodepthv2")
    assert load_initial_weights(model, resnet=tmp_path / "resnet.pth") == []
    assert torch.equal(
        model.pose_enc.encoder.layer1[0].conv1.weight, source["layer1.0.conv1.weight"]
    )
    stacked = model.motion_enc.encoder.conv1.weight  # (64, 9, 7, 7)
    for frame in range(3):
        part = stacked[:, 3 * frame : 3 * frame + 3]
        torch.testing.assert_close(3 * part, source["conv1.weight"])


def test_litemono_weights_come_without_their_classifier(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = DynamoDepth("litemono").depth_enc.state_dict()
    extra = {"norm.weight": torch.ones(3), "head.weight": torch.ones(2, 2)}
    checkpoint.save(tmp_path / "lite.pth", {"model": {**source, **extra}})
    torch.manual_seed(2)
    model = DynamoDepth("litemono")
    assert load_initial_weights(model, litemono=tmp_path / "lite.pth") == ["pose_enc", "motion_enc"]
    assert all(torch.equal(v, source[k]) for k, v in model.depth_enc.state_dict().items())


def test_missing_and_foreign_initial_weights_are_named(tmp_path: Path) -> None:
    model = DynamoDepth("litemono")
    with pytest.raises(
        InputError, match=r"checkpoints fetch \(from https://.*--config.resnet_weights ''"
    ):
        load_initial_weights(model, resnet=tmp_path / "resnet.pth")
    checkpoint.save(tmp_path / "foreign.pth", {"model": {"conv.weight": torch.ones(1)}})
    with pytest.raises(InputError, match="do not fit the network"):
        load_initial_weights(model, litemono=tmp_path / "foreign.pth")


# --- interruptions and failures ---------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "phase"), [(1, "1_disp_init"), (10, "4_fine_tune")])
def test_a_training_killed_within_a_phase_continues_exactly(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, phase: str
) -> None:
    """Of three steps a phase, the first of this phase is the last that is saved."""
    split, settings = street / "splits/train_files.txt", config(3)
    monkeypatch.setattr(train, "compute_losses", stops_after(steps))
    with pytest.raises(KeyboardInterrupt):
        train_stage1(street, split, tmp_path / "killed", settings)
    monkeypatch.undo()
    state = checkpoint.load(tmp_path / "killed" / phase / "train_state.pt")
    assert state["step"] == 1
    train_stage1(street, split, tmp_path / "killed", settings)
    train_stage1(street, split, tmp_path / "whole", settings)
    expected = final_weights(tmp_path / "whole")
    for key, value in final_weights(tmp_path / "killed").items():
        assert torch.equal(value, expected[key]), key


def stops_after(steps: int) -> Callable[..., dict[str, torch.Tensor]]:
    """The losses, until somebody interrupts the training."""
    left = iter(range(steps))

    def compute(*arguments: Any) -> dict[str, torch.Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return losses.compute_losses(*arguments)

    return compute


@pytest.mark.parametrize("phase", ["disp_init", "fine_tune"])
def test_a_training_that_explodes_says_so(street: Path, tmp_path: Path, phase: str) -> None:
    """In a process of its own, because it used to end with a segmentation fault."""
    values = {"steps": 3, "batch_size": 2, "log_every": 1, "warmup": 0, "clip_norm": 0}
    options = [f"--config.loops.{p}.{key}={value}" for p in PHASES for key, value in values.items()]
    size = ["--config.height=64", "--config.width=96"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "moduv.commands.cli", "motion", "train"),
            *("--preset", "street_mask"),
            *("--data", street, "--split", street / "splits/train_files.txt", "--out", tmp_path),
            *(*options, *size, f"--config.loops.{phase}.learning_rate=1e30"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert f"{phase}: the loss is not finite at step 1 (loss, photometric" in done.stderr


# --- phases -----------------------------------------------------------------------------------------


def test_the_first_phases_alone_train_what_they_train_among_all(
    street: Path, tmp_path: Path
) -> None:
    split, loops = street / "splits/train_files.txt", config().loops
    for count in (1, 4):
        chosen = {name: loops[name] for name in list(PHASES)[:count]}
        train_stage1(street, split, tmp_path / str(count), config(loops=chosen))
    assert sorted(path.name for path in (tmp_path / "1").glob("*_*")) == ["1_disp_init"]
    state = [
        checkpoint.load(tmp_path / f"{count}/1_disp_init/train_state.pt")["modules"]
        for count in (1, 4)
    ]
    torch.testing.assert_close(state[0], state[1], rtol=0, atol=0)
    assert final_weights(tmp_path / "1").keys() == final_weights(tmp_path / "4").keys()


@pytest.mark.parametrize("names", [[], ["motion_init"], ["disp_init", "fine_tune"]])
def test_later_phases_need_the_earlier_ones(names: list[str]) -> None:
    with pytest.raises(InputError, match="or the first of them; mend the preset"):
        config(loops={name: config().loops[name] for name in names})


# --- seeds ------------------------------------------------------------------------------------------


def test_the_seed_decides_the_order_of_every_phase() -> None:
    def seeds(settings: MotionTrainingConfig) -> list[int]:
        return [train.phase_loop(settings, phase).seed for phase in PHASES.values()]

    assert seeds(config()) == [0, 0, 0, 0]  # as it always was
    assert len({*seeds(config(seed=1)), *seeds(config(seed=2))}) == 8
    assert seeds(config(seed=1)) == seeds(config(seed=1))
    own = replace(config().loops["mask_init"], seed=5)
    loops = {**config().loops, "mask_init": own}
    chosen = seeds(config(seed=1, loops=loops))
    assert chosen[2] == 5
    assert chosen[3] == seeds(config(seed=1))[3]
    assert seeds(config(loops=loops)) == [0, 0, 5, 0]


# --- precision and compilation ----------------------------------------------------------------------


def test_half_precision_trains_close_to_single(street: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    errors = []
    for bf16 in (False, True):
        loop = LoopConfig(steps=1, batch_size=2, learning_rate=1e-3, log_every=1, bf16=bf16)
        out = tmp_path / str(bf16)
        train_stage1(street, split, out, config(loops=dict.fromkeys(PHASES, loop)))
        errors.append(read_log(out / "1_disp_init/log.jsonl")[0]["loss"])
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
    assert errors[1] != errors[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_frame_is_one_sentence_whoever_reads_it(
    street: Path, tmp_path: Path, workers: int
) -> None:
    data = tmp_path / "street"
    shutil.copytree(street, data)
    split = tmp_path / "split.txt"
    write_split(split, [FrameRef("train/clip_0000", 1)])
    (data / "train/clip_0000/000002.jpg").write_bytes(b"")
    training = config()
    loops = {name: replace(loop, workers=workers) for name, loop in training.loops.items()}
    with pytest.raises(InputError, match=r"000002\.jpg: the image is not readable") as raised:
        train_stage1(data, split, tmp_path / "run", replace(training, loops=loops))
    assert len(str(raised.value).splitlines()) == 1


def test_real_clips_are_explained_better_after_training(shared: Path, tmp_path: Path) -> None:
    """Three triplets of Waymo Open: the warped neighbours come to look like the centre frame."""
    data = shared / "real/dynamo_depth/tiny_waymo"
    images = sorted((data / "val").glob("*/FRONT/rgb/original/*"))
    found = [FrameRef(f"val/{path.parts[-5]}", int(path.stem)) for path in images]
    frames, _ = with_neighbours(found, data)
    write_split(tmp_path / "split.txt", frames)
    short = LoopConfig(steps=1, batch_size=3, learning_rate=1e-3, log_every=1)
    loops = {**dict.fromkeys(PHASES, short), "disp_init": replace(short, steps=40, log_every=10)}
    settings = config(loops=loops, height=96, width=160)
    train_stage1(data, tmp_path / "split.txt", tmp_path / "run", settings)
    errors = [e["photometric"] for e in read_log(tmp_path / "run/1_disp_init/log.jsonl")]
    assert errors[-1] < 0.92 * errors[0], errors
    split = tmp_path / "split.txt"
    predict_motion(data, split, tmp_path / "run", tmp_path / "outputs", MotionPredictionConfig())
    metrics, _ = evaluate_motion_outputs(tmp_path / "outputs", data, frames)
    assert 0 < metrics["depth/abs_rel"] < 1
    assert 0 <= metrics["motion/AP"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_networks_train_as_the_plain_ones(street: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    train_stage1(street, split, tmp_path / "plain", config(1))
    train_stage1(street, split, tmp_path / "compiled", config(1, compile=True))
    for phase in ("1_disp_init", "4_fine_tune"):
        plain, compiled = (
            read_log(tmp_path / name / phase / "log.jsonl")[0] for name in ("plain", "compiled")
        )
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-2)
    assert final_weights(tmp_path / "compiled").keys() == final_weights(tmp_path / "plain").keys()


def test_networks_that_cannot_be_compiled_run_as_they_are(
    street: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler here")

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend=broken)
    )
    split = street / "splits/train_files.txt"
    train_stage1(street, split, tmp_path / "failed", config(1, compile=True))
    told = capsys.readouterr().out
    assert told.count("torch.compile failed") == 1
    assert "no compiler here" in told
    train_stage1(street, split, tmp_path / "plain", config(1))
    plain = final_weights(tmp_path / "plain")
    for key, value in final_weights(tmp_path / "failed").items():
        assert torch.equal(value, plain[key]), key
