"""How commands end: sentences for what the user can mend, promises only where they are kept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moduv.commands.cli import COMMANDS, main, with_exit_codes
from moduv.engine.files import atomic_path, write_json
from moduv.engine.stages import Stage


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0


def ending(
    work: Callable[[], object], capsys: pytest.CaptureFixture[str], *, resumes: bool = False
) -> tuple[object, str]:
    """Exit code and last words of some work."""
    with pytest.raises(SystemExit) as stopped:
        with_exit_codes(work, resumes=resumes)
    return stopped.value.code, capsys.readouterr().err


def test_only_commands_that_resume_promise_it(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert ending(stop, capsys) == (130, "moduv: interrupted.\n")
    code, told = ending(stop, capsys, resumes=True)
    assert (code, told) == (130, "moduv: interrupted; the same command continues from here.\n")
    resuming = {name for name, command in COMMANDS.items() if command.resumes}
    assert {"run", "street render", "round final", "labels mobile"} <= resuming
    assert not resuming & {"demo", "labels export", "labels show", "evaluate", "report", "doctor"}


def test_a_command_says_whether_it_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moduv.commands.cli.run_command", stop)
    for command, promised in (("labels initial", True), ("labels stats", False)):
        with pytest.raises(SystemExit) as stopped:
            main(command.split())
        assert stopped.value.code == 130
        assert ("continues from here" in capsys.readouterr().err) == promised


POOL = """
import os, signal, time
from pathlib import Path
from moduv.commands.cli import with_exit_codes
from moduv.engine.files import atomic_path
from moduv.engine.parallel import process_map

def write(number):
    with atomic_path(Path(f"{number}.txt")) as temporary:
        temporary.write_text("half")
        Path(f"{os.getpid()}.worker").touch()
        time.sleep(60)

def work():
    list(process_map(write, range(8), 2))

if __name__ == "__main__":
    # What is started in the background inherits that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with_exit_codes(work, resumes=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_processes_end_with_the_one_that_is_ended(
    number: signal.Signals, group: bool, code: int, tmp_path: Path
) -> None:
    """A terminal interrupts the whole group, a system ends the first process."""
    (tmp_path / "pool.py").write_text(POOL)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "pool.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(tmp_path.glob("*.worker"))) < 2:
        assert child.poll() is None
        time.sleep(0.1)
    (os.killpg if group else os.kill)(child.pid, number)
    told = child.communicate()[1]  # ends with the last process that holds the pipe
    assert child.returncode == code
    if code > 0:
        word = {130: "interrupted", 143: "ended"}[code]
        assert told == f"moduv: {word}; the same command continues from here.\n"
    assert not list(tmp_path.glob(".moduv-partial*"))
    assert not list(tmp_path.glob("*.txt"))


def options_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[object, str]:
    """Exit code, and what a command would do."""
    with pytest.raises(SystemExit) as stopped:
        main(["labels", "initial", *map(str, words), "--print_config"])
    told = capsys.readouterr()
    return stopped.value.code, told.out + told.err


def test_files_of_options_do_not_contradict_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("out: a\nout: b\n")
    assert options_of(capsys, "--cfg", path)[0] == 2
    code, told = options_of(capsys, f"--cfg={path}")
    assert (code, f"{path}: is not valid YAML (the key 'out' occurs twice)" in told) == (2, True)
    path.write_text("preset: street\n")
    code, by_file = options_of(capsys, "--cfg", path)
    assert code == 0
    assert by_file == options_of(capsys, "--preset", "street")[1]
    assert by_file != options_of(capsys, "--preset", "paper")[1].replace("paper", "street")
    code, told = options_of(capsys, "--preset", "street", "--preset=paper")
    assert (code, "--preset is given as paper and as street; give one" in told) == (2, True)


@pytest.mark.parametrize("place", ["taken", "taken/below/deeper"])
def test_a_stage_whose_folder_is_a_file_says_so(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    stage = Stage("labour", tmp_path / place, Settings())
    code, told = ending(lambda: stage.run(dict), capsys)
    assert code == 2
    assert told == (
        f"moduv: error: {tmp_path / 'taken'}: is a file, and a folder is needed there; "
        "choose another place.\n"
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_given_as_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "L1.json").mkdir()
    code, told = ending(lambda: write_json(tmp_path / "L1.json", {}), capsys)
    assert code == 2
    assert f"{tmp_path / 'L1.json'}: is a folder, and a file is needed there" in told
    assert os.listdir(tmp_path) == ["L1.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full; make room"), (errno.EDQUOT, "your share of the disk")],
)
def test_a_full_disk_names_the_file_that_was_written(
    tmp_path: Path, number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "weights.pth"):
            raise OSError(number, os.strerror(number))  # as `write` does: without a name

    code, told = ending(write, capsys)
    assert code == 2
    assert f"{tmp_path / 'weights.pth'}: " in told
    assert words in told
    assert not list(tmp_path.iterdir())


def test_a_full_disk_behind_another_error_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "weights.pth"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                raise RuntimeError("unexpected pos 704 vs 598")  # as torch.save does

    code, told = ending(write, capsys)
    assert code == 2
    assert f"{tmp_path / 'weights.pth'}: cannot be written, the disk is full" in told


def test_a_place_that_may_not_be_written_is_named_as_the_user_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".a-x7g2.json"))

    monkeypatch.setattr("moduv.engine.files.tempfile.mkstemp", refuse)
    code, told = ending(lambda: write_json(tmp_path / "a.json", {}), capsys)
    assert code == 2
    assert f"moduv: error: {tmp_path / 'a.json'}: may not be read or written" in told


def test_errors_that_are_not_the_users_are_not_hidden() -> None:
    def fail() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(ConnectionResetError):
        with_exit_codes(fail)
