"""Work in threads and in processes, in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

from moduv.engine.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
LEAVING = 30
"""Tenths of a second for which a process may tidy up."""


def cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bounded_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`map` in threads: results in the order of the items, at most 2 x `workers` items at a time.

    For compiled work that releases the interpreter's lock. Unlike an executor's own `map` it does not
    draw all items at once, so a stream of large ones fits into memory.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _end_with(parent: Connection) -> None:
    """Let this process end, without words, when its parent closes a connection or is gone."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv_bytes()
        # Files that are being written are taken away first; a job that is ended lets the next one begin.
        for _ in range(LEAVING):
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
        os._exit(1)

    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    threading.Thread(target=watch, daemon=True).start()


def process_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int = 1
) -> Iterator[Result]:
    """`map` in processes, results in the order of the items; one worker is this process.

    The others start afresh instead of as copies of this one: what a decoder or a network has left in
    memory may need threads that a copy does not have, and would wait for them for ever. They end when this
    one does, whatever ended it, and when it is interrupted.

    Args:
        function: importable, as are its results and the items.
        chunk: items that a process takes at once.

    Raises:
        InputError: when one of the processes was killed.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    theirs, ours = context.Pipe(duplex=False)
    try:
        with theirs, ours, ProcessPoolExecutor(workers, context, _end_with, (theirs,)) as pool:
            try:
                yield from pool.map(function, items, chunksize=chunk)
            except KeyboardInterrupt:
                ours.close()
                raise
    except BrokenProcessPool:
        raise InputError(
            "a process was ended, perhaps because memory ran out; use fewer workers, and the same command "
            "continues where it was."
        ) from None
