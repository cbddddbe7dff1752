"""How labels are made of measured flow."""

from __future__ import annotations

from dataclasses import dataclass

from moduv.engine.errors import InputError
from moduv.labels.evidence.noise import Noise


@dataclass(frozen=True)
class EvidenceConfig:
    """Thresholds of the evidence, in units of expected errors."""

    stages: tuple[float, ...] = (10.0, 4.0)
    """Of the statistic, falling: objects above each are found and taken out before the next."""
    gain: float = 1.5
    """By how many errors of a grey level measured flow must explain an object's neighbours better than ego flow, at
    its telling pixels: skies and bare walls have no flow that can be trusted."""
    noise: Noise | None = None
    """Expected errors; None: estimated from the frames that are labelled."""
    raft: str = ""
    """File of torchvision's weights of RAFT, by which flow is measured then; empty: dense inverse search."""
    sample: int = 60
    """Frames of the split from which the expected errors are estimated."""

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not falling or self.stages[-1] <= 0:
            raise InputError(f"stages are {self.stages}; give falling thresholds above 0.")
        if self.sample < 1:
            raise InputError(f"sample is {self.sample}; choose 1 frame or more.")
