"""One training loop for every network here.

The stream of batches is a pure function of (seed, step): which samples a step sees, and every random
choice inside them. A run that is killed and started again therefore continues exactly, from the last
saved state, as if nothing had happened; two processes with half the batch see what one would.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from moduv.engine import checkpoint, distributed
from moduv.engine.config import at_least, decisive, difference, of_this_version, speed_only, to_dict
from moduv.engine.errors import InputError
from moduv.engine.journal import Journal, Tally, Watch
from moduv.engine.loading import ErrorsAsSamples, raise_errors
from moduv.engine.log import progress_bar, say
from moduv.engine.parallel import cores
from moduv.engine.resuming import state_problem


@dataclass(frozen=True)
class LoopConfig:
    """How a network is trained. Step counts are optimiser steps, `batch_size` is over all ranks."""

    steps: int
    batch_size: int
    learning_rate: float
    epoch: int = 0
    """Samples after which the set is shuffled anew, though some of it has not come yet; 0: all of it."""
    halve_every: int = 0
    """Steps between halvings of the learning rate; 0: never."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    cosine: bool = False
    """Decay the learning rate to 0 along a cosine, on top of the halvings."""
    optimizer: str = "adam"
    weight_decay: float = 0.0
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    clip_norm: float = 0.0
    """Largest norm of the gradient, of each group of parameters by itself; 0: not clipped."""
    bf16: bool = False
    workers: int = speed_only(0)
    """Processes that prepare samples, no more than there are cores; 0: this one."""
    save_every: int = speed_only(500)
    log_every: int = speed_only(50)
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch_size", "accumulate", "save_every", "log_every")
        at_least(0, self, "epoch", "halve_every", "warmup", "workers", "seed")
        at_least(0, self, "learning_rate", "weight_decay", "clip_norm")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a stage that trains in one loop."""

    loop: LoopConfig

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes of the batches that processes share."""
        return (self.loop.batch_size,)


@dataclass(frozen=True)
class StepState:
    """Where in the run a step stands, and its own source of randomness."""

    step: int
    total: int
    generator: torch.Generator

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total


