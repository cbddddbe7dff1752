"""A module that ends every process but the first when it is imported, as a lack of memory may."""

import os
import signal

if os.environ.get("RANK", "0") != "0":
    os.kill(os.getpid(), signal.SIGKILL)


def work() -> None:
    """Nothing that anyone comes to."""
