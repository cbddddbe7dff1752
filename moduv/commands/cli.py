"""`moduv …`: every command is a function of the package with a configuration.

The function's arguments become options, its docstring the help; `--preset` fills its configuration,
`--config.KEY VALUE` overrides single values, `--print_config` shows what would be in force.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import signal
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from moduv.commands.usage import HELP, in_group, overview, unknown
from moduv.engine.config import load_preset, preset_names, read_mapping, read_preset, to_dict
from moduv.engine.cores import SPINS, load_function
from moduv.engine.errors import InputError, is_lost, refusal
from moduv.engine.files import reason_of
from moduv.engine.launch import is_launched, processes
from moduv.engine.pipeline import config_class
from moduv.runs.catalogue import COMMANDS

ALONE = {"-h", "--help", "--print_config"}
"""Options of every command that take no value."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exit with code 2 and one sentence if the input is bad."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = command_of(arguments)
    if name is None:
        _show_commands(arguments)
    options = arguments[len(name.split()) :]
    if in_group(name) and not COMMANDS[name].words and not "".join(options[:1]).startswith("-"):
        _show_commands(arguments)
    with_exit_codes(lambda: run_command(name, options), resumes=COMMANDS[name].resumes)


def _show_commands(arguments: list[str]) -> NoReturn:
    """Exit with the commands there are, all or those of a word; or say that one is unknown."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    if not set(HELP).isdisjoint(arguments) or not arguments:
        group = words[0] if words and in_group(words[0]) else ""
        print(overview(group))
        sys.exit(0)
    if len(words) == 1 and in_group(words[0]):
        print(overview(words[0]), file=sys.stderr)
        sys.exit(2)
    _leave(f"error: {unknown(words or arguments)}", 2)


def with_exit_codes(work: Callable[[], Any], *, resumes: bool = False) -> None:
    """Run `work`; turn errors that the user can fix into one sentence and exit code 2.

    An interrupt becomes exit code 130, and SIGTERM 143; `resumes` says whether `work` then goes on where it
    was when it is run again.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is first imported
    try:
        _check_folder()
        with _terminable(), _group():
            work()
    except InputError as error:
        _leave(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "moduv":
            raise
        _leave(
            f"error: the package {error.name!r} is missing; install the requirements with "
            "pip install -e . and see what moduv doctor says.",
            2,
        )
    except KeyboardInterrupt as error:
        more = "; the same command continues from here" if resumes else ""
        ended, code = ("ended", 143) if isinstance(error, _Terminated) else ("interrupted", 130)
        _leave(f"{ended}{more}.", code)
    except OSError as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        _leave(f"error: {sentence}", 2)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which systems end what runs too long."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the work as an interrupt does, which leaves no temporary files and no other processes.

    torchrun ends its processes by it and speaks for them.
    """
    if is_launched() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_folder() -> None:
    """Raise InputError when the folder in which a command runs was deleted: libraries fail in odd ways then."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputError(
            "the folder in which this command runs was deleted; change to another one."
        ) from None


