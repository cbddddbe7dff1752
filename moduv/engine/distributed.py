"""Processes of one run: ranks under torchrun, shards of frames, averaged gradients."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moduv.engine.errors import InputError
from moduv.engine.files import reason_of
from moduv.engine.launch import processes, told_number

Item = TypeVar("Item")

LEAVING = 60.0
"""Seconds for which a process that is done waits for the others."""

_store: dist.Store | None = None
"""What the processes have in common before and after they are a group."""
_links: dict[int, Connection] = {}
"""Sockets to the other processes of one machine, by rank."""
LONGEST_ADDRESS = 100
"""Bytes in the path of a Unix socket that every system allows."""


def start() -> None:
    """Join the process group that torchrun describes; do nothing in a single process.

    Raises InputError when there are GPUs, but not one for each process, and when the environment does not
    tell how to meet.
    """
    if processes() == 1 or dist.is_initialized():
        return
    try:
        store, own, size = next(dist.rendezvous("env://"))
    except (ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"the processes of WORLD_SIZE and RANK cannot meet ({reason_of(error)}); unset both or use torchrun."
        ) from None
    has_gpus = torch.cuda.is_available()
    if has_gpus and device().index >= torch.cuda.device_count():
        raise InputError(
            f"{told_number('LOCAL_WORLD_SIZE') or size} processes but {torch.cuda.device_count()} GPUs; "
            "start no more processes than there are GPUs."
        )
    join(store, own, size)
    if has_gpus:
        torch.cuda.set_device(device())


def join(store: dist.Store, rank: int, size: int) -> None:
    """Join the process group of `size` processes that meet in `store`."""
    global _store
    _store = store
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    group = dist.PrefixStore("group", store)
    # Shares of frames may take hours more for one process than for another.
    dist.init_process_group(
        backend, store=group, rank=rank, world_size=size, timeout=timedelta(days=1)
    )


def link(folder: Path) -> None:
    """Connect the processes of one machine by sockets that lie in a folder; every rank must call it.

    A message over them takes some ten microseconds, one of gloo a millisecond.
    """
    addresses = [str(folder / f"rank-{rank}") for rank in range(world_size())]
    if max(len(os.fsencode(address)) for address in addresses) > LONGEST_ADDRESS:
        return
    with Listener(addresses[rank()], "AF_UNIX", backlog=world_size()) as listener:
        barrier()  # all listen
        for other in range(rank()):
            _links[other] = Client(addresses[other], "AF_UNIX")
            _links[other].send_bytes(bytes([rank()]))
        for _ in range(rank() + 1, world_size()):
            connection = listener.accept()
            _links[connection.recv_bytes()[0]] = connection


def first_to_fail() -> bool:
    """Check whether this process is the first to fail; call it once, on failure."""
    if _store is None:
        return True
    try:
        return _store.add("failed", 1) == 1
    except RuntimeError:  # gone with the process that kept it
        return True


def stop() -> None:
    """Leave the process group, if any; after work that went well, together.

    The first to close its connections could otherwise take from another the end of the last barrier.
    """
    global _store
    store, _store = _store, None
    for rank_of_other in list(_links):
        _links.pop(rank_of_other).close()
    if not dist.is_initialized():
        return
    if store is not None and sys.exc_info()[0] is None:
        with contextlib.suppress(RuntimeError):  # gone with the process that kept it
            store.add("left", 1)
            until = time.monotonic() + LEAVING
            while store.add("left", 0) < world_size() and time.monotonic() < until:
                time.sleep(0.01)
    dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def shard(items: Sequence[Item]) -> list[Item]:
    """This rank's share: every world-size-th item, so that shards differ by one item at most."""
    return list(items[rank() :: world_size()])


def unfinished(
    items: Sequence[Item], batch_size: int, finished: Callable[[Item], bool]
) -> list[Item]:
    """This rank's batches of consecutive items that are not all finished, one after the other.

    A batch that an interrupted run has begun is done again as a whole: what shares a batch shows in the
    last bits of a network's output, so batches depend on the items alone.

    Raises InputError for a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; use at least 1.")
    starts = range(0, len(items), batch_size)
    batches = shard([items[start : start + batch_size] for start in starts])
    return [item for batch in batches if not all(map(finished, batch)) for item in batch]


def average(values: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, without gradient; every rank must call it."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(values: Tensor) -> list[Tensor]:
    """The tensors of all ranks in their order, without gradient, on CPUs; every rank must call it.

    Raises RuntimeError when another process is gone.
    """
    if not _links:
        every = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(every, values.contiguous())
        return every
    own = values.detach().contiguous()
    message = own.reshape(-1).view(torch.uint8).numpy().data
    received = {rank(): own}
    try:
        for other in sorted(_links):
            # The lower rank speaks first: two that both speak could fill both their buffers.
            if rank() < other:
                _links[other].send_bytes(message)
            answer = bytearray(_links[other].recv_bytes())
            if rank() > other:
                _links[other].send_bytes(message)
            received[other] = torch.frombuffer(answer, dtype=own.dtype).view_as(own)
    except (EOFError, OSError) as error:
        raise RuntimeError("the connection to another process was lost") from error
    return [received[each] for each in sorted(received)]


def total(count: int) -> int:
    """The sum of a number over the ranks; every rank must call it."""
    share = average(torch.tensor(float(count), dtype=torch.float64, device=device()))
    return round(share.item() * world_size())


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (N, …) of all ranks, rank after rank, N of each its own; every rank must call it."""
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=device())
    counts = [int(one) for one in gather(count)]
    # Nothing at all cannot be sent.
    padded = torch.zeros((max(1, *counts), *rows.shape[1:]), dtype=rows.dtype, device=device())
    padded[: len(rows)] = rows
    parts = zip(gather(padded), counts, strict=True)
    return torch.cat([part[:n].cpu() for part, n in parts])


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the ranks in one message; a parameter unused on a rank counts as zero.

    Works with any step function, also one that calls a module's parts instead of its `forward`.
    """
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    offset = 0
    for parameter in trained:
        assert parameter.grad is not None
        count = parameter.numel()
        parameter.grad.copy_(flat[offset : offset + count].view_as(parameter))
        offset += count


def device() -> torch.device:
    """The device this rank computes on."""
    if torch.cuda.is_available():
        return torch.device("cuda", told_number("LOCAL_RANK") if processes() > 1 else 0)
    return torch.device("cpu")
