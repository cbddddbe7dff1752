"""Work in threads and in processes, in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from moduv.engine.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def process_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int = 1
) -> Iterator[Result]:
    """`map` in processes, results in the order of the items; one worker is this process.

    The others start afresh instead of as copies of this one: what a decoder or a network has left in
    memory may need threads that a copy does not have, and would wait for them for ever.

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
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context(method)) as pool:
            yield from pool.map(function, items, chunksize=chunk)
    except BrokenProcessPool:
        raise InputError(
            "a process was ended, perhaps because memory ran out; use fewer workers, and the same command "
            "continues where it was."
        ) from None
