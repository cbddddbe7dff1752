"""Settings and samples that the tests of the engine share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moduv.engine.config import speed_only


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


class Numbers:
    """Samples whose noise depends on the sample seed alone."""

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        index, seed = item
        noise = torch.randn(3, generator=torch.Generator().manual_seed(seed))
        return noise + index

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)


@dataclass(frozen=True)
class Labour:
    rate: float
    workers: int = speed_only(2)
