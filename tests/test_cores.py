"""Work on several cores: whose failure is reported, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moduv.engine import cores, hardware
from moduv.engine.cores import processes_for, run_on_cores
from moduv.engine.errors import InputError


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "memory", lambda: 8.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def members(out: Path, count: int = 2) -> list[int]:
    """The processes that took part, once all have."""
    for _ in range(600):
        found = [path.read_text() for path in out.glob("* of *")]
        if len(found) == count and all(found):
            return [int(text) for text in found]
        time.sleep(0.1)
    raise AssertionError(f"only {found} of {count} came")


@pytest.mark.usefixtures("two_cores")
def test_processes_share_batches_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes_for((8, 4)) == (2, 1)
    assert processes_for(()) == (2, 1)
    assert processes_for((8, 3)) == (1, 2)
    monkeypatch.setattr(hardware, "cores", lambda: 12)
    monkeypatch.setattr(hardware, "memory", lambda: 32.0)
    torch.set_num_threads(12)
    assert processes_for((8,)) == (4, 3)
    assert processes_for(()) == (6, 2)
    assert processes_for((4, 8)) == (4, 3)
    assert processes_for((3,)) == (3, 4)
    monkeypatch.setattr(hardware, "memory", lambda: 7.7)
    assert processes_for((8,)) == (2, 6)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of a cluster's job
    assert processes_for((8,)) == (2, 6)
    monkeypatch.setenv("RANK", "0")
    assert processes_for((8,)) == (1, 12)


@pytest.mark.usefixtures("two_cores")
def test_a_function_runs_on_every_core_and_the_group_is_left(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_on_cores("cores_jobs:total_of_ranks", {"out": tmp_path}) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]
    assert torch.get_num_threads() == 2
    assert not torch.distributed.is_initialized()


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("rank", [-1, 0, 1])
def test_the_sentence_of_any_process_arrives(
    tmp_path: Path, rank: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="is no good"):
        run_on_cores("cores_jobs:refuse", {"out": tmp_path, "rank": rank})
    assert not any(alive(process) for process in members(tmp_path) if process != os.getpid())
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("job", ["die", "lose"])
def test_a_process_that_is_killed_is_reported(tmp_path: Path, job: str) -> None:
    with pytest.raises(InputError, match="ended by SIGKILL, perhaps because memory ran out"):
        run_on_cores(f"cores_jobs:{job}", {"out": tmp_path})


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("folder", ["short", "long" * 40])
def test_ranks_gather_over_sockets_or_where_their_paths_are_too_long_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
    assert run_on_cores("cores_jobs:gather", {"count": 300_000}) == 2.0


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("counts", [[1, 3], [2, 0], [0, 0]])
def test_ranks_gather_rows_of_other_numbers(counts: list[int]) -> None:
    found = run_on_cores("cores_jobs:gather_rows", {"counts": counts})
    assert found == [[1.0, 1.0]] * counts[0] + [[2.0, 2.0]] * counts[1]


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_is_killed_before_it_joins_is_not_waited_for() -> None:
    with pytest.raises(InputError, match="ended by SIGKILL, perhaps because memory ran out"):
        run_on_cores("cores_dead:work", {})


@pytest.mark.usefixtures("two_cores")
def test_files_of_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert run_on_cores("cores_jobs:total_of_ranks", {"out": tmp_path}) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_first(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys, torch\nfrom pathlib import Path\nfrom moduv.engine import cores, hardware\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "hardware.cores = lambda: 2\ntorch.set_num_threads(2)\n"
        "cores.run_on_cores('cores_jobs:wait', {'out': Path(sys.argv[1])})\n"
    )
    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(cores.__file__).parents[2]), *sys.path]
    )
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("WORLD_SIZE", None)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
    ) as first:
        everyone = members(tmp_path)
        first.send_signal(number)
        first.wait(timeout=60)
    for _ in range(300):
        if not any(map(alive, everyone)):
            return
        time.sleep(0.1)
    raise AssertionError(f"{everyone}: still there")
