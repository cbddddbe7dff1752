"""The official checkpoints: list, download and verify them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moduv.engine.config import build
from moduv.engine.download import download, is_archive, unpack
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, digest, read_json, sha256, write_json
from moduv.engine.lock import alone
from moduv.engine.log import say

RECORD = "checksums.json"
FOLDER = Path("ckpts")


@dataclass(frozen=True)
class Checkpoint:
    """One official checkpoint."""

    name: str
    group: str
    what: str
    files: tuple[str, ...]
    """What it becomes below `ckpts/`."""
    licence: str
    page: str
    """Where its authors publish it."""
    sources: tuple[str, ...] = ()
    """Public links, in the order they are tried; none: it is not public."""
    access: str = ""
    """What to do where it is not public."""
    published: str = ""
    """The beginning of its hash as its authors give it: `md5:…` or `sha256:…`."""


def read_catalogue() -> tuple[Checkpoint, ...]:
    """The official checkpoints, from the file beside this one."""
    entries = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return tuple(build(Checkpoint, entry, "checkpoints.yaml") for entry in entries)


CATALOGUE = read_catalogue()


def choose(names: Sequence[str]) -> list[Checkpoint]:
    """Select checkpoints by name or group. Raises InputError for an unknown word."""
    for name in names:
        if not any(name in (item.name, item.group) for item in CATALOGUE):
            groups = list(dict.fromkeys(item.group for item in CATALOGUE))
            known = ", ".join([*groups, *(item.name for item in CATALOGUE)])
            raise InputError(f"checkpoint {name!r} is unknown; choose among {known}.")
    return [item for item in CATALOGUE if item.name in names or item.group in names]


def list_checkpoints(folder: Path = FOLDER) -> None:
    """List the official checkpoints, their sources, and which are present.

    Args:
        folder: where they lie.
    """
    for item in CATALOGUE:
        say(f"{item.name:<20} {folder / _place(item)}: {state(item, folder)}")
        say(f"{'':<20} {item.what}; licence: {item.licence}")
        say(f"{'':<20} published at {item.page}" + (f"; {item.access}" if item.access else ""))
    groups = ", ".join(dict.fromkeys(item.group for item in CATALOGUE))
    say(f"\nmoduv checkpoints fetch NAME … takes names and groups ({groups}).")


def is_here(item: Checkpoint, folder: Path = FOLDER) -> bool:
    """Whether all files of a checkpoint are here."""
    return all(path.is_file() for path in _paths(item, folder))


def state(item: Checkpoint, folder: Path = FOLDER) -> str:
    """Whether a checkpoint is here, in words."""
    sizes = [path.stat().st_size for path in _paths(item, folder) if path.is_file()]
    if len(sizes) == len(item.files):
        return f"here, {sum(sizes) / 1e6:.0f} MB"
    if sizes:
        return f"{len(item.files) - len(sizes)} of {len(item.files)} files are missing"
    return "to be fetched" if item.sources else "not public"


def fetch_checkpoints(
    names: list[str] | None = None, folder: Path = FOLDER, source: str = ""
) -> None:
    """Download official checkpoints; verify and keep those that are present.

    Args:
        names: names and groups as `moduv checkpoints list` shows them; what the preset `paper` starts
            from, where none is given.
        folder: where they go.
        source: a file, a zip or a link to take them from instead of their public one, e.g. what came
            by mail.

    Raises:
        InputError: when one cannot be had or is another file than before; the others are fetched first.
    """
    chosen = choose(names or ["paper"])
    missing = [item for item in chosen if not is_here(item, folder)]
    problems = []
    with alone(folder), _room(folder) as room:
        given = _given(source, missing, room)
        for item in chosen:
            try:
                if item not in missing:
                    verify(item, folder)
                    say(f"{item.name}: kept {folder / _place(item)}")
                elif given is not None:
                    _take(item, folder, given, source)
                else:
                    _fetch(item, folder, room)
            except InputError as error:
                problems.append(str(error))
    _raise_first(problems)


def verify_checkpoints(names: list[str] | None = None, folder: Path = FOLDER) -> None:
    """Compare the checkpoints that are present with their recorded hashes; record new ones.

    Args:
        names: names and groups; all that are here, where none is given.
        folder: where they lie.

    Raises:
        InputError: when a file is not the one that was recorded, or a named checkpoint is not here.
    """
    problems = []
    for item in choose(names) if names else CATALOGUE:
        present = [path for path in _paths(item, folder) if path.is_file()]
        try:
            if not present and not names:
                continue
            if len(present) < len(item.files):
                raise InputError(f"{folder / _place(item)}: {state(item, folder)}; {_way(item)}.")
            verify(item, folder)
            say(f"{item.name}: {folder / _place(item)} is as recorded")
        except InputError as error:
            problems.append(str(error))
    _raise_first(problems)


def _way(item: Checkpoint, access: str = "") -> str:
    """How to get a checkpoint; `access`: what to do first, where its links do not suffice."""
    access = access or item.access
    fetch = f"run moduv checkpoints fetch {item.name}"
    return f"{access}, then {fetch} --source FILE_OR_LINK" if access else fetch


def verify(item: Checkpoint, folder: Path) -> None:
    """Compare a checkpoint's files with their recorded hashes, and record new ones.

    Raises InputError naming the file that is another one.
    """
    for name, path in zip(item.files, _paths(item, folder), strict=True):
        _remember(name, _checked(item, name, path, folder, path), folder, "by hand")


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[Path]:
    """An empty folder for what is being fetched, also where a killed process has left its own."""
    room = folder / ".fetch"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _given(source: str, missing: list[Checkpoint], room: Path) -> Path | None:
    """What the user gave to take checkpoints from."""
    if not source or not missing:
        return None
    given = room / "given"
    download(source, given)
    if len(missing) > 1 and not is_archive(given):
        raise InputError(f"{source}: is one file; name the one checkpoint that it is.")
    return given


def _fetch(item: Checkpoint, folder: Path, room: Path) -> None:
    """Take a checkpoint from its public links in turn."""
    access = ""
    for origin in item.sources:
        try:
            fetched = room / item.name
            download(origin, fetched)
            return _take(item, folder, fetched, origin)
        except InputError as error:
            say(f"{item.name}: {error}")
            access = f"none of its links works; fetch it by hand from {item.page}"
    raise InputError(f"{item.name}: {_way(item, access)}.")


def _take(item: Checkpoint, folder: Path, got: Path, origin: str) -> None:
    """Check a fetched file or archive and put its parts in their places."""
    if is_archive(got):
        parts = unpack(got, item.files, got.with_name(f"{item.name}-parts"))
    elif len(item.files) == 1:
        parts = [got]
    else:
        raise InputError(f"{origin}: is no zip; {item.name} needs {', '.join(item.files)}.")
    places = list(zip(item.files, parts, _paths(item, folder), strict=True))
    facts = [_checked(item, name, part, folder, origin) for name, part, _ in places]
    for (name, part, place), fact in zip(places, facts, strict=True):
        # Recorded first: after a kill in between, a file without a record would count as put there by hand.
        _remember(name, fact, folder, origin)
        with atomic_path(place) as temporary:
            shutil.copyfile(part, temporary)
    say(f"{item.name}: {folder / _place(item)} from {origin}")


def _checked(
    item: Checkpoint, name: str, path: Path, folder: Path, origin: str | Path
) -> dict[str, Any]:
    """Size and hash of a file. Raises InputError if it cannot be loaded or contradicts the record."""
    from moduv.engine import (
        checkpoint,  # loads torch, which a list of the checkpoints does not need
    )

    try:
        loaded = isinstance(checkpoint.load(path), dict)
    except InputError:
        loaded = False
    if not loaded:
        raise InputError(f"{origin}: {name} is no PyTorch checkpoint; fetch it again.")
    kind, _, beginning = item.published.partition(":")
    if beginning and not (found := digest(path, kind)).startswith(beginning):
        raise InputError(
            f"{origin}: the {kind} hash of {name} begins with {found[:8]}, and its authors publish "
            f"{beginning}; move it away and fetch it again."
        )
    facts: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    known = _record(folder).get(name, facts)
    if any(known.get(key) != value for key, value in facts.items()):
        raise InputError(
            f"{origin}: {name} has {facts['bytes']} bytes and the hash {facts['sha256'][:8]}…, and "
            f"{folder / RECORD} says {known.get('bytes')} and {str(known.get('sha256'))[:8]}…; fetch it "
            "again, or take its entry out of the record if the new file is right."
        )
    return facts


def _remember(name: str, facts: dict[str, Any], folder: Path, origin: str) -> None:
    """Record a file on its first use."""
    record = _record(folder)
    if name not in record:
        write_json(folder / RECORD, {**record, name: {**facts, "from": origin}}, indent=1)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict) or not all(isinstance(v, dict) for v in record.values()):
        raise InputError(
            f"{path}: holds no record of files; move it away, and files are recorded anew."
        )
    return record


def _paths(item: Checkpoint, folder: Path) -> list[Path]:
    return [folder / name for name in item.files]


def _place(item: Checkpoint) -> str:
    """The checkpoint's file, or its folder."""
    return item.files[0].partition("/")[0]


def _raise_first(problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
