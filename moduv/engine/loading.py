"""Samples that worker processes read: bad input arrives as the sentence it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset

from moduv.engine.errors import InputError


class ErrorsAsSamples(Dataset):
    """A data set for `DataLoader` whose `InputError`s travel as samples; `raise_errors` raises them.

    An exception that leaves a worker process arrives with the worker's traceback in its message.
    """

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self._collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.samples[item]
        except InputError as error:
            return error

    def collate(self, samples: list[Any]) -> Any:
        """The batch of some samples, or the first of their errors."""
        error = next((sample for sample in samples if isinstance(sample, InputError)), None)
        return self._collate(samples) if error is None else error


def raise_errors(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of `ErrorsAsSamples`. Raises InputError where a sample did, or a worker was killed."""
    remaining = iter(batches)
    while True:
        try:
            batch = next(remaining)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                "a process that prepares samples was ended, perhaps because memory ran out; use fewer "
                "workers, and the same command continues from the last saved state."
            ) from error
        if isinstance(batch, InputError):
            raise batch
        yield batch
