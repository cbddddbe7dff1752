"""Training of stage 1: initial weights, validation and pictures, several processes, resuming."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames.clip import FrameRef, list_frames, list_segments
from moduv.frames.images import read_image
from moduv.frames.splits import write_split
from moduv.motion.networks import DynamoDepth
from moduv.motion.networks.pretrained import load_initial_weights
from moduv.motion.phases import PHASES, MotionConfig
from moduv.motion.predict import MotionPrediction, predict_motion
from moduv.motion.train import MotionTraining
from moduv.rounds.stage1 import train_stage1
from moduv.street.dataset import StreetConfig, render_dataset

LOSSES = MotionConfig(
    min_depth=0.5, flow_parametrisation="residual", flow_unit="depth", motion_input="warped"
)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street")
    render_dataset(root, StreetConfig(train_clips=2, val_clips=2, frames_per_clip=6, workers=1))
    return root


def config(steps: int = 2, **changes: object) -> MotionTraining:
    loop = LoopConfig(steps=steps, batch_size=2, learning_rate=1e-3, save_every=1, log_every=1)
    loops = dict.fromkeys(PHASES, loop)
    plain = MotionTraining(
        loops, depth_model="street", height=64, width=96, losses=LOSSES, ramp=0.5
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.stem}.{key}": value
        for path in sorted((out / "weights").glob("*.pth"))
        for key, value in checkpoint.load(path).items()
        if torch.is_tensor(value)
    }


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


# --- watching ---------------------------------------------------------------------------------------


def test_validation_is_logged_and_drawn_and_changes_nothing(street: Path, tmp_path: Path) -> None:
    train, val = street / "splits/train_files.txt", street / "splits/val_files.txt"
    watched = config(validate_every=2, validation_frames=3, pictures=2)
    train_stage1(street, train, tmp_path / "watched", watched, val)
    train_stage1(street, train, tmp_path / "alone", watched)
    for key, value in final_weights(tmp_path / "alone").items():
        assert torch.equal(value, final_weights(tmp_path / "watched")[key]), key
    logged = {
        name: read_log(tmp_path / "watched" / folder / "log.jsonl")
        for name, folder in (("first", "1_disp_init"), ("last", "4_fine_tune"))
    }
    assert "val/depth/abs_rel" not in logged["first"][0]
    assert logged["first"][1]["val/depth/abs_rel"] > 0
    assert "val/motion/AP" not in logged["first"][1]
    assert 0 <= logged["last"][1]["val/motion/AP"] <= 1
    pictures = sorted((tmp_path / "watched/pictures").glob("fine_tune_*.jpg"))
    assert len(pictures) == 2
    assert np.ptp(read_image(pictures[0])) > 100


def test_validation_between_log_lines_is_refused(street: Path, tmp_path: Path) -> None:
    train, val = street / "splits/train_files.txt", street / "splits/val_files.txt"
    loop = LoopConfig(steps=4, batch_size=2, learning_rate=1e-3, log_every=2)
    wrong = config(loops=dict.fromkeys(PHASES, loop), validate_every=3)
    with pytest.raises(InputError, match="a multiple of log_every, 2"):
        train_stage1(street, train, tmp_path, wrong, val)


# --- precision and processes ------------------------------------------------------------------------


def test_half_precision_trains_close_to_single(street: Path, tmp_path: Path) -> None:
    train = street / "splits/train_files.txt"
    losses = []
    for bf16 in (False, True):
        loop = LoopConfig(steps=1, batch_size=2, learning_rate=1e-3, log_every=1, bf16=bf16)
        out = tmp_path / str(bf16)
        train_stage1(street, train, out, config(loops=dict.fromkeys(PHASES, loop)))
        losses.append(read_log(out / "1_disp_init/log.jsonl")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


GRADIENTS = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_motion_train import LOSSES, config
from moduv.engine import distributed
from moduv.frames.splits import read_split
from moduv.motion.data import Triplets
from moduv.motion.losses import compute_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES
distributed.start()
root, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
model, phase = DynamoDepth("street").eval(), PHASES["disp_init"]
phase.freeze(model)
triplets = Triplets(root, read_split(root / "splits/train_files.txt"), 64, 96)
indices = distributed.shard([0, 1, 4, 5])
batch = triplets.collate([triplets[index, 0] for index in indices])
losses = config().losses
compute_losses(model, batch, phase, 1.0, losses, torch.Generator().manual_seed(0))["loss"].backward()
distributed.average_gradients(model.parameters())
if distributed.is_main():
    torch.save({k: p.grad for k, p in model.named_parameters() if p.grad is not None}, out)
distributed.stop()
"""


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