class Sampled(Protocol):
    """A data set whose samples draw all randomness from the seed in their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> Any: ...

    def collate(self, samples: list[Any]) -> Any: ...


Step = Callable[[Any, StepState], dict[str, Tensor]]
Rate = Callable[["LoopConfig", int], float]
"""Learning rate of a loop at an optimiser step."""
ParameterGroups = Callable[[nn.Module], list[dict[str, Any]]]
"""Groups as torch's optimisers take them; `scale` is a group's multiple of the learning rate, by default 1."""


class SampleStream(Sampler[list[tuple[int, int]]]):
    """(index, sample seed) pairs per batch, drawn without replacement within an epoch."""

    def __init__(self, size: int, config: LoopConfig, *, start: int = 0) -> None:
        self.size, self.config, self.start = size, config, start

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.config.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(
            self.start * self.config.accumulate, self.config.steps * self.config.accumulate
        ):
            yield distributed.shard(self._batch(batch))

    def _batch(self, batch: int) -> list[tuple[int, int]]:
        first = batch * self.config.batch_size
        return [self._sample(position) for position in range(first, first + self.config.batch_size)]

    def _sample(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, min(self.size, self.config.epoch or self.size))
        seed = np.random.SeedSequence([self.config.seed, position]).generate_state(1)[0]
        return int(self._order(epoch)[offset]), int(seed)

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._epoch, self._permutation = epoch, rng.permutation(self.size)
        return self._permutation


def spread(config: LoopConfig, processes: int) -> LoopConfig:
    """A loop whose batches the processes share evenly, over the same number of samples.

    Batches grow to the next multiple of `processes`, lengths given in steps shrink by that factor, and
    the learning rate grows by its square root for Adam (Malladi et al. 2022), by itself for SGD.
    """
    batch = processes * math.ceil(config.batch_size / processes)
    factor = batch / config.batch_size
    if factor == 1:
        return config

    def shorter(steps: int) -> int:
        return max(1, round(steps / factor)) if steps else 0

    return replace(
        config,
        batch_size=batch,
        steps=shorter(config.steps),
        halve_every=shorter(config.halve_every),
        warmup=shorter(config.warmup),
        learning_rate=config.learning_rate * (factor if config.optimizer == "sgd" else factor**0.5),
    )


def learning_rate(config: LoopConfig, step: int) -> float:
    """The learning rate at an optimiser step: warm-up, halvings, cosine."""
    rate = config.learning_rate
    if config.warmup:
        rate *= min(1.0, (step + 1) / config.warmup)
    if config.halve_every:
        rate *= 0.5 ** (step // config.halve_every)
    if config.cosine:
        rate *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return rate


def make_optimizer(
    modules: nn.Module, config: LoopConfig, groups: ParameterGroups | None = None
) -> torch.optim.Optimizer:
    """The optimiser over the parameters that require gradients, or over groups of them."""
    trained = (parameter for parameter in modules.parameters() if parameter.requires_grad)
    parameters: Any = list(trained) if groups is None else groups(modules)
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
    raise InputError(f"optimizer {config.optimizer!r} is unknown; choose adam, adamw or sgd.")


def fit(
    modules: nn.Module,
    step: Step,
    dataset: Sampled,
    config: LoopConfig,
    run_dir: Path,
    *,
    label: str,
    watch: Watch | None = None,
    groups: ParameterGroups | None = None,
    rate: Rate = learning_rate,
) -> None:
    """Train the parameters of `modules` that require gradients; resume from `run_dir` if it can.

    Args:
        modules: what is trained and saved, in training mode afterwards.
        step: turns a batch into scalars; `"loss"` is minimised, the others are logged.
        dataset: samples asked by (index, sample seed).
        run_dir: receives `train_state.pt` (every `save_every` steps) and `log.jsonl`.
        label: what the progress bar calls the run.
        watch: looks at the networks now and then; it may leave them in evaluation mode.
        groups: settings of the optimiser that hold for some parameters only.
        rate: the schedule; by default that of `config`.

    Raises:
        InputError: for an empty data set, a watch at other steps than are logged, a state of other
            settings, or a loss that is not finite.
    """
    if len(dataset) == 0:
        raise InputError(f"{label}: the data set is empty; check the split file and the labels.")
    config = _spread(config, label)
    # Gradients that an earlier run left on frozen parameters would count in the norm that is clipped.
    modules.zero_grad(set_to_none=True)
    optimizer = make_optimizer(modules, config, groups)
    start, sums = _resume(modules, optimizer, config, run_dir)
    if start >= config.steps:
        return
    tally = Tally(label, next(modules.parameters()).device, sums)
    main = distributed.is_main()
    journal = Journal(run_dir, label, to_dict(config), start, watch) if main else None
    batches = _batches(dataset, config, start)
    options = {"desc": label, "unit": "step", "initial": start, "total": config.steps}
    bar = progress_bar(range(start, config.steps), **options, mininterval=5, disable=not main)
    modules.train()
    for index in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate(config, index) * group.get("scale", 1.0)
        tally.add(index, _optimise(modules, optimizer, step, batches, index, config))
        done = index + 1
        logs = done % config.log_every == 0 or done == config.steps
        saves = done % config.save_every == 0 or done == config.steps
        if logs or saves:
            tally.check()
        if logs:
            means = tally.means()
            if journal is not None:
                journal.write(done, rate(config, index), means)
                modules.train()
                bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
        if saves:
            _save(modules, optimizer, config, run_dir, done, tally.values())
    if journal is not None:
        journal.finish()


def _spread(config: LoopConfig, label: str) -> LoopConfig:
    """Adapt the loop to the number of processes, and report changes."""
    shared = spread(config, distributed.world_size())
    if shared != config:
        say(
            f"  {label}: {distributed.world_size()} processes share batches of {shared.batch_size} instead of "
            f"{config.batch_size}: {shared.steps} steps, learning rate {shared.learning_rate:.2g}"
        )
    return shared


def _batches(dataset: Sampled, config: LoopConfig, start: int) -> Iterator[Any]:
    """This process's batches from a step on; loading begins at once.

    A loader's iterator draws from torch's source of randomness, which every step seeds anew.
    """
    samples = ErrorsAsSamples(dataset, dataset.collate)
    if config.workers:
        # They are copies of this process, and may not clear away what needs threads, such as decoders.
        gc.collect()
    loader: DataLoader = DataLoader(
        samples,
        batch_sampler=SampleStream(len(dataset), config, start=start),
        collate_fn=samples.collate,
        num_workers=min(config.workers, cores()),
        pin_memory=torch.cuda.is_available(),
    )
    return raise_errors(iter(loader))


def _optimise(
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Step,
    batches: Iterator[Any],
    index: int,
    config: LoopConfig,
) -> dict[str, Tensor]:
    """One optimiser step over `accumulate` batches; returns the mean of every logged term."""
    optimizer.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    device = next(modules.parameters()).device
    for part in range(config.accumulate):
        state = StepState(index, config.steps, _generator(config.seed, index, part, device))
        # Layers that draw their own randomness (drop path, proposal sampling) follow the step too.
        torch.manual_seed(_seed(config.seed, index, part))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            terms = step(next(batches), state)
        (terms["loss"] / config.accumulate).backward()
        for name, value in terms.items():
            share = value.detach() / config.accumulate
            means[name] = means[name] + share if name in means else share
    distributed.average_gradients(modules.parameters())
    if config.clip_norm:
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], config.clip_norm)
    optimizer.step()
    return means


def _seed(seed: int, step: int, part: int) -> int:
    sequence = np.random.SeedSequence([seed, step, part, distributed.rank()])
    return int(sequence.generate_state(1)[0])


def _generator(seed: int, step: int, part: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(_seed(seed, step, part))


def _save(
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    run_dir: Path,
    step: int,
    sums: dict[str, float],
) -> None:
    if distributed.is_main():
        state = {
            "step": step,
            "modules": modules.state_dict(),
            "optimizer": optimizer.state_dict(),
            "config": decisive(config),
            "sums": sums,
            "processes": distributed.world_size(),
        }
        checkpoint.save(run_dir / "train_state.pt", state)
    distributed.barrier()


def _resume(
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    run_dir: Path,
) -> tuple[int, dict[str, float]]:
    path = run_dir / "train_state.pt"
    if not path.is_file():
        return 0, {}
    state = checkpoint.load(path)
    found = state.get("config") if isinstance(state, dict) else None
    # States of version 0.1 leave out settings that are zero.
    found = {"epoch": 0, **of_this_version(found)} if isinstance(found, dict) else found
    if found != decisive(config):
        raise InputError(
            f"{path}: belongs to a run with other settings ({difference(found, decisive(config))}), "
            "which also depend on the number of processes; continue as it was begun, or move "
            f"{run_dir} away to begin again."
        )
    problem = state_problem(state, optimizer, config.optimizer, config.steps)
    if problem:
        raise InputError(
            f"{path}: is no whole state of this training, {problem}; move {run_dir} away to begin again."
        )
    before = state.get("processes", distributed.world_size())
    if before != distributed.world_size():
        say(
            f"  {path}: {distributed.world_size()} processes go on with what {before!s:.20} began; sums are "
            "rounded otherwise, and some random numbers are others"
        )
    checkpoint.load_strict(modules, state["modules"], path)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
    return state["step"], state["sums"]
