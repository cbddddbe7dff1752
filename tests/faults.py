"""Kills and failing disks: commands whose N-th change to their output kills them or is refused by the disk.

`python tests/faults.py` prints the table of `benchmarks/RESULTS.md`. Commands run in forks of one warmed
interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_targets import Target, targets

TEMPORARY = ".moduv-partial-"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.chmod": 0}
"""Audit events of changes to files, and which of their arguments names the file that the user knows."""
KILL = "kill"
LONGEST = 300
"""Seconds that a command may take."""


# --- the process that is struck ---------------------------------------------------------------------


def arm(out: Path, fault: str, number: int) -> Callable[[], int]:
    """Let the number-th change to files in or beside `out` fail; returns how many were counted.

    Args:
        out: the output.
        fault: `kill`, or an error of the disk, e.g. `ENOSPC`.
        number: from 1; 0: none fails.
    """
    root, count = os.path.abspath(out.parent), 0

    def meet(path: Any) -> None:
        nonlocal count
        count += 1
        if count != number:
            return
        if fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, fault)
        raise OSError(code, os.strerror(code), path)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (arguments[2] & WRITING):
            return
        if event != "open" and event not in CHANGES:
            return
        path = arguments[CHANGES.get(event, 0)]
        if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(root + os.sep):
            meet(str(path))

    fsync = os.fsync

    def synchronise(handle: int) -> None:
        meet(None)
        fsync(handle)

    os.fsync = synchronise
    sys.addaudithook(hook)
    return lambda: count


def _strike(order: dict[str, Any], answer: int) -> None:
    """Run a command in this process, which ends with it; its last words are the number of changes."""
    from moduv.commands.cli import main

    signal.alarm(LONGEST)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    counted = arm(Path(order["out"]), order["fault"], order["number"])
    status: Any = 0
    try:
        main(order["arguments"])
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, str(counted()).encode())
    os._exit(status)


def serve() -> None:
    """Fork for every order on the standard input; answer with how it ended."""
    from moduv.engine.pipeline import load_function
    from moduv.runs.catalogue import COMMANDS

    for command in COMMANDS.values():
        load_function(command.function)
    for name in ("torchvision.models.detection", "torch.utils.data", "jsonargparse", "av", "onnx"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps([_ended(*child) for child in map(_fork, json.loads(line))]), flush=True)


def _fork(order: dict[str, Any]) -> tuple[int, int]:
    """Begin an order; its process, and where its last words are read."""
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        _strike(order, theirs)
    os.close(theirs)
    return process, ours


def _ended(process: int, words: int) -> tuple[int, int]:
    """Exit code of a process, and the changes that it counted."""
    with os.fdopen(words) as told:
        changes = int(told.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), changes


# --- those who strike -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    status: int
    """Exit code; negative: the signal."""
    changes: int
    """To files, unless it was killed."""
    said: list[str]
    """Lines of its output."""

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said if "moduv: error: " in line]

    @property
    def is_sentence(self) -> bool:
        """Whether it ended with one sentence and exit code 2."""
        traced = any("Traceback" in line for line in self.said)
        foreign = any(TEMPORARY in line for line in self.errors)  # a name that no user knows
        return self.status == 2 and len(self.errors) == 1 and not traced and not foreign


class Server:
    """A warmed interpreter that runs commands in forks."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self._room = Path(tempfile.mkdtemp(prefix="faults-"))

    def run(self, arguments: list[str], out: Path, fault: str = "", number: int = 0) -> Ending:
        """Run a command; the number-th change in or beside `out` fails."""
        return self.at_once(arguments, out, fault, number, times=1)[0]

    def at_once(
        self, arguments: list[str], out: Path, fault: str = "", number: int = 0, *, times: int = 2
    ) -> list[Ending]:
        """Run a command several times at once."""
        logs = [self._room / f"{one}.log" for one in range(times)]
        order = {"arguments": arguments, "out": str(out), "fault": fault, "number": number}
        orders, answers = self._process.stdin, self._process.stdout
        assert orders is not None
        assert answers is not None
        print(json.dumps([{**order, "log": str(log)} for log in logs]), file=orders, flush=True)
        return [
            Ending(status, changes, log.read_text(errors="replace").splitlines())
            for (status, changes), log in zip(json.loads(answers.readline()), logs, strict=True)
        ]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._room)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    running = Server()
    try:
        yield running
    finally:
        running.close()