def launch(processes: int, *arguments: object) -> None:
    torchrun = [f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)


def test_two_processes_give_the_gradients_of_one(street: Path, tmp_path: Path) -> None:
    """In evaluation mode: batch normalisation uses a process's own batch, as everywhere under DDP."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        launch(processes, script, street, out, Path(__file__).parent)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert any(gradient.abs().max() > 0 for gradient in one.values())
    for key, gradient in one.items():
        scale = float(gradient.abs().max()) + 1e-8
        # Ties between the neighbours are broken by noise that is each process's own.
        assert torch.allclose(gradient, two[key], atol=0.02 * scale), key


def test_the_command_runs_resumes_and_predicts_on_two_processes(
    street: Path, tmp_path: Path
) -> None:
    split, out = street / "splits/train_files.txt", tmp_path / "run"
    loops = [
        f"--config.loops.{phase}.{key}={value}"
        for phase in PHASES
        for key, value in (("steps", 2), ("batch_size", 2), ("save_every", 1))
    ]
    common = ["--preset", "street", "--data", street, "--split", split]
    size = ["--config.height", 64, "--config.width", 96]
    train = ["-m", "moduv.cli", "motion", "train", *common, *size, *loops, "--out"]
    launch(2, *train, tmp_path / "whole")
    launch(2, *train, out)
    # As if killed after the third phase: what came later is gone.
    for path in (*(out / "4_fine_tune").iterdir(), *(out / "weights").iterdir()):
        path.unlink()
    (out / "manifest.json").unlink()
    launch(2, *train, out)
    for key, value in final_weights(tmp_path / "whole").items():
        assert torch.equal(value, final_weights(out)[key]), key
    predict = ["-m", "moduv.cli", "motion", "predict", *common, "--weights", out, "--out"]
    launch(2, *predict, tmp_path / "two")
    predict_motion(street, split, out, tmp_path / "one", MotionPrediction(batch_size=16, half=True))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npz"))
    assert len(files) == 8
    for file in files:
        one, two = (np.load(tmp_path / run / file) for run in ("one", "two"))
        np.testing.assert_allclose(one["mot_mask"], two["mot_mask"], atol=2e-3)


def test_real_clips_are_explained_better_after_training(shared: Path, tmp_path: Path) -> None:
    """Three triplets of Waymo Open: the warped neighbours come to look like the centre frame."""
    data = shared / "real/dynamo_depth/tiny_waymo"
    frames = [list_frames(data, segment)[1] for segment in list_segments(data)]
    write_split(tmp_path / "split.txt", frames)
    short = LoopConfig(steps=1, batch_size=3, learning_rate=1e-3, log_every=1)
    loops = {**dict.fromkeys(PHASES, short), "disp_init": replace(short, steps=40, log_every=10)}
    settings = config(loops=loops, height=96, width=160)
    train_stage1(data, tmp_path / "split.txt", tmp_path / "run", settings)
    errors = [e["photometric"] for e in read_log(tmp_path / "run/1_disp_init/log.jsonl")]
    assert errors[-1] < 0.92 * errors[0], errors
    split = tmp_path / "split.txt"
    predict_motion(data, split, tmp_path / "run", tmp_path / "outputs", MotionPrediction())
    metrics, _ = evaluate_motion_outputs(tmp_path / "outputs", data, frames)
    assert 0 < metrics["depth/abs_rel"] < 1
    assert 0 <= metrics["motion/AP"] <= 1
