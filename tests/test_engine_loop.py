"""The training loop: runs that resume exactly, samples drawn evenly, processes that agree."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_world import Numbers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig, SampleStream, StepState, fit, learning_rate, spread


def test_gradients_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    def train_second(stale: float) -> Tensor:
        network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.5)
            parameter.grad = torch.full_like(parameter, stale)
        network[0].requires_grad_(False)
        config = LoopConfig(
            steps=2, batch_size=4, learning_rate=1.0, optimizer="sgd", clip_norm=0.1
        )

        def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
            return {"loss": network(batch).square().mean()}

        fit(network, step, Numbers(), config, tmp_path / f"{stale}", label="numbers")
        return network[1].weight.detach()

    assert torch.equal(train_second(0.0), train_second(100.0))


def train(run_dir: Path, config: LoopConfig, *, stop_at: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        if state.step == stop_at:
            raise KeyboardInterrupt
        noise = torch.randn(len(batch), 1, generator=state.generator)
        return {"loss": (network(batch) - noise).square().mean()}

    fit(network, step, Numbers(), config, run_dir, label="numbers")
    return network


CONFIG = LoopConfig(
    steps=12, batch_size=4, learning_rate=1e-2, halve_every=5, save_every=5, log_every=3
)


@pytest.mark.parametrize("stop_at", [3, 5, 8, 11])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", CONFIG, stop_at=stop_at)
    resumed = train(tmp_path / "killed", CONFIG)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    losses = [
        [e["loss"] for e in read_log(tmp_path / run / "log.jsonl")] for run in ("whole", "killed")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_no_more_workers_than_cores_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("moduv.engine.loop.cores", lambda: 1)
    many = train(tmp_path / "many", dataclasses.replace(CONFIG, workers=64))
    none = train(tmp_path / "none", CONFIG)
    assert torch.equal(many[0].weight, none[0].weight)
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, CONFIG)
    with pytest.raises(InputError, match="other settings"):
        train(tmp_path, LoopConfig(steps=12, batch_size=3, learning_rate=1e-2))


def test_accumulated_gradients_are_averaged(tmp_path: Path) -> None:
    def weights(batch_size: int, accumulate: int) -> Tensor:
        network = nn.Linear(3, 1)
        nn.init.ones_(network.weight)
        nn.init.zeros_(network.bias)
        config = LoopConfig(
            steps=3,
            batch_size=batch_size,
            learning_rate=1e-3,
            accumulate=accumulate,
            optimizer="sgd",
        )

        def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
            return {"loss": network(batch).square().mean()}

        fit(network, step, Numbers(), config, tmp_path / f"{accumulate}", label="numbers")
        return network.weight.detach()

    assert torch.allclose(weights(6, 1), weights(2, 3), rtol=1e-5)


def test_loss_that_is_not_finite_stops_with_a_sentence(tmp_path: Path) -> None:
    network = nn.Linear(3, 1)

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        return {"loss": network(batch).sum() * float("nan")}

    with pytest.raises(InputError, match="numbers: the loss is not finite at step 0"):
        fit(network, step, Numbers(), CONFIG, tmp_path, label="numbers")


def test_every_sample_is_seen_once_an_epoch() -> None:
    config = LoopConfig(steps=11, batch_size=3, learning_rate=1.0)
    drawn = [index for batch in SampleStream(11, config) for index, _ in batch]
    for epoch in range(3):
        assert sorted(drawn[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    resumed = list(SampleStream(11, config, start=4))
    assert resumed == list(SampleStream(11, config))[4:]


def test_short_epochs_draw_from_the_whole_set_anew() -> None:
    config = LoopConfig(steps=400, batch_size=1, learning_rate=1.0, epoch=4)
    drawn = [index for batch in SampleStream(11, config) for index, _ in batch]
    epochs = [drawn[4 * epoch : 4 * epoch + 4] for epoch in range(100)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert set(drawn) == set(range(11))
    # Some frames of an epoch come again in the next one before others were seen.
    assert any(set(first) & set(second) for first, second in itertools.pairwise(epochs))


@given(batch=st.integers(1, 16), processes=st.integers(1, 8), steps=st.integers(50, 10_000))
def test_spread_batches_are_shared_evenly_over_the_same_samples(
    batch: int, processes: int, steps: int
) -> None:
    given_loop = LoopConfig(
        steps=steps, batch_size=batch, learning_rate=1e-3, halve_every=steps // 2
    )
    loop = spread(given_loop, processes)
    assert loop.batch_size % processes == 0
    assert 0 <= loop.batch_size - batch < processes
    assert abs(loop.steps * loop.batch_size - steps * batch) <= loop.batch_size / 2
    assert loop.learning_rate == pytest.approx(1e-3 * (loop.batch_size / batch) ** 0.5)
    if batch % processes == 0:
        assert loop == given_loop


def test_learning_rate_follows_the_schedule() -> None:
    config = LoopConfig(steps=40, batch_size=1, learning_rate=1.0, halve_every=10, warmup=4)
    assert [learning_rate(config, step) for step in (0, 3, 9, 10, 25)] == [0.25, 1, 1, 0.5, 0.25]


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from torch import nn
sys.path.insert(0, sys.argv[2])
from engine_world import Numbers
from moduv.engine import distributed
from moduv.engine.loop import LoopConfig, fit
distributed.start()
network = nn.Linear(3, 1)
nn.init.ones_(network.weight); nn.init.zeros_(network.bias)
config = LoopConfig(steps=4, batch_size=4, learning_rate=0.05, optimizer="sgd")
fit(network, lambda batch, state: {"loss": network(batch).square().mean()}, Numbers(), config,
    Path(sys.argv[1]), label="numbers")
distributed.stop()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = [sys.executable, str(script), str(tmp_path / "one"), here]
    two = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
        *(str(script), str(tmp_path / "two"), here),
    ]
    for command in (one, two):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    states = [checkpoint.load(tmp_path / run / "train_state.pt") for run in ("one", "two")]
    weights = [state["modules"]["weight"] for state in states]
    assert not torch.equal(weights[0], torch.ones(1, 3))
    assert torch.allclose(*weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("batch_size", 0), ("accumulate", 0), ("log_every", 0), ("save_every", -1)),
        *(("workers", -1), ("seed", -1), ("learning_rate", -0.1), ("weight_decay", -1.0)),
    ],
)
def test_trainings_that_cannot_be_are_one_sentence(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{name} is {value}; use [01] or more\.$"):
        LoopConfig(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, name: value})
