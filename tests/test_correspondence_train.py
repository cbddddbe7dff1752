"""Training of dense correspondences: published schedules, exact resuming, processes, the best snapshot kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_golden import expected
from correspondence_world import SMALL, make_world, small, state_of
from torchrun import launch

from moduv.commands.cli import main
from moduv.correspondence import train as training
from moduv.correspondence.network import CorrespondenceNet, read_network
from moduv.correspondence.train import (
    CorrespondenceConfig,
    make_network,
    parameter_groups,
    train_correspondence,
)
from moduv.correspondence.weights import read_checkpoint
from moduv.engine.config import load_preset
from moduv.engine.errors import InputError
from moduv.engine.log import read_log
from moduv.engine.loop import make_optimizer
from moduv.engine.stages import read_manifest
from moduv.frames.images import read_image
from moduv.instances.indexed import write_indices
from moduv.runs.watch_correspondence import train_with_validation

REPOSITORY = Path(__file__).parents[1]
PUBLISHED = ("ytvos", "oxuva", "tracknet", "kinetics")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("street"))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_schedules_are_the_published_ones(shared: Path, preset: str) -> None:
    case = expected(shared, "more_optimiser")[preset]
    config = load_preset(CorrespondenceConfig, preset, "correspondence")
    schedule = config.schedule
    assert schedule.epochs == case["epochs_run"]
    loop = schedule.loop(40)  # two batches, and one that is left out
    assert (loop.steps, loop.epoch) == (2 * schedule.epochs, 32)
    with torch.device("meta"):
        net = CorrespondenceNet(config.network)
    optimizer = make_optimizer(net, loop, parameter_groups)
    assert type(optimizer).__name__ == case["optimiser"]
    groups = optimizer.param_groups
    for group, numbers in zip(groups, case["groups"], strict=True):
        assert len(group["params"]) == numbers["tensors"]
        assert sum(parameter.numel() for parameter in group["params"]) == numbers["numbers"]
        assert group["weight_decay"] == numbers["weight_decay"]
    for epoch, rates in case["lr_of_weights_and_biases_in_epoch"].items():
        for step in (2 * int(epoch), 2 * int(epoch) + 1):
            rate = schedule.rate(loop, step)
            found = [rate * group.get("scale", 1.0) for group in groups]
            assert found == pytest.approx(rates, rel=1e-12)


def test_presets_differ_as_the_paper_says() -> None:
    configs = {
        name: load_preset(CorrespondenceConfig, name, "correspondence") for name in PUBLISHED
    }
    assert configs["ytvos"].schedule.workers
    clips = {name: config.clips for name, config in configs.items()}
    assert [clip.gap for clip in clips.values()] == [2, 10, 10, 10]
    assert [clip.views.random_crop for clip in clips.values()] == [True, True, False, False]
    assert [clip.views.smallest[1] for clip in clips.values()] == [320, 320, 256, 256]
    assert [clip.in_order for clip in clips.values()] == [False, False, False, True]
    assert len({config.folder for config in configs.values()}) == 4


def test_a_killed_training_continues_exactly(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_correspondence(world, tmp_path / "whole", SMALL)
    plain = training.clip_losses
    calls = []

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "clip_losses", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_correspondence(world, tmp_path / "cut", SMALL)
    assert not (tmp_path / "cut/weights.pth").exists()
    train_correspondence(world, tmp_path / "cut", SMALL)
    whole, cut = state_of(tmp_path / "whole"), state_of(tmp_path / "cut")
    assert all(torch.equal(cut[key], value) for key, value in whole.items())
    assert read_log(tmp_path / "cut/log.jsonl") == read_log(tmp_path / "whole/log.jsonl")
    found = read_network(tmp_path / "cut")
    assert found.feature == "res4"
    image = torch.rand(1, 3, 48, 48)
    net = make_network(SMALL)
    net.load_state_dict(whole)
    with torch.no_grad():
        assert torch.allclose(found.net(image).key, net.eval()(image).key, atol=1e-4)


def test_biases_learn_twice_as_fast_and_the_rate_decays(world: Path, tmp_path: Path) -> None:
    train_correspondence(world, tmp_path / "run", SMALL)
    log = read_log(tmp_path / "run/log.jsonl")
    assert [line["learning_rate"] for line in log] == pytest.approx([1e-3] * 4 + [5e-4] * 2)
    assert {"loss", "temp", "cross_key"} <= log[0].keys()
    state = torch.load(tmp_path / "run/train_state.pt", weights_only=True)
    weights, biases = state["optimizer"]["param_groups"]
    assert (weights["lr"], biases["lr"]) == pytest.approx((5e-4, 1e-3))
    assert (weights["weight_decay"], biases["weight_decay"]) == (5e-4, 0.0)
    assert weights["betas"] == (0.5, 0.999)


def test_half_precision_trains_the_same_network(world: Path, tmp_path: Path) -> None:
    train_correspondence(world, tmp_path / "bf16", small(bf16=True))
    train_correspondence(world, tmp_path / "float32", SMALL)
    half, full = (read_log(tmp_path / run / "log.jsonl") for run in ("bf16", "float32"))
    # Eight bits of precision; pseudo-labels may flip with the last of them.
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.05)
    assert (
        read_network(tmp_path / "bf16").net.fast_net["backbone"].conv1.weight.dtype == torch.float32
    )


def test_validation_is_logged_keeps_the_best_and_changes_nothing(
    world: Path, tmp_path: Path
) -> None:
    train_with_validation(world, tmp_path / "watched", SMALL, validation=world / "davis")
    train_with_validation(world, tmp_path / "alone", SMALL)
    watched, alone = state_of(tmp_path / "watched"), state_of(tmp_path / "alone")
    assert all(torch.equal(watched[key], value) for key, value in alone.items())
    log = read_log(tmp_path / "watched/log.jsonl")
    looks = [line for line in log if "val/J&F key" in line]
    assert [line["step"] for line in looks] == [2, 4, 6]
    assert all(np.isfinite(line[f"val/{name}"]) for line in looks for name in ("loss", "temp"))
    scores = {
        (line[f"val/J&F {name}"], line["step"], name) for line in looks for name in ("key", "res4")
    }
    kept = read_checkpoint(tmp_path / "watched")
    best = max(score for score, _, _ in scores)
    assert kept.score == best
    assert (best, kept.step, kept.feature) in scores
    drawn = sorted((tmp_path / "watched/pictures").iterdir())
    assert [path.name for path in drawn] == [f"{step:06d}_clip_0000.jpg" for step in (2, 4, 6)]
    assert read_image(drawn[0]).shape[1] > 4 * 240
    results = read_manifest(tmp_path / "watched")["results"]
    assert (results["score"], results["step"]) == (best, kept.step)


def test_validation_that_cannot_be_done_is_refused_before_training(
    world: Path, tmp_path: Path
) -> None:
    for folder, config, words in (
        (world / "train", SMALL, r"val\.txt: no such file"),
        (world / "davis", small(log_every=3), "a multiple of log_every, 3"),
    ):
        with pytest.raises(InputError, match=words):
            train_with_validation(world, tmp_path / "out", config, validation=folder)
        assert not (tmp_path / "out").exists()


def test_broken_held_out_masks_are_said_and_do_not_end_the_training(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "davis", tmp_path / "davis")
    for mask in (tmp_path / "davis/Annotations").rglob("00002.png"):
        write_indices(mask, np.ones((8, 8), np.uint8))
    train_with_validation(world, tmp_path / "run", SMALL, validation=tmp_path / "davis")
    assert capsys.readouterr().out.count("is of another size") == 1
    assert read_network(tmp_path / "run").feature == "res4"
    mask.unlink()
    with pytest.raises(InputError, match=r"00002\.png: a sequence needs"):
        train_with_validation(world, tmp_path / "more", SMALL, validation=tmp_path / "davis")


TRAINING = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from correspondence_world import SMALL
from moduv.correspondence.train import train_correspondence
from moduv.engine import distributed
distributed.start()
losses = replace(SMALL.losses, all_processes=sys.argv[4] == "all")
schedule = replace(SMALL.schedule, epochs=1, batch_size=4, optimizer="sgd", learning_rate=1e-2)
config = replace(SMALL, losses=losses, schedule=schedule)
train_correspondence(Path(sys.argv[1]), Path(sys.argv[3]), config)
distributed.stop()
"""


