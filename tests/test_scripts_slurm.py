"""The chain of stages as Slurm jobs: submitted in order, queued again before their time is over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from scripts_world import CHAIN, SBATCH, STAGES, commands, script


def stand_in(folder: Path, name: str, body: str) -> Path:
    """A command that writes down what it is asked, and does no more than `body`."""
    fake = folder / name
    fake.write_text(f'#!/bin/bash\necho "$*" >>"$JOBS"\n{body}\n')
    fake.chmod(0o755)
    return fake


def chain(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The chain with a submission command that numbers the jobs; what it was asked."""
    fake, jobs = stand_in(folder, "sbatch", 'wc -l <"$JOBS"'), folder / "jobs"
    done = script("slurm_chain", *options, SBATCH=f"{fake} --partition gpu", JOBS=str(jobs))
    return done, jobs.read_text().splitlines() if jobs.is_file() else []


def test_large_and_small_are_two_slurm_jobs_after_one_and_before_another(tmp_path: Path) -> None:
    done, asked = chain(tmp_path, "--name", "waymo")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("--partition gpu --parsable") for line in asked)
    assert all(line.endswith("--name waymo") for line in asked)
    after = [line.partition("--dependency afterok:")[2].split(" ")[0] for line in asked]
    assert after == ["", "1", "2", "2", "3:4", "5", "6"]
    scripts = [line.partition("scripts/slurm.sbatch ")[2].split(" --name")[0] for line in asked]
    names = [*STAGES]
    parts = [f"{names[2]}.sh --part {part}" for part in ("large", "small", "labels")]
    expected = [f"{names[0]}.sh", f"{names[1]}.sh", *parts, f"{names[3]}.sh", f"{names[4]}.sh"]
    assert scripts == [f"scripts/{words}" for words in expected]


def test_a_dry_run_of_the_chain_submits_nothing(tmp_path: Path) -> None:
    done, asked = chain(tmp_path, "--dry-run", "--name", "waymo")
    assert (done.returncode, asked) == (0, [])
    assert commands(done.stdout) == CHAIN
    assert "save/waymo/R3_Final" in done.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(("--colour", "red"), "unknown option --colour"), (("--part", "small"), "leave out --part")],
)
def test_the_chain_submits_nothing_when_an_option_is_wrong(
    tmp_path: Path, options: tuple[str, str], sentence: str
) -> None:
    done, asked = chain(tmp_path, "--name", "waymo", *options)
    assert (done.returncode, asked) == (2, [])
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.is_file():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path.name} does not come")


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("warned", ["not", "queued again", "finished meanwhile", "refused"])
def test_a_slurm_job_is_queued_again_before_its_time_is_over(
    tmp_path: Path, code: int, warned: str
) -> None:
    """A stage that ends of itself afterwards, well or not, ends the job with its own code."""
    ready, go, jobs = tmp_path / "ready", tmp_path / "go", tmp_path / "jobs"
    answers = {"refused": "exit 1", "finished meanwhile": f"touch {go}; sleep 0.3"}
    stand_in(tmp_path, "scontrol", answers.get(warned, "exit 0"))
    stage = tmp_path / "stage.sh"
    stage.write_text(
        f'echo "$*" >{tmp_path}/options; touch {ready}\n'
        f"until [[ -f {go} ]]; do sleep 0.05; done; exit {code}\n"
    )
    environment = {
        **os.environ,
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOBS": str(jobs)},
        **{"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"},
    }
    command = ["bash", str(SBATCH), str(stage), "--name", "waymo"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as job:
        wait_for(ready)
        if warned != "not":
            name = re.findall(r"^#SBATCH --signal=B:(\w+)@\d+$", SBATCH.read_text(), re.M)[0]
            job.send_signal(signal.Signals[f"SIG{name}"])
            wait_for(jobs)
        go.touch()
        _, said = job.communicate(timeout=60)
    assert job.returncode == code
    assert (tmp_path / "options").read_text() == "--gpus 4 --name waymo\n"
    assert (jobs.read_text() if jobs.is_file() else "") == (
        "" if warned == "not" else "requeue 7\n"
    )
    assert ("submit it once more" in said) == (warned == "refused")
