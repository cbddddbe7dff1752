"""What a run will take, and how far it is: its plan, kept beside it, and the display while it is followed."""

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
    """What a step of the run costs."""

    seconds: float
    bytes: float = 0.0
    per_frame: bool = False
    """Whether it grows with the number of frames."""


@dataclass(frozen=True)
class Plan:
    """The steps' efforts, and what they were reckoned from."""

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
        """The plan for another number of frames: those that were really kept."""
        factor = frames / max(1, self.frames)
        efforts = {
            name: replace(effort, seconds=effort.seconds * factor, bytes=effort.bytes * factor)
            if effort.per_frame and name != "frames"
            else effort
            for name, effort in self.efforts.items()
        }
        return replace(self, frames=frames, efforts=efforts)

    def is_for(self, preset: str, clips: dict[str, int], every: int) -> bool:
        """Whether it was made for these clips and settings."""
        return (self.preset, self.clips, self.every) == (preset, clips, every)

    def show(self) -> None:
        """Print what every step costs."""
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
        """Keep it beside the run."""
        if distributed.is_main():
            write_json(out / PLAN, asdict(self), indent=1)
        distributed.barrier()


def read_plan(out: Path) -> Plan | None:
    """The plan of an earlier call; None where there is none, or one of another form."""
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
    """Do all parts with one display: where in the run, what is left of it, and what came out.

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
            """What is left of the run, given what is left of the bar on display, both in seconds."""
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
    """How fast the machine is beside its calibration, which ran on idle networks."""

    expected: float = 0.0
    spent: float = 0.0

    def add(self, expected: float, spent: float) -> None:
        """Count a part, unless it was found finished."""
        if spent > 0.2 * expected:
            self.expected += expected
            self.spent += spent

    @property
    def factor(self) -> float:
        """By what planned seconds are to be multiplied; 1 until enough is known."""
        if self.expected <= 30:
            return 1.0
        return min(4.0, max(0.25, self.spent / self.expected))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * LONG:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / LONG:.0f} days"