def script(name: str, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts of correspondences."""
    environment = {**os.environ, **{key: str(value) for key, value in settings.items()}}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MODUV_ENVIRONMENT"] = "ready"
    words = ["bash", str(REPOSITORY / f"scripts/correspondence/{name}.sh"), *options]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ytvos", "--preset ytvos --data {data} --out {out}"),
        ("track", "--preset tracknet --data {data} --out {out}"),
        ("street", "--preset street_clips --data {data} --out {out} --validation {data}/davis"),
    ],
)
def test_a_dry_run_of_the_script_prints_the_commands(name: str, words: str, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    done = script("train", name, "--dry-run", "--config.clips.gap", "3", DATA=data, OUT=out)
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    expected = words.format(data=data, out=out)
    assert last == f"+ moduv correspondence train {expected} --config.clips.gap 3"
    assert len(before) == (2 if name == "street" else 0)
    assert not any(tmp_path.iterdir())
    assert "unknown data set coco" in script("train", "coco").stderr


@pytest.mark.slow
def test_the_scripts_render_train_follow_and_measure(tmp_path: Path) -> None:
    preset = tmp_path / "tiny.yaml"
    world = "{train_clips: 4, val_clips: 2, frames_per_clip: 6, supersampling: 1, workers: 1}"
    schedule = "{epochs: 2, batch_size: 4, save_every: 1, log_every: 1}"
    training = f"{{schedule: {schedule}, validate_every: 1, validation_sequences: 2}}"
    preset.write_text(f"extends: street_clips\nstreet: {world}\ncorrespondence: {training}\n")
    places = {"DATA": tmp_path / "data", "PRESET": preset, "WORLD_SIZE": 1}
    trained, followed = tmp_path / "trained", tmp_path / "followed"
    done = script("train", "street", OUT=trained, **places)
    assert done.returncode == 0, done.stderr[-2000:]
    feature = read_checkpoint(trained).feature
    assert any((trained / "pictures").glob("000002_clip_*.jpg"))
    done = script("infer", "street", WEIGHTS=trained, OUT=followed, **places)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "J&F-Mean" in done.stdout
    masks = followed / f"{feature}_vos"
    assert len([*masks.glob("*/*.png")]) == 6 * len(
        [*(tmp_path / "data/davis/JPEGImages/480p").iterdir()]
    )
    assert (masks / "global_results-val.csv").is_file()
    # Run again, both keep what is there.
    again = script("train", "street", OUT=trained, **places)
    assert "correspondence train: finished before" in again.stdout


@pytest.mark.slow
def test_two_processes_train_what_one_trains_where_anchors_are_shared(
    world: Path, tmp_path: Path
) -> None:
    script, here = tmp_path / "training.py", Path(__file__).parent
    script.write_text(TRAINING)
    for processes, anchors in ((1, "all"), (2, "all"), (2, "own")):
        launch(processes, script, world, here, tmp_path / f"{processes}_{anchors}", anchors)
    states = {name: state_of(tmp_path / name) for name in ("1_all", "2_all", "2_own")}
    start = make_network(SMALL).state_dict()

    def apart(name: str, other: dict[str, torch.Tensor]) -> float:
        """Distance of a run's weights after one step from others."""
        keys = [key for key, _ in CorrespondenceNet(SMALL.network).named_parameters()]
        return float(torch.cat([(states[name][key] - other[key]).flatten() for key in keys]).norm())

    moved = apart("1_all", start)
    # Sums of float32 in another order may flip a pseudo-label.
    assert apart("2_all", states["1_all"]) < 0.05 * moved
    assert apart("2_own", states["1_all"]) > 0.1 * moved
    one, own = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("1_all", "2_own"))
    assert own["loss"] < one["loss"]  # fewer anchors to confuse


BAD_COMMANDS = {
    "a list of missing files": (["--frame_list", "{out}/list.txt"], "which is not there"),
    "clips that are too long": (["--config.clips.frames", "5"], "no video has the 5 frames"),
    "a folder without videos": (["--data", "{out}"], "holds no videos"),
    "a crop larger than the frames": (["--config.clips.views.crop", "300"], "views"),
    "no stride of the network": (["--config.network.stride", "5"], "one of the strides"),
}


@pytest.mark.parametrize("kind", BAD_COMMANDS)
def test_bad_input_is_one_sentence_and_exit_code_2(
    kind: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("train/clip_0000/000099.jpg\n")
    options, words = BAD_COMMANDS[kind]
    given = ["--preset", "street", "--data", str(world), "--out", str(tmp_path / "run")]
    given += [option.format(out=tmp_path) for option in options]
    with pytest.raises(SystemExit) as ended:
        main(["correspondence", "train", *given])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_a_list_of_a_data_set_is_written_by_a_command(world: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "list.txt")
    given = ["--preset", "street", "--data", str(world), "--out", target]
    main(["correspondence", "list", *given, "--config.clips.frames", "4"])
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines[0] == "/train/clip_0000/000000.jpg"
    assert len(lines) == 20
