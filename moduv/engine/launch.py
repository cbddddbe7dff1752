"""`torchrun` whose failures are those of its processes: `python -m moduv.engine.launch --nproc_per_node 4 -m moduv.commands.cli …`.

The process in which something goes wrong says so itself. torchrun would add a report and a traceback of its
own and leave with 1 whatever happened.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable


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
