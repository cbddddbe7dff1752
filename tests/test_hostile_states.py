"""Training states and logs of any content are continued, read up to a broken line, or refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_world import damaged, quick, resume, sentence
from hypothesis import given

from moduv.engine import checkpoint
from moduv.engine.log import read_log


def change(**values: object) -> Callable[[dict], object]:
    """A state with other values; those that are None are taken out."""
    return lambda state: {k: v for k, v in {**state, **values}.items() if v is not None}


def change_moments(**values: object) -> Callable[[dict], object]:
    def changed(state: dict) -> dict:
        moments = {n: {**tensors, **values} for n, tensors in state["optimizer"]["state"].items()}
        kept = {n: {k: v for k, v in m.items() if v is not None} for n, m in moments.items()}
        return {**state, "optimizer": {**state["optimizer"], "state": kept}}

    return changed


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *(
            (change(**{key: None}), f"lacks '{key}'")
            for key in ("step", "modules", "optimizer", "sums")
        ),
        (change(config=None), "other settings"),
        (change(optimizer={}), "'optimizer' is empty"),
        (change(optimizer=[]), "'optimizer' is empty"),
        (change(optimizer={"state": {}, "param_groups": []}), "'optimizer' is empty"),
        (change(optimizer={"state": {0: []}}), "another one's"),
        (change(optimizer={"state": {"a": {}}}), "another one's"),
        (change(optimizer={"state": {9: {}}}), "another one's"),
        (change_moments(exp_avg=None, momentum_buffer=None), "another one's"),
        (change_moments(surprise=torch.ones(1)), "another one's"),
        (change_moments(exp_avg=torch.ones(7), momentum_buffer=torch.ones(7)), "another"),
        (change_moments(exp_avg=3, momentum_buffer=3), "no flat state dict|another one's"),
        (change(step="5"), "its step is '5' of 6"),
        (change(step=-1), "its step is -1 of 6"),
        (change(step=0), "its step is 0 of 6"),
        (change(step=7), "its step is 7 of 6"),
        (change(step=9999), "its step is 9999 of 6"),
        (change(step=4.0), "its step is 4.0 of 6"),
        (change(step=True), "its step is True of 6"),
        (change(step=torch.tensor(4)), "its step is tensor"),
        (change(step=[4]), "its step is"),
        (change(sums=[1]), "'sums' are no finite numbers"),
        (change(sums={"loss": "much"}), "'sums' are no finite numbers"),
        (change(sums={"loss": float("nan")}), "'sums' are no finite numbers"),
        (change(sums={1: 1.0}), "'sums' are no finite numbers"),
        (change(modules={}), "2 missing"),
        (change(modules=[1]), "no flat state dict"),
        (
            change(modules={"weight": torch.full((1, 3), torch.nan), "bias": torch.ones(1)}),
            "finite",
        ),
        (lambda state: [state], "other settings"),
        (lambda state: None, "other settings"),
    ],
)
def test_a_state_of_other_content_is_refused(
    tmp_path: Path, changed: Callable[[dict], object], words: str, optimizer: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, optimizer, stop_at=5)
    path = tmp_path / "train_state.pt"
    checkpoint.save(path, changed(checkpoint.load(path)))
    before = path.read_bytes()
    assert re.search(words, sentence(lambda: resume(tmp_path, optimizer), path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_whole_state_goes_on_as_if_nothing_had_happened(tmp_path: Path, optimizer: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "killed", optimizer, stop_at=5)
    resumed, whole = (resume(tmp_path / name, optimizer) for name in ("killed", "whole"))
    assert torch.equal(resumed.weight, whole.weight)


def test_any_bytes_as_state(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, stop_at=5)
    path = tmp_path / "train_state.pt"

    @quick
    @given(damaged(path.read_bytes()))
    def refused_or_resumed(content: bytes) -> None:
        path.write_bytes(content)
        sentence(lambda: resume(tmp_path), path)

    refused_or_resumed()


@pytest.mark.parametrize(
    "line", ["7", "[1]", "{}", '{"step": "a"}', "[" * 99_999, "9" * 5000, "\udcff"]
)
def test_a_log_is_read_up_to_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'.encode(errors="surrogateescape"))
    assert read_log(path) == [{"step": 1}]
