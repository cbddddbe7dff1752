"""Imports go down the house only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import moduv

LAYERS = (
    {"engine"},
    {"frames", "geometry"},
    {"instances"},
    {"street", "datasets", "depth", "labels"},
    {"motion", "detector", "correspondence", "dynamic_depth", "naming"},
    {"evaluation", "visual"},
    {"rounds"},
    {"runs"},
    {"commands", "face"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
ROOT = Path(moduv.__file__).parent


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_go_down_only() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = room_of(path)
        if room == "__init__":
            continue
        assert room in LEVEL, f"{room} has no layer"
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "moduv" or len(parts) < 2 or parts[1] == room:
                continue
            if LEVEL[parts[1]] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_files_stay_readable() -> None:
    lengths = {
        p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in ROOT.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_file_says_what_it_is() -> None:
    silent = [p.name for p in ROOT.rglob("*.py") if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
