"""What the command line says of itself: which commands there are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from moduv.runs.catalogue import COMMANDS

HELP = {"-h", "--help"}


def overview(group: str = "") -> str:
    """The commands with a line each; those whose name starts with the word `group`, where one is given."""
    shown = [name for name in COMMANDS if not group or name.split()[0] == group]
    width = max(map(len, shown))
    lines = [f"  {name:<{width}}  {COMMANDS[name].help}" for name in shown]
    usage = f"moduv {group} COMMAND" if group else "moduv COMMAND"
    return "\n".join([f"usage: {usage} [--preset NAME] [options]", "", "commands:", *lines])


def in_group(word: str) -> list[str]:
    """The commands whose name is this word and another one."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def unknown(words: Sequence[str]) -> str:
    """A sentence about a line that starts with no command."""
    group = words[0] if in_group(words[0]) else ""
    given = " ".join(words[:2] if group else words[:1])
    known = in_group(group) if group else sorted({name.split()[0] for name in COMMANDS})
    near = difflib.get_close_matches(given, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"there is no command {given!r}; {meant}'moduv {group or '--help'}' lists those there are."
    )