def _leave(sentence: str, code: int) -> NoReturn:
    print(f"moduv: {sentence}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def _group() -> Iterator[None]:
    """Join the process group that torchrun describes; a single process joins none and does not load torch.

    Only the first failure is reported: the others are the same, or follow from it.
    """
    if processes() == 1:
        yield
        return
    from moduv.engine import distributed

    try:
        distributed.start()
        yield
    except (Exception, KeyboardInterrupt) as error:
        lost, interrupted = is_lost(error), isinstance(error, KeyboardInterrupt)
        if not lost and distributed.first_to_fail():
            raise
        # torchrun ends this process as soon as the first has left, whose exit code is to count.
        time.sleep(0 if interrupted else 10)
        if lost and distributed.first_to_fail():
            raise InputError(
                "the connection to another process was lost; the same command continues from the last "
                "saved state."
            ) from None
        sys.exit(130 if interrupted else 1)
    finally:
        distributed.stop()


def run_command(name: str, arguments: list[str]) -> Any:
    """Parse the options of a command and call its function."""
    function = load_function(COMMANDS[name].function)
    values = parse(name, arguments)
    given = {key: values[key] for key in inspect.signature(function).parameters}
    return COMMANDS[name].call(given)


def parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """Parse the options of a command; exit with code 2 if they are wrong."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    from moduv.commands.option_help import Options

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    command = COMMANDS[name]
    function = load_function(command.function)
    summary = (inspect.getdoc(function) or "").partition("\nArgs:")[0].strip()
    usage = " ".join(["moduv", name, *_words_shown(command.words, function), "[options]"])
    others = ", ".join(f"moduv {other}" for other in in_group(name))
    parser = ArgumentParser(
        prog=f"moduv {name}",
        usage=usage,
        description=summary,
        epilog=f"See also: {others}." if others else None,
        formatter_class=Options,
    )
    parser.add_argument("--cfg", action="config", help="YAML file with options of this command")
    parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    arguments = normalised(arguments, function, command.words)
    if command.section is not None:
        parser.add_argument(
            "--preset", default="paper", help=f"{', '.join(preset_names())}, or a YAML file."
        )
        told = [_preset_of(arguments), *(file.get("preset") for file in _files(arguments))]
        chosen = next((preset for preset in told if isinstance(preset, str)), "paper")
        if HELP.isdisjoint(arguments) or _is_told(name, chosen):
            parser.set_defaults({"config": _settings(name, chosen)})
    try:
        values = parser.parse_args(arguments)
    # What the parser lets through of files of options.
    except (ValueError, RecursionError) as error:
        raise InputError(f"an option is not readable ({reason_of(error)}); mend it.") from None
    return vars(parser.instantiate(values))


def command_of(words: list[str]) -> str | None:
    """The command at the start of a line; the longest name wins."""
    given = [word for word in words[:2] if not word.startswith("-")]
    return next((" ".join(given[:n]) for n in (2, 1) if " ".join(given[:n]) in COMMANDS), None)


def _is_told(name: str, preset: str) -> bool:
    """Whether a preset, or the defaults, say how a command is to work."""
    try:
        _settings(name, preset)
    except InputError:
        return COMMANDS[name].section in read_preset(preset)
    return True


def _settings(name: str, preset: str) -> dict[str, Any]:
    """The configuration of a command by a preset. Raises InputError where the preset lacks what has no default."""
    command = COMMANDS[name]
    section = command.section or ""
    try:
        return to_dict(load_preset(config_class(command), preset, section))
    except InputError:
        if section in read_preset(preset):
            raise
        known = [other for other in preset_names() if section in read_preset(other)]
        raise InputError(
            f"preset {preset!r} has no section {section!r}; choose another --preset, such as {' or '.join(known)}."
        ) from None


def _words_shown(words: str, function: Callable[..., Any]) -> list[str]:
    """How the words of a command are shown in its usage."""
    if not words:
        return []
    several = _takes_several(typing.get_type_hints(function)[words])
    return [words.upper() + (" …" if several else "")]


def _takes_several(hint: Any) -> bool:
    """Whether an argument is a list, or a list or nothing."""
    return any(typing.get_origin(kind) is list for kind in (hint, *typing.get_args(hint)))


def normalised(arguments: list[str], function: Callable[..., Any], words: str = "") -> list[str]:
    """Convert arguments as typed into the parser's form.

    Words that are no value of an option become the argument `words`; `--some-flag` becomes `--some_flag`,
    and `true` follows where a flag of the function stands alone.
    """
    hints = typing.get_type_hints(function)
    if words:
        free, arguments = _apart(arguments, hints)
        arguments = [*_as_option(words, free, hints[words]), *arguments]
    result = []
    for position, word in enumerate(arguments):
        name, equals, value = word.removeprefix("--").partition("=")
        known = name.replace("-", "_") in hints
        if not word.startswith("--") or not known:
            result.append(word)
            continue
        name = name.replace("-", "_")
        result.append(f"--{name}{equals}{value}")
        last = position + 1 == len(arguments) or arguments[position + 1].startswith("--")
        if hints[name] is bool and not equals and last:
            result.append("true")
    return result


def _apart(arguments: list[str], hints: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The words that are no value of an option, and the others."""
    free, others, option = [], [], ""
    for word in arguments:
        flag = hints.get(option.removeprefix("--").replace("-", "_")) is bool
        is_value = bool(option) and (not flag or word.lower() in {"true", "false"})
        if word.startswith("--") or is_value or (word.startswith("-") and len(word) > 1):
            others.append(word)
        else:
            free.append(word)
        takes_value = word.startswith("--") and "=" not in word and word not in ALONE
        option = word if takes_value else ""
    return free, others


def _as_option(words: str, free: list[str], hint: Any) -> list[str]:
    """Raises InputError for several words where a command takes one."""
    if not free:
        return []
    if _takes_several(hint):
        return [f"--{words}={json.dumps(free)}"]
    if len(free) > 1:
        values = f"{len(free)} values are given for {words.upper()}"
        raise InputError(f"{values}: {', '.join(free)}; give one.")
    return [f"--{words}={free[0]}"]


def _preset_of(arguments: list[str]) -> str | None:
    """The preset that a command line names. Raises InputError when it names two."""
    presets = set(_values_of("--preset", arguments))
    if len(presets) > 1:
        raise InputError(f"--preset is given as {' and as '.join(sorted(presets))}; give one.")
    return next(iter(presets), None)


def _files(arguments: list[str]) -> list[dict[str, Any]]:
    """What files of options say, the last first. Raises InputError where one names a key twice."""
    paths = [Path(value) for value in _values_of("--cfg", arguments)]
    return [read_mapping(path) for path in reversed(paths) if path.is_file()]


def _values_of(option: str, arguments: list[str]) -> list[str]:
    values = [value for word, value in itertools.pairwise(arguments) if word == option]
    start = f"{option}="
    return values + [w.removeprefix(start) for w in arguments if w.startswith(start)]


if __name__ == "__main__":
    main()
