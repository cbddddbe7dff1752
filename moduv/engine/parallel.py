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
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from moduv.engine.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
LEAVING = 3.0
"""Seconds for which a process may tidy up."""


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


class _Worker:
    """How a process of a pool ends: with its parent, in order, and without files half written.

    An interrupt from a terminal reaches the whole group of processes. Only the parent heeds it: the exception
    of a worker would otherwise reach the parent as a result, and hide that it was interrupted. The parent then
    closes a connection, and its workers drop what they do; so they do when the parent is gone.
    """

    def __init__(self) -> None:
        self.leaving = self.working = self.dropped = self.ended = False

    def start(self, parent: Connection) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heed)
        threading.Thread(target=self._watch, args=(parent,), daemon=True).start()

    def run(self, function: Callable[[Item], Result], item: Item) -> Result:
        self.working = True
        try:
            if self.leaving:
                sys.exit(1)
            return function(item)
        finally:
            self.working = False
            if self.ended:
                os._exit(1)

    def _watch(self, parent: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv_bytes()
        self.leaving = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(LEAVING)
        os._exit(1)

    def _heed(self, number: int, _: object) -> None:
        if number == signal.SIGTERM:  # from the pool, when another worker is gone
            self.ended = True
            if not self.working:
                os._exit(1)
        # Once: a second exception could strike while files are taken away.
        if self.working and not self.dropped and (self.leaving or self.ended):
            self.dropped = True
            sys.exit(1)


_worker = _Worker()
"""This process, where it is a worker."""


def _start(parent: Connection) -> None:
    _worker.start(parent)


def _run(function: Callable[[Item], Result], item: Item) -> Result:
    return _worker.run(function, item)


def process_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int = 1
) -> Iterator[Result]:
    """`map` in processes, results in the order of the items; one worker is this process.

    The others start afresh instead of as copies of this one: what a decoder or a network has left in
    memory may need threads that a copy does not have, and would wait for them for ever. They end when this
    one does, whatever ended it, and when it is interrupted or its results are no longer wanted.

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
        with theirs, ours, ProcessPoolExecutor(workers, context, _start, (theirs,)) as pool:
            try:
                yield from pool.map(partial(_run, function), items, chunksize=chunk)
            except (KeyboardInterrupt, GeneratorExit):
                ours.close()
                raise
    except BrokenProcessPool:
        raise InputError(
            "a process was ended, perhaps because memory ran out; use fewer workers, and the same command "
            "continues where it was."
        ) from None
