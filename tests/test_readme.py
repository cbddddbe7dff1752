"""What the documentation shows works: commands parse, scripts know their flags, Python blocks run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from detector_world import write_detectors, write_world

import moduv
from moduv.commands.cli import command_of, parse
from moduv.engine.config import read_preset
from moduv.frames.images import read_image, write_image
from moduv.frames.video_writer import write_video
from moduv.runs.catalogue import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)


def blocks(page: str, kind: str) -> list[str]:
    return [body for name, body in FENCE.findall((ROOT / page).read_text()) if name == kind]


def shell_lines(page: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a page, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines, held = [], ""
    for line in text.splitlines():
        held = f"{held}\n{line}" if held else line
        try:
            lines.append(shlex.split(held, comments=True))
        except ValueError:  # a quotation that goes on in the next line
            continue
        held = ""
    found = re.findall(r"^([A-Z]+)=\"?([^\"\n#]*)", text, re.M)
    variables = {name: value.strip() for name, value in found}
    single = [part for line in lines for part in _parts(line)]
    expanded = [[_expanded(word, variables) for word in line] for line in single if line]
    return [[part for word in line for part in word] for line in expanded]


def _expanded(word: str, variables: dict[str, str]) -> list[str]:
    """A word as the shell would split it."""
    for name, value in variables.items():
        if word == f"${name}":
            return value.split()
        word = word.replace(f"${name}", value)
    return [word]


def _parts(words: list[str]) -> list[list[str]]:
    """A line's commands, where && or ; joins several."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in {"&&", ";", "|"}:
            parts.append([])
        elif "=" in word and not parts[-1] and word.partition("=")[0].isupper():
            continue  # a variable of the environment
        else:
            parts[-1].append(word)
    return parts


def commands(page: str) -> list[list[str]]:
    return [
        line[1:] for line in shell_lines(page) if line[0] == "moduv" and line[1:2] != ["--help"]
    ]


@pytest.mark.parametrize(
    ("page", "words"), [(page, words) for page in PAGES for words in commands(page)]
)
def test_every_command_of_the_documentation_parses(page: str, words: list[str]) -> None:
    name = command_of(words)
    assert name is not None, words
    options = words[len(name.split()) :]
    if "\u2026" in options:  # the rest of the line is left to the reader
        return
    if options not in (["--help"], []) or not _needs_options(name):
        options = [word for word in options if word != "--help"]
        parse(name, options)


def _needs_options(name: str) -> bool:
    return name not in {"doctor", "checkpoints list", "checkpoints fetch", "checkpoints verify"}


def scripts(page: str) -> list[list[str]]:
    return [line[1:] for line in shell_lines(page) if line[0] == "bash"]


@pytest.mark.parametrize(("page", "words"), [(p, words) for p in PAGES for words in scripts(p)])
def test_every_script_of_the_documentation_knows_its_flags(
    page: str, words: list[str], tmp_path: Path
) -> None:
    script, *flags = words
    assert (ROOT / script).is_file()
    if not re.match(r"scripts/(\d_|quickstart|slurm_chain)", script) or "0_download" in script:
        return
    environment = {**os.environ, "MODUV_ENVIRONMENT": "ready", "SAVE": str(tmp_path / "run")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [
        "bash",
        str(ROOT / script),
        "--dry-run",
        *[flag for flag in flags if flag != "--dry-run"],
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [text for page in PAGES for text in blocks(page, "yaml")])
def test_presets_of_the_documentation_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert set(yaml.safe_load(text)) - {"extends"} <= set(read_preset(str(tmp_path / "mine.yaml")))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an untrained detector in the place of the quickstart's; the run of clips is shown only."""
    write_detectors(tmp_path / "save/street", "R3_Final")
    write_world(tmp_path, 2)
    image = read_image(tmp_path / "frames/train/clip_0000/000000.png")
    write_image(tmp_path / "frame.jpg", image)
    write_video(tmp_path / "clip.mp4", [(0.1 * t, image) for t in range(3)], Fraction(10))
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, str]] = []
    shown = blocks("README.md", "python")
    assert len(shown) == 3
    monkeypatch.setattr(moduv, "run", lambda clips, out: asked.append((clips, out)), raising=False)
    for text in shown:
        exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "out.png").is_file()
    assert asked == [("my_clips", "save/mine")]


def test_every_extra_is_in_the_readme() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    part = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.M | re.S)
    assert part is not None
    extras = re.findall(r"^(\w+) = \[", part[1], re.M)
    readme = (ROOT / "README.md").read_text()
    assert all(f"'.[{name}]'" in readme for name in extras)


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == moduv.__version__
    assert f"## {moduv.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_layout_names_every_room() -> None:
    layout = next(text for text in blocks("README.md", "") if text.startswith("moduv/"))
    named = set(re.findall(r"^  (\w+)/", layout, re.M))
    rooms = {
        path.name for path in (ROOT / "moduv").iterdir() if path.is_dir() and path.name[0] != "_"
    }
    assert named == rooms
    assert shutil.which("bash")
    assert set(COMMANDS) >= {"run", "demo", "measure"}
