"""The plan of a run, stored beside it, and the display while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moduv.engine import distributed
from moduv.engine.files import read_json, write_json
from moduv.engine.log import RunProgress, run_progress, say
from moduv.runs.chains import ROUNDS

PLAN = "plan.json"
ORDER = ("frames", *(step.name for step in ROUNDS), "detections", "evaluation", "report")
"""The steps of a run as the plan lists them."""
LONG = 86400.0
"""A run that takes longer than this is warned of, seconds."""


@dataclass(frozen=True)
class Effort:
    """The cost of a step."""

    seconds: float
    bytes: float = 0.0
    per_frame: bool = False
    """Whether it grows with the number of frames."""


@dataclass(frozen=True)
class Plan:
    """The cost of every step, and what it was estimated from."""

    preset: str
    clips: dict[str, int]
    """The user's clips by name, with their sizes as `datasets.clips.clip_size` gives them."""
    every: int
    frames: int
    height: int
    width: int
    """Of the frames, pixels."""
    efforts: dict[str, Effort]

    @property
    def seconds(self) -> float:
        return sum(effort.seconds for effort in self.efforts.values())

    def of(self, frames: int) -> Plan:
        """The plan scaled to another number of frames."""
        factor = frames / max(1, self.frames)
        efforts = {
            name: replace(effort, seconds=effort.seconds * factor, bytes=effort.bytes * factor)
            if effort.per_frame and name != "frames"
            else effort
            for name, effort in self.efforts.items()
        }
        return replace(self, frames=frames, efforts=efforts)

    def is_for(self, preset: str, clips: dict[str, int], every: int) -> bool:
        """Check that the plan was made for these clips and settings."""
        return (self.preset, self.clips, self.every) == (preset, clips, every)

    def show(self) -> None:
        """Print the cost of every step."""
        say(
            f"  {len(self.clips)} clips, up to {self.frames} frames of {self.width} x {self.height} pixels"
        )
        for name in ORDER:
            effort = self.efforts[name]
            say(f"  {name:<16} {duration(effort.seconds):>8} {effort.bytes / 1e6:8.0f} MB")
        size = sum(effort.bytes for effort in self.efforts.values())
        say(f"  {'together':<16} {duration(self.seconds):>8} {size / 1e6:8.0f} MB")
        if self.seconds > LONG:
            say(
                f"  warning: {duration(self.seconds)} on this machine; a smaller --preset or a GPU is quicker"
            )

    def save(self, out: Path) -> None:
        """Write the plan beside the run."""
        if distributed.is_main():
            write_json(out / PLAN, asdict(self), indent=1)
        distributed.barrier()


def read_plan(out: Path) -> Plan | None:
    """Read the plan of an earlier call; None if there is none or its form is unknown."""
    if not (out / PLAN).is_file():
        return None
    content = read_json(out / PLAN)
    try:
        efforts = {name: Effort(**effort) for name, effort in content.pop("efforts").items()}
        return Plan(**content, efforts=efforts)
    except (AttributeError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Task:
    """One step of a run."""

    name: str
    """Of its effort in the plan."""
    title: str
    work: Callable[[], str]
    """Does it, or finds it done; returns what is worth telling."""


def follow(parts: Sequence[Task], plan: Plan, kept_frames: Callable[[], int]) -> None:
    """Run all steps with one display: position in the run, remaining time, and results.

    Args:
        kept_frames: how many frames there are, once the first part is done; the plan only knows how
            many there can be.
    """
    begin = time.monotonic()
    pace = Pace()
    for number, part in enumerate(parts, 1):
        where = f"[{number}/{len(parts)}]"
        later = sum(plan.efforts[other.name].seconds for other in parts[number:])
        planned, start = plan.efforts[part.name].seconds, time.monotonic()

        def left(of_bar: float, planned: float = planned, later: float = later) -> str:
            """Remaining seconds of the run, given those of the current bar."""
            spent = time.monotonic() - start  # noqa: B023
            return duration(max(of_bar, planned * pace.factor - spent) + later * pace.factor)

        done = duration(start - begin)
        say(f"{where} {part.title}: {done} done, about {left(0.0)} left")
        with run_progress(RunProgress(where, left)):
            told = part.work()
        pace.add(planned, time.monotonic() - start)
        say(f"{where} {part.title}: {told}")
        if part.name == "frames":
            plan = plan.of(kept_frames())


@dataclass
class Pace:
    """The ratio of measured to planned time."""

    expected: float = 0.0
    spent: float = 0.0

    def add(self, expected: float, spent: float) -> None:
        """Add a step's times, unless it was already finished."""
        if spent > 0.2 * expected:
            self.expected += expected
            self.spent += spent

    @property
    def factor(self) -> float:
        """Factor for planned seconds; 1 until enough was measured."""
        if self.expected <= 30:
            return 1.0
        return min(4.0, max(0.25, self.spent / self.expected))


def duration(seconds: float) -> str:
    """Format seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * LONG:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / LONG:.0f} days"
