"""`torchrun` whose failures are those of its processes: `python -m moduv.engine.launch --nproc_per_node 4 -m moduv.commands.cli …`.

The process in which something goes wrong says so itself. torchrun would add a report and a traceback of its
own and leave with 1 whatever happened.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable

from moduv.engine.errors import InputError


def is_launched() -> bool:
    """Whether torchrun started this process; a cluster's job may set WORLD_SIZE or RANK alone, or empty."""
    return all(os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK"))


def processes() -> int:
    """How many processes torchrun started, this one included; 1 without it.

    Raises InputError when they are no numbers, or the rank is none of the processes'.
    """
    if not is_launched():
        return 1
    size, rank = told_number("WORLD_SIZE"), told_number("RANK")
    if rank >= size:
        raise InputError(
            f"RANK is {rank} and WORLD_SIZE {size} in the environment; unset both or use torchrun."
        )
    return size


def told_number(name: str) -> int:
    """A number that torchrun sets, 0 where it is empty. Raises InputError when it is something else."""
    told = os.environ.get(name, "").strip() or "0"
    if not (told.isascii() and told.isdigit() and len(told) < 10):
        raise InputError(
            f"{name} is {told!r:.80} in the environment, which is no number; unset it or use torchrun."
        )
    return int(told)


def launch(arguments: list[str]) -> int:
    """Run torchrun with its own options; the exit code is that of the processes."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)
    try:
        run.main(arguments)
    except ChildFailedError as error:
        return exit_code(failure.exitcode for failure in error.failures.values())
    except SignalException as error:
        return 128 + error.sigval
    return 0


def exit_code(codes: Iterable[int]) -> int:
    """One exit code for those of the processes that failed; says when one of them could not say it."""
    codes = list(codes)
    # SIGTERM is what torchrun ends the others with, once one has failed.
    killed = [-code for code in codes if code < 0 and code != -signal.SIGTERM]
    for number in killed[:1]:
        print(
            f"moduv: error: a process was ended by {signal.Signals(number).name}, perhaps because memory "
            "ran out; the same command continues from the last saved state.",
            file=sys.stderr,
        )
    return max([*codes, *(128 + number for number in killed), 1])


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
