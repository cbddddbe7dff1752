"""Several processes fail like one: what is wrong is said once, and the exit code tells it from a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.launch import exit_code

FAILING = """
import atexit, sys, time, torch
from moduv.commands.cli import with_exit_codes
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import say
def work():
    say("started")
    if distributed.rank() == 1:
        atexit.register(time.sleep, 1)
        raise {"input": InputError, "crash": ValueError}[sys.argv[1]]("frame 7 is broken.")
    distributed.average_gradients([torch.nn.Parameter(torch.ones(1))])
with_exit_codes(work)
"""


@pytest.mark.parametrize(
    ("kind", "code", "last"),
    [
        ("input", 2, "moduv: error: frame 7 is broken."),
        ("crash", 1, "ValueError: frame 7 is broken."),
    ],
)
def test_what_only_the_second_process_meets_is_said_once(
    tmp_path: Path, kind: str, code: int, last: str
) -> None:
    """The first waits for the second, so its connection breaks; that is not told, though it is over sooner."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    command = [sys.executable, "-m", "moduv.engine.launch", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stderr.splitlines()
    assert done.returncode == code
    assert done.stdout == "started\n"
    assert said[-1].endswith(last)
    assert done.stderr.count("Traceback") == (kind == "crash")
    assert len(said) == 1 or kind == "crash"


def test_a_killed_process_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([-15, 2]) == 2
    assert capsys.readouterr().err == ""
    assert exit_code([-9, -15]) == 137
    assert "ended by SIGKILL" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "_store", None)
    monkeypatch.setattr(distributed.dist, "rendezvous", lambda _: iter([(None, 1, 2)]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes but 1 GPUs"):
        distributed.start()
