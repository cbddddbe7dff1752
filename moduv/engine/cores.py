"""A function on all cores of a machine without GPUs: processes, each with its share of the threads.

Threads of one process meet after every operation; where another program takes a core they wait for each
other most of the time. Processes meet once a step.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moduv.engine.errors import InputError, is_lost, refusal
from moduv.engine.launch import is_launched

MOST_PROCESSES = 8
MEMORY = 3.0
"""GiB that a process may need: libraries, networks, and its batches or its share of one."""
SPINS = "1000"
"""Turns for which a thread of GNU OpenMP waits awake; a million would starve beside other programs."""


def load_function(path: str) -> Callable[..., Any]:
    """Import `module:function`."""
    module, function = path.split(":")
    return getattr(importlib.import_module(module), function)


def processes_for(batch_sizes: Sequence[int]) -> tuple[int, int]:
    """Processes that share batches of these sizes evenly, and threads of each.

    A single process under torchrun, which has chosen already, and where there are GPUs.
    `OMP_NUM_THREADS` limits the cores, and memory the processes.
    """
    import torch

    from moduv.engine.hardware import cores, memory

    most = min(cores(), torch.get_num_threads())
    if is_launched() or torch.cuda.is_available():
        return 1, most
    room = int((memory() or MEMORY * MOST_PROCESSES) // MEMORY)
    counts = range(1, max(1, min(most, MOST_PROCESSES, room)) + 1)
    even = [n for n in counts if all(size % n == 0 for size in batch_sizes)]
    count = max(even, key=lambda n: (most // n * n, n))
    return count, most // count


def run_on_cores(path: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function in this process and, on a CPU with several cores, in others that share its work.

    Args:
        path: `module:function`, whose work the ranks of `moduv.engine.distributed` share.
        arguments: of the function. The batches that they share are those of `config.batch_sizes`.

    Returns:
        What the function returns in this process.

    Raises:
        InputError: of any of the processes.
    """
    sizes = getattr(arguments.get("config"), "batch_sizes", ())
    count, threads = processes_for(sizes)
    if count == 1:
        return load_function(path)(**arguments)
    with tempfile.TemporaryDirectory(prefix="moduv-") as meeting:
        others = [_start(Path(meeting), rank, count, threads) for rank in range(1, count)]
        try:
            job = pickle.dumps((path, dict(arguments)))
            for other in others:
                _hand_over(other, job)
            _wait_for(Path(meeting), others)
            with _member(Path(meeting), 0, count, threads):
                result = load_function(path)(**arguments)
            codes = [other.wait() for other in others]
            if any(codes):
                raise RuntimeError("the connection to another process was lost")
            return result
        except InputError:
            raise
        except Exception as error:
            # What another process refuses or dies of arrives here as a lost connection.
            sentence = _failure(Path(meeting), others)
            if sentence is not None:
                raise InputError(sentence) from error
            for crashed in Path(meeting).glob("crashed-*") if is_lost(error) else ():
                print(crashed.read_text(), file=sys.stderr)
            raise
        finally:
            for other in others:
                _end(other)


def _start(meeting: Path, rank: int, count: int, threads: int) -> subprocess.Popen[bytes]:
    """Start a process that waits for its job; an interrupt of the terminal does not reach it."""
    paths = os.pathsep.join(path for path in sys.path if path)
    ranks = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": threads}
    environment = {**os.environ, "PYTHONPATH": paths} | {k: str(v) for k, v in ranks.items()}
    # `-m` would import from the current folder first, where the user's files may have any name.
    start = "import sys; sys.path[:] = filter(None, sys.path); import moduv.engine.cores as cores; cores.main()"
    command = [sys.executable, "-c", start, str(meeting)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def _hand_over(process: subprocess.Popen[bytes], job: bytes) -> None:
    """Send the job; the pipe stays open, and its end tells the process that this one is gone."""
    assert process.stdin is not None
    process.stdin.write(len(job).to_bytes(8, "big") + job)
    process.stdin.flush()


def _wait_for(meeting: Path, others: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all processes are about to join: the group would wait for one that has died."""
    while len(list(meeting.glob("ready-*"))) < len(others):
        if any(other.poll() is not None for other in others):
            raise RuntimeError("the connection to another process was lost")
        time.sleep(0.02)


@contextmanager
def _member(meeting: Path, rank: int, count: int, threads: int) -> Iterator[None]:
    """Be a rank of the group, with a share of the threads, for a while."""
    import torch
    import torch.distributed as dist

    from moduv.engine import distributed

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the processes are all here
    try:
        distributed.join(dist.FileStore(str(meeting / "store"), count), rank, count)
        if hasattr(socket, "AF_UNIX"):
            distributed.link(meeting)
        yield
    finally:
        distributed.stop()
        torch.set_num_threads(before)


def _failure(meeting: Path, others: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """Why another process ended, if one has."""
    for refused in sorted(meeting.glob("refused-*")):
        return refused.read_text(encoding="utf-8")
    for other in others:
        try:
            code = other.wait(timeout=2)
        except subprocess.TimeoutExpired:
            continue
        if code < 0:
            return (
                f"a process was ended by {signal.Signals(-code).name}, perhaps because memory ran out; "
                "the same command continues from the last saved state."
            )
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()


def main() -> None:
    """Do the job of one of the other processes."""
    meeting, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    size = int.from_bytes(sys.stdin.buffer.read(8), "big")
    job = sys.stdin.buffer.read(size)
    if not size or len(job) < size:  # the first process is gone
        sys.exit(1)
    path, arguments = pickle.loads(job)

    def leave_with_the_first() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=leave_with_the_first, daemon=True).start()
    count, threads = int(os.environ["WORLD_SIZE"]), int(os.environ["OMP_NUM_THREADS"])
    function = load_function(path)
    (meeting / f"ready-{rank}").touch()
    with _member(meeting, rank, count, threads):
        try:
            function(**arguments)
        except Exception as error:
            # Written before the others notice that this process has left.
            _record(error, meeting, rank)
            sys.exit(1)


def _record(error: Exception, meeting: Path, rank: int) -> None:
    """Leave the sentence of an error that the user can fix, or the traceback."""
    sentence = str(error) if isinstance(error, InputError) else None
    if isinstance(error, OSError):
        sentence = refusal(error)
    kind = "crashed" if sentence is None else "refused"
    text = traceback.format_exc() if sentence is None else sentence
    (meeting / f"{kind}-{rank}").write_text(text, encoding="utf-8")