def prepare(root: Path, striking: Server, links: int | None = None) -> dict[str, Target]:
    """Finish the chain below `root`, or its first links; the commands to strike."""
    from chain import chain

    for link in chain(root)[:links]:
        if not link.out.is_dir():
            ending = striking.run(link.arguments, link.out)
            assert ending.status == 0, "\n".join(ending.said)
    return targets(root)


def differences(expected: Path, found: Path) -> list[str]:
    """Names of files that are not the same in two folders; seconds in manifests may differ."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (expected, found)
        for path in folder.rglob("*")
        if not path.is_dir()
    }
    return sorted(name for name in names if _content(expected / name) != _content(found / name))


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name == "manifest.json":
        return {**json.loads(path.read_text()), "seconds": None}
    content = path.read_bytes()
    if path.suffix == ".safetensors":  # whose library writes the facts in any order
        length = 8 + int.from_bytes(content[:8], "little")
        return json.loads(content[8:length]), content[length:]
    return content


@dataclass
class Count:
    """What happened to one command under one fault."""

    changes: int
    struck: int = 0
    sentences: int = 0
    identical: int = 0


def strike(
    striking: Server, target: Target, room: Path, fault: str, shares: Sequence[float]
) -> tuple[Count, list[str]]:
    """Strike a command at one change after the other, run it again, and compare with an uninterrupted run.

    Args:
        room: keeps the uninterrupted run, and what differs.
        shares: which changes are struck, as shares of all.

    Returns:
        The counts, and what went wrong, a line a number.
    """
    whole = room / "whole" / target.name.replace(" ", "_")
    if not whole.is_dir():
        ending = striking.run(*target.at(whole))
        assert ending.status == 0, "\n".join(ending.said)
        (whole.parent / f"{whole.name}.count").write_text(str(ending.changes))
    count = Count(int((whole.parent / f"{whole.name}.count").read_text()))
    wrong = []
    for number in sorted({max(1, round(share * count.changes)) for share in shares}):
        place = room / f"{whole.name}-{fault}-{number}"
        arguments, out = target.at(place)
        ending = striking.run(arguments, out, fault, number)
        count.struck += ending.status != 0
        count.sentences += ending.is_sentence
        again = striking.run(arguments, out)
        different = differences(whole, place)
        count.identical += again.status == 0 and not different
        problems = [*different]
        if again.status != 0:
            problems += again.said[-1:]
        if fault != KILL and ending.status != 0 and not ending.is_sentence:
            problems += [f"exit {ending.status}", *ending.said[-1:]]
        if problems:
            wrong.append(f"{target.name}, {fault} at {number}: {'; '.join(problems)}")
        else:
            shutil.rmtree(place)
    return count, wrong


def table(root: Path, most: dict[str, int], names: list[str]) -> None:
    """Print the table of every command, or of those named; `most`: strikes by fault."""
    print(
        "| command | changes | killed / identical | ENOSPC: struck / sentences / identical | EIO |"
    )
    print("|---|---|---|---|---|")
    root.mkdir(parents=True, exist_ok=True)
    with server() as striking:
        for name, target in prepare(root / "chain", striking).items():
            if names and name not in names:
                continue
            cells = []
            for fault, number in most.items():
                shares = [part / number for part in range(1, number + 1)]
                count, wrong = strike(striking, target, root, fault, shares)
                counts = [count.struck, count.sentences, count.identical]
                cells.append(" / ".join(map(str, counts[:: 2 if fault == KILL else 1])))
                for line in wrong:
                    print(line, file=sys.stderr, flush=True)
            print(f"| {name} | {count.changes} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        options = argparse.ArgumentParser(description=__doc__)
        options.add_argument("names", nargs="*", help="commands; none: all")
        options.add_argument("--room", type=Path, help="folder for the runs; what differs stays")
        options.add_argument("--kills", type=int, default=48, help="of a command, at most")
        options.add_argument("--errors", type=int, default=16, help="of a kind, at most")
        given = options.parse_args()
        strikes = {KILL: given.kills, "ENOSPC": given.errors, "EIO": given.errors}
        table(given.room or Path(tempfile.mkdtemp()), strikes, given.names)
