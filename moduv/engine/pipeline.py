"""Chains of stages as data: what each step reads, where it writes, and the command that runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moduv.engine.cores import load_function, run_on_cores
from moduv.engine.errors import InputError


@dataclass(frozen=True)
class Command:
    """A command of the command line: its function, the preset's section for it, and a line of help."""

    function: str
    """`module:function`; its arguments are the options, its docstring the help."""
    section: str | None
    """Of a preset; fills the argument `config`."""
    help: str
    words: str = ""
    """The argument that takes the words after the command."""
    resumes: bool = False
    """Whether it continues where it was when it is run again after an interrupt."""
    shared: bool = False
    """Whether several processes may share its work."""

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function, on all cores where processes may share it."""
        if self.shared:
            return run_on_cores(self.function, arguments)
        return load_function(self.function)(**arguments)


@dataclass(frozen=True)
class Step:
    """One step of a chain: a command and the options that the chain fills in."""

    name: str
    command: str
    """`moduv COMMAND`."""
    folder: str
    """Of its output, below the run's folder."""
    title: str
    """In displays, tables and reports."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Options that name outputs of earlier steps: {option: step}."""
    takes: tuple[str, ...] = ("data", "split")
    """Options that name parts of the `Place`."""
    on: str = "train"
    """The split that it works on: train or val."""
    out: str = "out"
    """The option that names its output."""
    former: str = ""
    """Folder of its output in runs of version 0.1, where it had another name."""
    optional: bool = False
    """Whether a preset may leave it out: `steps: {NAME: false}`."""
    usual: bool = True
    """Whether an optional step is there where a preset says nothing of it."""

    def output(self, run: Path) -> Path:
        """The folder of its output in a run."""
        former = run / self.former
        earlier = self.former and former.is_dir() and not (run / self.folder).is_dir()
        return former if earlier else run / self.folder


@dataclass(frozen=True)
class Place:
    """Where a chain is run."""

    run: Path
    """Folder of the run."""
    data: Path
    """Folder of the frames."""
    splits: Mapping[str, Path]
    """Split files: train and val."""
    annotations: Mapping[str, Path] = field(default_factory=dict)
    """Ground truth of each split, COCO JSON, as far as there is one."""
    report: Path = Path("out")
    """Folder of the report."""

    def value(self, option: str, on: str) -> Path | None:
        """What a step's option names; None where there is nothing to name."""
        if option in {"split", "annotations"}:
            return (self.splits if option == "split" else self.annotations).get(on)
        return {"data": self.data, "root": self.data, "run": self.run}[option]


def select(chain: Sequence[Step], names: Iterable[str]) -> list[Step]:
    """The steps of a chain with these names, in the chain's order.

    Raises InputError for a name that is not in the chain.
    """
    wanted = set(names)
    unknown = sorted(wanted - {step.name for step in chain})
    if unknown:
        known = ", ".join(step.name for step in chain)
        raise InputError(f"step {unknown[0]!r} is unknown; choose among {known}.")
    return [step for step in chain if step.name in wanted]


def without(chain: Sequence[Step], switches: Mapping[str, Any]) -> tuple[Step, ...]:
    """A chain without the steps that are left out.

    What reads a step that is left out reads what that one would have read under the same option, or does
    without the option.

    Args:
        chain: steps, in order.
        switches: true or false for optional steps by their names: the section `steps` of a preset.

    Raises:
        InputError: for a step that is not in the chain or not optional, and for another value.
    """
    known = {step.name: step.usual for step in chain if step.optional}
    for name, on in switches.items():
        if name not in known or not isinstance(on, bool):
            raise InputError(
                f"steps: {name!r:.80} is {on!r:.80}; write true or false for one of {sorted(known)}."
            )
    off = {name for name, on in {**known, **switches}.items() if not on}
    reads = {step.name: step.reads for step in chain}

    def source(option: str, name: str) -> str:
        while name in off:
            name = reads[name].get(option, "")
        return name

    def kept(step: Step) -> Step:
        sources = {option: source(option, name) for option, name in step.reads.items()}
        return dataclasses.replace(step, reads={o: name for o, name in sources.items() if name})

    return tuple(kept(step) for step in chain if step.name not in off)


def options(step: Step, chain: Sequence[Step], place: Place) -> dict[str, Path]:
    """The options of a step's command that the chain fills in."""
    folders = {other.name: other.output(place.run) for other in chain}
    named = {option: place.value(option, step.on) for option in step.takes}
    filled = {option: path for option, path in named.items() if path is not None}
    filled |= {option: folders[source] for option, source in step.reads.items()}
    return filled | (
        {step.out: folders[step.name] if step.folder else place.report} if step.out else {}
    )


def perform(
    step: Step, chain: Sequence[Step], place: Place, entry: Command, preset: str, **changes: Any
) -> None:
    """Run a step in this process, with the settings of a preset but for some `changes`."""
    from moduv.engine.config import load_preset  # a chain can be printed where nothing is installed

    given: dict[str, Any] = dict(options(step, chain, place))
    if entry.section is not None:
        config = load_preset(config_class(entry), preset, entry.section)
        given["config"] = dataclasses.replace(config, **changes)
    entry.call(given)


def command_lines(
    steps: Sequence[Step],
    chain: Sequence[Step],
    place: Place,
    commands: Mapping[str, Command],
    preset: str,
    processes: int = 1,
) -> Iterator[list[str]]:
    """The command line of every step; several processes share those that can be shared."""
    launch = ["python", "-m", "moduv.engine.launch", "--standalone"]
    for step in steps:
        filled = options(step, chain, place).items()
        words = [*step.command.split(), "--preset", preset]
        words += [word for option, path in filled for word in (f"--{option}", str(path))]
        shared = processes > 1 and commands[step.command].shared
        head = [*launch, "--nproc_per_node", str(processes), "-m", "moduv.cli"]
        yield [*(head if shared else ["moduv"]), *words]


def execute(lines: Iterable[Sequence[str]]) -> int:
    """Print and run command lines, one after the other; the exit code of the first that fails, or 0."""
    names = {"python": [sys.executable], "moduv": [sys.executable, "-m", "moduv.cli"]}
    for line in lines:
        print("+", *line, flush=True)
        code = _wait_for([*names[line[0]], *line[1:]])
        if code:
            return code if code > 0 else 128 - code
    return 0


def _wait_for(command: Sequence[str]) -> int:
    """Run a command to its end; an interrupt reaches it as well, and it ends with its own sentence."""
    with subprocess.Popen(command) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            while True:
                with contextlib.suppress(KeyboardInterrupt):
                    return child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def config_class(entry: Command) -> Any:
    """The class of a command's settings."""
    return typing.get_type_hints(load_function(entry.function))["config"]
