"""Kills and failing disks lose nothing; an output has one writer at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import Link, chain
from fault_targets import Target
from faults import KILL, Server, differences, prepare, server, strike

from moduv.engine.files import TEMPORARY, atomic_path, write_json
from moduv.engine.lock import LOCK, alone

LINKS = 5
"""Of the chain, whose outputs the quick tests need."""
QUICK = (
    *("street render", "motion predict", "labels initial", "round moving2mobile", "prepare kitti"),
    *("frames import", "labels export", "export", "demo", "checkpoints fetch"),
)
SLOW = ("motion train", "labels mobile", "labels aggregated", "measure", "report", "detect")


@pytest.fixture(scope="module")
def striking() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def commands(striking: Server, room: Path) -> dict[str, Target]:
    return prepare(room / "chain", striking, LINKS)


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_command_run_again_ends_as_if_nothing_had_happened(
    striking: Server, commands: dict[str, Target], room: Path, name: str
) -> None:
    share = 0.2 + 0.7 * QUICK.index(name) / len(QUICK)
    count, wrong = strike(striking, commands[name], room, KILL, [share])
    assert count.struck == 1
    assert not wrong


@pytest.mark.parametrize("name", QUICK[::2])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    striking: Server, commands: dict[str, Target], room: Path, name: str
) -> None:
    fault = ("ENOSPC", "EIO")[QUICK.index(name) // 2 % 2]
    assert not strike(striking, commands[name], room, fault, [0.5])[1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("fault", [KILL, "ENOSPC", "EIO"])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_every_command_survives_kills_and_broken_disks(
    striking: Server, room: Path, name: str, fault: str
) -> None:
    target = prepare(room / "chain", striking)[name]
    count, wrong = strike(striking, target, room, fault, [part / 24 for part in range(1, 25)])
    assert count.struck
    assert not wrong


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that `resize` makes small or large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_disk_that_is_really_full_or_read_only_is_one_sentence(
    striking: Server, room: Path, small_disk: Path, name: str, share: float
) -> None:
    target = prepare(room / "chain", striking)[name]
    whole = room / "whole" / name
    if not whole.is_dir():
        assert striking.run(*target.at(whole)).status == 0
    arguments, out = target.at(small_disk)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", "small", small_disk], check=True)

    remount("ro")
    assert striking.run(arguments, out).is_sentence
    pages = sum(-(-path.stat().st_size // 4096) for path in whole.rglob("*") if path.is_file())
    remount(f"rw,size={4 * int(1 + share * pages)}k")
    ending = striking.run(arguments, out)
    assert ending.is_sentence, ending.said
    assert "the disk is full; make room" in ending.errors[0]
    remount("size=1g")
    assert striking.run(arguments, out).status == 0
    assert not differences(whole, small_disk)
    remount("ro")
    again = striking.run(arguments, out)  # what is finished may be looked at
    assert again.status == 0 or again.is_sentence
    remount("rw")


# --- one writer at a time ---------------------------------------------------------------------------


def test_who_is_at_work_is_told_and_nothing_is_touched(
    striking: Server, commands: dict[str, Target], tmp_path: Path
) -> None:
    for name, options in (
        ("labels initial", []),
        ("labels initial", ["--config.motion_threshold", "0.7"]),
        ("checkpoints fetch", []),
    ):
        arguments, out = commands[name].at(tmp_path)
        with alone(out):
            before = sorted(out.rglob("*"))
            ending = striking.run([*arguments, *options], out)
            assert ending.is_sentence, ending.said
            owner = f"process {os.getpid()} on {os.uname().nodename}"
            assert f"{out}: {owner} is at work here; wait" in ending.errors[0]
            assert sorted(out.rglob("*")) == before
        assert striking.run(arguments, out).status == 0
        assert not (out / LOCK).exists()
        shutil.rmtree(out)


def test_a_finished_output_is_read_while_another_process_holds_it(
    striking: Server, commands: dict[str, Target], tmp_path: Path
) -> None:
    arguments, out = commands["labels initial"].at(tmp_path)
    assert striking.run(arguments, out).status == 0
    with alone(out):
        ending = striking.run(arguments, out)
        assert ending.status == 0
        assert any("finished before, kept" in line for line in ending.said)
        assert (out / LOCK).exists()


def test_of_two_at_once_one_works(
    striking: Server, commands: dict[str, Target], room: Path, tmp_path: Path
) -> None:
    arguments, out = commands["street render"].at(tmp_path)
    endings = striking.at_once(arguments, out)
    refused = [ending for ending in endings if ending.status]
    assert len(refused) < 2
    assert all(
        ending.is_sentence and "is at work here" in ending.errors[0] for ending in refused
    )  # both end well where one began when the other was done
    alone_out = commands["street render"].at(room / "alone")
    assert striking.run(*alone_out).status == 0
    assert not differences(room / "alone", tmp_path)


HOLDER = """
import os, sys, time
from pathlib import Path
from moduv.engine.files import atomic_path
from moduv.engine.lock import alone
folder = Path(sys.argv[1])
with alone(folder), atomic_path(folder / "a.json"):
    if os.fork() == 0:  # as a process that loads samples, which outlives a kill for a while
        time.sleep(60)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over_while_its_children_live(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, start_new_session=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    try:
        with pytest.raises(Exception, match=f"process {holder.pid} on "), alone(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with alone(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")
        assert not (tmp_path / LOCK).exists()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_the_next_writer_sweeps_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}12345678.json").write_text("of a killed process")
    (tmp_path / ".config-settings.json").write_text("of the user")
    other = "import sys; from moduv.engine.files import write_json; write_json(sys.argv[1], 2)"
    with atomic_path(tmp_path / "living.json") as living:
        living.write_text("1")
        command = [sys.executable, "-c", other, str(tmp_path / "other.json")]
        subprocess.run(command, check=True)
        assert living.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("living.json", "other.json", ".config-settings.json")
    }


def test_a_lock_that_the_disk_does_not_know_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    monkeypatch.setattr("fcntl.flock", unsupported)
    left = tmp_path / f"{TEMPORARY}12345678.json"
    left.touch()
    with alone(tmp_path):
        write_json(tmp_path / "a.json", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", left.name}


# --- several processes ------------------------------------------------------------------------------


def torchrun(link: Link, out: Path) -> list[str]:
    """The command of a link with two processes and another output."""
    launch = [sys.executable, "-m", "moduv.engine.launch", "--standalone", "--nproc_per_node=2"]
    words = [str(out) if word == str(link.out) else word for word in link.arguments]
    return [*launch, "-m", "moduv.commands.cli", *words]


def process_of_rank(launcher: int, rank: int) -> int:
    """The process of a rank among the launcher's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return int(child)
    raise AssertionError(children)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_round_that_loses_one_of_two_processes_ends_soon_and_resumes_exactly(
    striking: Server, room: Path, tmp_path: Path, rank: int
) -> None:
    prepare(room / "chain", striking, LINKS)
    link = next(one for one in chain(room / "chain") if one.out.name == "R1_M2M")
    longer = ["20" if before == "--config.loop.steps" else word for before, word in zip(
        ["", *link.arguments], link.arguments, strict=False)]  # fmt: skip
    link = Link(longer, link.out, link.half_done)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(torchrun(link, whole), env=environment, check=True, capture_output=True)
    launcher = subprocess.Popen(
        torchrun(link, cut), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    while not (cut / "train_state.pt").exists():
        assert launcher.poll() is None
        time.sleep(0.01)
    os.kill(process_of_rank(launcher.pid, rank), signal.SIGKILL)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert told.count("moduv: error") == 1
    assert "a process was ended by SIGKILL" in told
    assert "Traceback" not in told
    assert not (cut / "weights.pth").exists()
    subprocess.run(torchrun(link, cut), env=environment, check=True, capture_output=True)
    assert not differences(whole, cut)


@pytest.mark.slow
def test_processes_that_share_a_label_stage_share_its_lock(
    striking: Server, room: Path, tmp_path: Path
) -> None:
    prepare(room / "chain", striking)
    link = next(one for one in chain(room / "chain") if one.out.name == "L1_pseudo_labels")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        torchrun(link, tmp_path / "two"), env=environment, check=True, capture_output=True
    )
    assert not differences(link.out, tmp_path / "two")
