"""How commands end: sentences for what the user can mend, promises only where they are kept."""

from __future__ import annotations

import errno
import os
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
