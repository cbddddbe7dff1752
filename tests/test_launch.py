"""Several processes fail like one: what is wrong is said once, and the exit code tells it from a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moduv.commands.cli import main
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.launch import exit_code, processes

FAILING = """
import atexit, sys, time, torch
from moduv.commands.cli import with_exit_codes
from moduv.commands.cli import main
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import say
def work():
    say("started")
    distributed.barrier()
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
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "_store", None)
    monkeypatch.setattr(distributed.dist, "rendezvous", lambda _: iter([(None, 1, 2)]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes but 1 GPUs"):
        distributed.start()


@pytest.mark.parametrize(
    ("size", "rank"),
    [(None, None), ("", ""), ("2", None), ("2", ""), ("x", None), (None, "1"), ("1", "0")],
)
def test_a_command_without_rank_or_size_runs_alone(
    size: str | None,
    rank: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("WORLD_SIZE", size), ("RANK", rank), ("LOCAL_RANK", "x")):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert processes() == 1
    main(["checkpoints", "list"])
    assert "moco" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "rank", "words"),
    [
        ("x", "0", "WORLD_SIZE is 'x'"),
        ("2", "-1", "RANK is '-1'"),
        ("٢", "0", "WORLD_SIZE is '٢'"),
        ("²", "0", "WORLD_SIZE is '²'"),
        ("2.0", "0", "WORLD_SIZE is '2.0'"),
        ("9" * 5000, "0", "WORLD_SIZE is '999"),
        ("0", "0", "RANK is 0 and WORLD_SIZE 0"),
        ("2", "2", "RANK is 2 and WORLD_SIZE 2"),
        ("2", "0", "cannot meet"),
    ],
)
def test_an_environment_that_describes_no_processes_is_one_sentence(
    size: str,
    rank: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["checkpoints", "list"])
    assert stopped.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert words in told
    assert len(told) < 300


@pytest.mark.parametrize("port", ["", "x", "-1", "99999999", "9" * 30])
def test_a_meeting_place_that_is_none_is_one_sentence(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot meet"):
        distributed.start()
