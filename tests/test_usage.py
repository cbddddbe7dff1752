"""What the command line says of itself, and how words are told from options."""

from __future__ import annotations

from pathlib import Path

import pytest

from moduv.commands.cli import COMMANDS, main, parse
from moduv.engine.errors import InputError


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Exit code, output and errors of a line."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


def test_a_first_word_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = told(capsys, "depth", "--help")
    assert code == 0
    assert "depth pseudo" in shown
    assert "labels track" not in shown
    assert told(capsys, "depth") == (2, "", shown)
    assert "evaluate vos" in told(capsys, "evaluate")[2]
    assert "moduv evaluate vos" in told(capsys, "evaluate", "--help")[1]
    code, shown, _ = told(capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("folow clip --mask a.png", "'folow'; did you mean 'follow'? 'moduv --help'"),
        ("depth pseudu", "'depth pseudu'; did you mean 'depth pseudo'? 'moduv depth'"),
        ("evaluate vso --truth a", "'evaluate vso'; did you mean 'evaluate vos'?"),
        ("--preset street", "'--preset'; 'moduv --help' lists"),
    ],
)
def test_an_unknown_command_is_one_sentence(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = told(capsys, *line.split())
    assert code == 2
    assert sentence in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", [*COMMANDS])
def test_options_are_shown_as_they_are_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(name, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "<class" not in shown
    assert "Path to a configuration file" not in shown
    assert "LIST_OF_PATHS" not in shown
    for words in shown.split("(required, ")[1:]:
        assert "default:" not in words.partition(")")[0]


def test_a_preset_without_the_settings_of_a_command_names_others() -> None:
    with pytest.raises(InputError, match=r"'paper' has no section 'depth_ground'.*cityscapes_uns"):
        parse("depth ground", ["--data", "a"])


def test_words_may_stand_anywhere() -> None:
    options = ["--mask", "m.png", "--weights=w.pth"]
    for line in (["clip", *options], [*options, "clip"], [*options[:2], "clip", options[2]]):
        values = parse("follow", line)
        assert (values["video"], values["mask"]) == (Path("clip"), Path("m.png"))
    values = parse("run", ["a", "--out", "o", "--dry-run", "b", "--insist", "false", "c"])
    assert values["sources"] == [Path("a"), Path("b"), Path("c")]
    assert (values["dry_run"], values["insist"]) == (True, False)
    assert parse("checkpoints fetch", ["a", "--folder", "f", "b"])["names"] == ["a", "b"]
    assert parse("checkpoints fetch", [])["names"] is None
    with pytest.raises(InputError, match="2 values are given for VIDEO: a, b"):
        parse("follow", ["a", *options, "b"])
