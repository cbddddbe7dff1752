"""The stage scripts: they say what they do, on one process and on several, and as Slurm jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moduv.engine.config import read_preset
from moduv.frames.splits import read_split
from moduv.labels.store import is_labelled, labelled
from moduv.rounds.yardstick import true_labels
from moduv.street.dataset import StreetConfig, render_dataset

REPOSITORY = Path(__file__).parents[1]
STAGES = (
    "1_initial_labels",
    "2_moving2mobile",
    "3_large2small",
    "4_final",
    "5_evaluate",
    "quickstart",
)


def script(name: str, *options: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MODUV_ENVIRONMENT": "ready", **variables}
    binaries = Path(sys.executable).parent
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    command = ["bash", str(REPOSITORY / "scripts" / f"{name}.sh"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("name", STAGES)
def test_a_dry_run_prints_the_commands_and_does_nothing(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = script(name, "--dry-run", "--data", tmp_path / "data", SAVE=str(run))
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("+ moduv ") for line in done.stdout.splitlines())
    assert not any(tmp_path.iterdir())


def test_flags_and_variables_say_the_same() -> None:
    flags = script(
        "2_moving2mobile", "--dry-run", "--name", "waymo", "--gpus", 4, "--preset", "paper"
    )
    variables = script("2_moving2mobile", "--dry-run", NAME="waymo", GPUS="4", PRESET="paper")
    assert flags.stdout == variables.stdout
    lines = flags.stdout.splitlines()
    assert all(
        line.startswith("+ torchrun --standalone --nproc_per_node 4 -m moduv.cli ")
        for line in lines
    )
    assert "--out save/waymo/R1_M2M" in lines[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--gpus", "none"), "GPUS is 'none'"),
        (("--colour", "red"), "unknown option --colour"),
        (("--name",), "--name needs a value"),
        (("--part", "tiny", "--dry-run"), "part 'tiny' is unknown"),
    ],
)
def test_wrong_options_are_one_sentence(options: tuple[str, ...], sentence: str) -> None:
    done = script("3_large2small", *options)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_large_and_small_are_two_slurm_jobs_after_one_and_before_another(tmp_path: Path) -> None:
    """With a submission command that numbers the jobs and writes down what it is asked."""
    fake = tmp_path / "sbatch"
    fake.write_text('#!/bin/bash\necho "$*" >>"$JOBS"\nwc -l <"$JOBS"\n')
    fake.chmod(0o755)
    jobs = tmp_path / "jobs"
    done = script(
        "slurm_chain", "--name", "waymo", SBATCH=f"{fake} --partition gpu", JOBS=str(jobs)
    )
    assert done.returncode == 0, done.stderr
    asked = jobs.read_text().splitlines()
    assert all(line.startswith("--partition gpu --parsable") for line in asked)
    assert all(line.endswith("--name waymo") for line in asked)
    after = [line.partition("--dependency afterok:")[2].split(" ")[0] for line in asked]
    assert after == ["", "1", "2", "2", "3:4", "5"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny street with true labels in the place of L0, and a preset of a few steps."""
    root = tmp_path_factory.mktemp("scripts")
    data = root / "street"
    render_dataset(data, StreetConfig(train_clips=2, val_clips=1, frames_per_clip=4, workers=1))
    split = data / "splits/train_files.txt"
    sections = read_preset("street")
    for name in ("moving2mobile", "large", "small", "final"):
        sections[name] = {**sections[name], "skip_empty": False}
        sections[name]["loop"] = {**sections[name]["loop"], "steps": 3, "batch_size": 1}
    sections["mobile_labels"]["score_threshold"] = 0.02
    sections["aggregated_labels"] |= {"large_score": 0.02, "small_score": 0.02}
    (root / "tiny.yaml").write_text(yaml.safe_dump(sections))
    for name in ("one", "two"):
        from moduv.rounds.yardstick import TrueLabels

        true_labels(
            split, data / "annotations/train.json", root / name / "L0_pseudo_labels", TrueLabels()
        )
    return root


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_rounds_run_on_one_and_on_two_processes(world: Path, processes: int) -> None:
    run = world / ("one" if processes == 1 else "two")
    options = ["--gpus", processes, "--data", world / "street", "--preset", world / "tiny.yaml"]
    for name in ("2_moving2mobile", "3_large2small"):
        done = script(name, *options, SAVE=str(run))
        assert done.returncode == 0, done.stderr[-2000:]
    frames = read_split(world / "street/splits/train_files.txt")
    for level in ("L1", "L2"):
        root = run / f"{level}_pseudo_labels"
        assert all(is_labelled(root, frame) for frame in labelled(root, frames))
        assert len(labelled(root, frames)) == len(frames)
    # A batch of one cannot be shared by two, so it grows and the training has half the steps.
    last = (run / "R2_L2S_small/log.jsonl").read_text().splitlines()[-1]
    assert f'"step": {3 if processes == 1 else 2},' in last
