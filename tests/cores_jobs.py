"""What the processes of `test_cores.py` do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from moduv.engine import distributed
from moduv.engine.errors import InputError


def total_of_ranks(out: Path) -> int:
    """Leave a file a rank; the sum of their numbers, counted from 1."""
    (out / f"{distributed.rank()} of {distributed.world_size()}").write_text(str(os.getpid()))
    assert torch.get_num_threads() == 1
    return distributed.total(distributed.rank() + 1)


def refuse(out: Path, rank: int) -> None:
    """Refuse on one rank or, below 0, on all, while the others wait."""
    total_of_ranks(out)
    if rank in {-1, distributed.rank()}:
        raise InputError(f"{out}: is no good.")
    distributed.barrier()


def die(out: Path) -> None:
    total_of_ranks(out)
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def gather(count: int) -> float:
    """The sum of what the ranks gather: more than sockets hold at once, and a single number."""
    own = torch.arange(count, dtype=torch.float32) * (distributed.rank() + 1)
    every = distributed.gather(own)
    assert [int(values[1]) for values in every] == [
        rank + 1 for rank in range(distributed.world_size())
    ]
    assert all(values.shape == own.shape for values in every)
    (first, second) = distributed.gather(torch.tensor(distributed.rank() + 0.5))
    return float(first + second)


def gather_rows(counts: list[int]) -> list[list[float]]:
    """Rows of the ranks, of each another number."""
    rank = distributed.rank()
    return distributed.gather_rows(torch.full((counts[rank], 2), rank + 1.0)).tolist()


def lose(out: Path) -> None:
    """One rank is killed before it gathers."""
    total_of_ranks(out)
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.gather(torch.zeros(3))


def wait(out: Path) -> None:
    total_of_ranks(out)
    time.sleep(100)
