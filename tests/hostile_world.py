"""What the tests of hostile input share: damaged files, and the one sentence that must come of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from moduv.engine.errors import InputError
from moduv.engine.loop import LoopConfig, StepState, fit

WORDS = 600
"""Characters that one sentence may have beside the path."""
quick = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sentence(work: Callable[[], object], path: Path) -> str:
    """The sentence that refuses a file; nothing where it is read. Any other error fails the test."""
    try:
        work()
    except InputError as error:
        told = str(error)
        assert str(path) in told
        assert told.endswith(".")
        assert "\n" not in told
        assert len(told) < len(str(path)) + WORDS
        assert "delete" not in told
        return told
    return ""


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file with a few other bytes, cut off, or anything at all."""
    places = st.integers(0, len(whole) - 1)
    changed = st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)
    return st.one_of(
        st.binary(max_size=200),
        places.map(lambda end: whole[:end]),
        changed.map(lambda spots: bytes(spots.get(i, byte) for i, byte in enumerate(whole))),
    )


# --- training states --------------------------------------------------------------------------------


class Ones:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return torch.ones(3)

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)


def resume(run: Path, optimizer: str = "adam", stop_at: int | None = None) -> nn.Module:
    """Train a line for 6 steps, from the state in a folder if there is one."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        if state.step == stop_at:
            raise KeyboardInterrupt
        return {"loss": network(batch).square().mean()}

    config = LoopConfig(
        steps=6, batch_size=2, learning_rate=1e-2, optimizer=optimizer, save_every=4, log_every=3
    )
    fit(network, step, Ones(), config, run, label="line")
    return network
