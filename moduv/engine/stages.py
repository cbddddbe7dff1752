"""Stages that run once: a manifest beside every output records what made it and that it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv import __version__
from moduv.engine import distributed
from moduv.engine.config import decisive, difference, of_this_version, save_config
from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_json, sha256, write_json
from moduv.engine.lock import LOCK, alone
from moduv.engine.log import say

MANIFEST = "manifest.json"
DECISIVE = ("stage", "config", "inputs")
KINDS = {"stage": str, "config": dict, "inputs": dict, "results": dict, "moduv": str}
"""Of the values in a manifest."""


class OtherSettings(InputError):
    """An output exists that was made with other settings or inputs.

    Attributes:
        difference: what differs, in words.
    """

    def __init__(self, path: Path, key: str, difference: str) -> None:
        self.difference = f"another {key} ({difference})"
        super().__init__(
            f"{path}: the output was made with {self.difference}; move {path.parent} away to make it again, "
            "or choose another name."
        )


@dataclass(frozen=True)
class Stage:
    """A stage: its output folder, its settings, and the files or stages it reads.

    Inputs that are folders of other stages are identified by their manifest, files by their content.
    `data` is the folder of the frames: an input where a stage of ours made it, and otherwise the user's,
    who is trusted not to change it.
    """

    name: str
    out: Path
    config: Any
    inputs: tuple[Path, ...] = ()
    data: Path | None = None

    def run(self, work: Callable[[], dict[str, Any] | None], *, grown: bool = False) -> None:
        """Run `work` unless the stage is finished; then write the manifest.

        `work` must itself skip what an earlier, killed run has finished. What it returns is kept in
        the manifest as results. `grown`: a finished stage runs again because its input has grown.

        Raises OtherSettings when the output was made with other settings or from other inputs, and
        InputError when another process is at work on it.
        """
        identity = self.identity()
        if self._is_finished(identity) and not grown:
            self._tidy()
            say(f"{self.name}: finished before, kept ({self.out})")
            return
        # Of several processes the first holds the lock for all.
        with alone(self.out) if distributed.is_main() else contextlib.nullcontext():
            if self._is_finished(identity) and not grown:  # by another process, in between
                say(f"{self.name}: finished before, kept ({self.out})")
                return
            self._work(work, identity)

    def _work(self, work: Callable[[], dict[str, Any] | None], identity: dict[str, Any]) -> None:
        resumed = self._started.is_file()
        seconds = self._begin(identity) if distributed.is_main() else 0.0
        distributed.barrier()
        say(f"{self.name}: {'resumed' if resumed else 'started'} ({self.out})")
        begin = time.monotonic()
        results: dict[str, Any] | None = None
        try:
            results = work()
        except BaseException:
            if distributed.is_main():
                self._keep_for_resuming(identity, seconds + time.monotonic() - begin)
            raise
        seconds += time.monotonic() - begin
        distributed.barrier()
        if distributed.is_main():
            manifest = {**identity, "seconds": round(seconds, 1), "results": results or {}}
            write_json(self._started, manifest, indent=1)
            self._started.replace(self.out / MANIFEST)
        distributed.barrier()
        say(f"{self.name}: finished in {seconds:.0f} s")

    @property
    def _started(self) -> Path:
        """The manifest of a stage that is not finished."""
        return self.out / f".{MANIFEST}"

    def _begin(self, identity: dict[str, Any]) -> float:
        """Record that the stage is begun; the seconds that it took before it was interrupted."""
        seconds = 0.0
        if (self.out / MANIFEST).is_file():
            (self.out / MANIFEST).replace(self._started)
        if self._started.is_file():
            before = _read_manifest(self._started)
            self._compare(before, identity, self._started)
            seconds = float(before.get("seconds", 0.0))
        write_json(self._started, {**identity, "seconds": seconds})
        save_config(self.out / "config.yaml", self.config)
        return seconds

    def _is_finished(self, identity: dict[str, Any]) -> bool:
        """Whether the stage is finished, with these settings."""
        path = self.out / MANIFEST
        finished = path.is_file()
        if finished:
            self._compare(_read_manifest(path), identity, path)
        # Every process must have looked before one of them changes what there is to see.
        distributed.barrier()
        return finished

    def identity(self) -> dict[str, Any]:
        """What determines the output: stage, settings, inputs; not the number of workers."""
        inputs: dict[str, str] = {}
        for number, path in enumerate(self.inputs, 1):
            name = path.name if path.name not in inputs else f"{path.name} {number}"
            inputs[name] = fingerprint(path)
        if self.data is not None and made_by_stages(self.data):
            inputs["frames"] = fingerprint(self.data)
        return {
            "stage": self.name,
            "config": decisive(self.config),
            "inputs": inputs,
            "moduv": __version__,
        }

    def _keep_for_resuming(self, identity: dict[str, Any], seconds: float) -> None:
        """Record an interrupted stage; if it has produced nothing, leave nothing behind."""
        with contextlib.suppress(OSError):  # of the disk that has perhaps ended the stage
            write_json(self._started, {**identity, "seconds": seconds})
        bookkeeping = [self._started, self.out / "config.yaml"]
        ours = {*bookkeeping, self.out / LOCK}
        if not any(path.is_file() and path not in ours for path in self.out.rglob("*")):
            for path in bookkeeping:
                path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove the lock of a process that was killed between its last two operations."""
        if distributed.is_main() and (self.out / LOCK).is_file():
            with contextlib.suppress(InputError, OSError), alone(self.out):
                pass

    def _compare(self, found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
        for key in DECISIVE:
            before = of_this_version(found.get(key))
            if before != expected[key]:
                raise OtherSettings(path, key, difference(before, expected[key]))


def fingerprint(path: Path) -> str:
    """Hash of a file's content, or of what decided the output of a stage's folder."""
    if path.is_dir() and (path / MANIFEST).is_file():
        manifest = _read_manifest(path / MANIFEST)
        decisive = json.dumps([manifest.get(key) for key in DECISIVE], sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:16]
    if not path.is_file():
        raise InputError(f"{path}: missing or not finished; run the stage that makes it first.")
    return sha256(path)[:16]


def made_by_stages(*folders: Path) -> tuple[Path, ...]:
    """The folders that a stage has made, which are inputs of the next; others are the user's, who is trusted.

    Raises InputError for a folder whose stage was interrupted.
    """
    for folder in folders:
        if is_interrupted(folder):
            raise InputError(
                f"{folder}: is not finished; run the command that makes it again, which continues where it was."
            )
    return tuple(folder for folder in folders if (folder / MANIFEST).is_file())


def is_interrupted(out: Path) -> bool:
    """Whether a stage was begun in a folder and has not finished it."""
    return not (out / MANIFEST).is_file() and (out / f".{MANIFEST}").is_file()


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a finished stage; empty when it is not finished.

    Raises InputError when it is no manifest.
    """
    path = out / MANIFEST
    return _read_manifest(path) if path.is_file() else {}


def read_counts(out: Path, *names: str) -> list[int]:
    """Numbers among the results of a finished stage. Raises InputError when it has not all of them."""
    results = read_manifest(out).get("results", {})
    for name in names:
        if type(results.get(name)) is not int or results[name] < 0:
            raise InputError(f"{out / MANIFEST}: its 'results' lack the number {name!r}; {MEND}.")
    return [results[name] for name in names]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = of_this_version(read_json(path))
    except RecursionError:
        content = None
    needed = ("config",) if path.name != MANIFEST else ("config", "results")
    broken = not isinstance(content, dict) or any(
        not isinstance(content.get(key, None if key in needed else kind()), kind)
        for key, kind in KINDS.items()
    )
    seconds = 0 if broken else content.get("seconds", 0)
    if broken or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise InputError(f"{path}: is no manifest of a stage; {MEND}.")
    return content
