"""Triplets with the pseudo-depth of their centre frames; batches and networks on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moduv.depth.triplets import Triplets, find_triplets
from moduv.dynamic_depth.outputs import check_teacher
from moduv.dynamic_depth.pseudo import read_pseudo_depth
from moduv.engine import distributed
from moduv.engine.batch_norm import share_batch_norm
from moduv.engine.log import progress, say
from moduv.engine.loop import StepState
from moduv.engine.stages import read_counts
from moduv.frames.clip import FrameRef

Batch = dict[str, Tensor]


class MinedTriplets(Triplets):
    """`Triplets` whose samples also hold `pseudo_depth` (1, H, W), 0 where nothing moves.

    Args:
        pseudo: folder of the pseudo-depths; in frames without a file nothing moves.
    """

    def __init__(
        self, root: Path, frames: list[FrameRef], height: int, width: int, pseudo: Path, **more: Any
    ) -> None:
        super().__init__(root, frames, height, width, **more)
        self.pseudo = pseudo

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = item
        depth = self._pseudo_depth(self.frames[index])
        # `Triplets` mirrors by the first draw of a sample, too.
        if np.random.default_rng(seed).random() < self.flip:
            depth = np.ascontiguousarray(depth[:, ::-1])
        return {**super().__getitem__(item), "pseudo_depth": torch.from_numpy(depth)[None]}

    def _pseudo_depth(self, frame: FrameRef) -> np.ndarray:
        path, size = frame.file(self.pseudo, ".npz"), (self.height, self.width)
        if not path.is_file():
            return np.zeros(size, np.float32)
        # To the nearest pixel: there is no depth between an object and its background.
        return _nearest(read_pseudo_depth(path).rendered(), size)


def find_mined_triplets(
    data: Path,
    split: Path,
    pseudo: Path,
    weights: Sequence[Path],
    height: int,
    width: int,
    **more: Any,
) -> tuple[MinedTriplets, int]:
    """The triplets of a split with their pseudo-depth, and the number of moving objects.

    Args:
        data: folder of the segments.
        split: frames; those without both neighbours are left out and counted.
        pseudo: folder of `moduv depth pseudo`.
        weights: files or folders that identify the stage 1 that is trained further; pseudo-depth must be in its scale.
        height, width: size of the networks' input in pixels.
        more: options of `Triplets`.

    Raises:
        InputError: when no triplet is left, or pseudo-depth is not finished or of another stage 1.
    """
    frames, absent, edges = find_triplets(split, data)
    (objects,) = read_counts(pseudo, "objects")
    check_teacher(pseudo, weights)
    say(f"  {len(frames)} triplets, {objects} moving objects; left out: {edges + absent} frames")
    if not objects:
        say("  no object moves: depth stays as it is")
    return MinedTriplets(data, frames, height, width, pseudo, **more), objects


def on_device(
    step: Callable[[Batch, StepState], Batch],
) -> Callable[[Batch, StepState], Batch]:
    """A training step that first moves its batch to this process's device."""
    device = distributed.device()

    def moved(batch: Batch, state: StepState) -> Batch:
        return step({k: x.to(device, non_blocking=True) for k, x in batch.items()}, state)

    return moved


class Frames(Protocol):
    """A data set of one sample a frame, asked by (index, sample seed)."""

    frames: list[FrameRef]

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> Batch: ...

    def collate(self, samples: list[Batch]) -> Batch: ...


def frame_batches(
    data: Frames, batch_size: int, desc: str
) -> Iterator[tuple[list[FrameRef], Batch]]:
    """All frames of a data set in order, and their batches on this process's device; `desc` is shown as progress."""
    device = distributed.device()
    for start in progress(range(0, len(data), batch_size), desc=desc, unit="batch"):
        frames = data.frames[start : start + batch_size]
        samples = [data[start + number, 0] for number in range(len(frames))]
        yield frames, {key: x.to(device) for key, x in data.collate(samples).items()}


def to_train(model: nn.Module) -> None:
    """Move networks to this process's device; on CPUs, batch norm uses the statistics of all processes."""
    device = distributed.device()
    model.to(device)
    if device.type == "cpu":
        share_batch_norm(model)


def _nearest(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum((np.arange(to) + 0.5) * side / to, side - 1).astype(int)
        for to, side in zip(size, field.shape, strict=True)
    )
    return field[rows[:, None], columns]
