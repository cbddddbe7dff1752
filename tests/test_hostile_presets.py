"""Presets, options and manifests of any content are read or refused in one sentence."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_world import damaged, quick, sentence
from hypothesis import given

from moduv.commands.cli import main
from moduv.engine.config import load_preset, to_dict
from moduv.engine.errors import InputError
from moduv.engine.stages import Stage, fingerprint, read_counts
from moduv.labels.initial import InitialConfig
from moduv.motion.train import MotionTrainingConfig
from moduv.motion.weights import find_trained
from moduv.rounds.recipe import RoundConfig
from moduv.runs.chains import LABEL_SETS, folder
from moduv.runs.report import training_labels

# --- presets ----------------------------------------------------------------------------------------


@quick
@given(damaged(b"initial_labels:\n  {eps: 0.1, window: 2, snap: on}\nlarge: &a [1, *a]"))
def test_any_bytes_as_preset(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)

    def load() -> None:
        load_preset(InitialConfig, str(path), "initial_labels")

    sentence(load, path)


def bomb(form: str, height: int = 30) -> str:
    """YAML whose aliases would be written out 9 ** height times."""
    lines = ["a0: &a0 {x: 1}"]
    for n in range(1, height):
        below = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} " + form.format(below))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("initial_labels: [1, 2]", "write a mapping"),
        ("initial_labels: street", "write a mapping"),
        ("initial_labels:", "write a mapping"),
        ("initial_labels: 3", "write a mapping"),
        ("1: {eps: 1}", "write a mapping"),
        ("", "holds no sections"),
        (bomb("[{}]"), "its aliases repeat too much"),
        (bomb("{{<<: [{}]}}"), "its aliases repeat too much"),
        ("a: &a [*a]", "its aliases repeat too much"),
        ("a: &a {<<: *a}", "its aliases repeat too much|is not valid YAML"),
        ("a: {b: &b " + "x" * 900_000 + ", c: [*b, *b, *b]}", "its aliases repeat too much"),
        ("a: " + "[" * 3000, "is not valid YAML"),
        ("a: " + "{b: " * 3000, "is not valid YAML"),
        ("a: " + "- " * 3000, "is not valid YAML"),
        ("a: {b: " + "9" * 5000 + "}", "is not valid YAML"),
        ("a: {b: 2026-99-99}", "is not valid YAML"),
        ("a: {b: !!timestamp x}", "is not valid YAML"),
        ("a: {b: !!bool x}", "is not valid YAML"),
        ("a: {b: !!int ''}", "is not valid YAML"),
        ("a: {[1]: 2}", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("a: !!python/object/apply:os.mkdir [owned]", "is not valid YAML"),
        ("a: !!python/object/new:os.mkdir [owned]", "is not valid YAML"),
        ("a: !!python/name:os.mkdir", "is not valid YAML"),
        ("a: !!python/module:os", "is not valid YAML"),
        ("a: \x07", "is not valid YAML"),
        ("#" + " " * (1 << 20), "has more than 1 MiB"),
        ("initial_labels: {eps: .nan}", "give a finite number"),
        ("initial_labels: {eps: -.inf}", "give a finite number"),
        ("initial_labels: {eps: 1e999}", "give a finite number"),
        ("initial_labels: {eps: true}", "is not of type float"),
        ("initial_labels: {eps: [1]}", "give a finite number"),
        ("initial_labels: {eps: " + "9" * 400 + "}", "give a finite number"),
        ("initial_labels: {window: 1.5}", "is not of type int"),
        ("initial_labels: {window: " + "9" * 30 + "}", "is not of type int"),
        ("initial_labels: {relative: 1}", "is not of type bool"),
        ("initial_labels: {2: 1}", "unknown key 2"),
        ("initial_labels: {" + "x" * 900 + ": 1}", "unknown key 'x"),
        ("large: {loop: [1]}", "is not of type mapping"),
        ("large: {loop: 1}", "is not of type mapping"),
        ("large: {loop: null}", "is not of type mapping"),
        ("large: {loop: {optimizer: 3}}", "is not of type str"),
        ('large: {loop: {optimizer: "\\0"}}', "is not of type str"),
        ('large: {loop: {optimizer: "\\ud800"}}', "is not of type str"),
    ],
)
def test_hostile_presets_are_one_sentence(
    tmp_path: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    told = ""
    for kind, section in ((InitialConfig, "initial_labels"), (RoundConfig, "large")):
        try:
            load_preset(kind, str(path), section)
        except InputError as error:
            told = told or str(error)
    assert re.search(words, told)
    assert "mine.yaml" in told
    assert "\n" not in told
    assert len(told) < len(str(path)) + 600
    assert os.listdir(tmp_path) == ["mine.yaml"]


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_presets_of_other_systems_are_read(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("extends: street\r\ninitial_labels: {eps: 0.5}\r\n".encode(coding))
    assert load_preset(InitialConfig, str(path), "initial_labels").eps == 0.5


@pytest.mark.parametrize(
    "content",
    [
        b"config: {eps: \xdf}",
        b"\xff\xfe{\x00",
        b"config: {window: " + b"9" * 5000 + b"}",
        b"[" * 9999,
    ],
)
@pytest.mark.parametrize("option", ["--cfg", "--config"])
def test_files_of_options_end_in_words(
    tmp_path: Path, content: bytes, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(
            ["labels", "initial", "--split", "a", "--motion", "b", "--out", "c", option, str(path)]
        )
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", ".nan", "1e999", "9" * 5000])
def test_settings_that_are_no_numbers_leave_nothing(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.txt").write_text("a 1\n")
    options = [
        "--split",
        f"{tmp_path}/s.txt",
        "--motion",
        f"{tmp_path}",
        "--out",
        f"{tmp_path}/out",
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["labels", "initial", *options, "--config.eps", value])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- manifests --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0


WHOLE_MANIFEST = {"stage": "inner", "config": {"rate": 1.0}, "inputs": {}, "results": {}}


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "[1]", "7", "null", '"text"', "{}", "true", "[" * 100_000, "{", "", "9" * 5000),
        *('{"a":' * 800 + "1" + "}" * 800, '{"stage": "inner"}', '{"config": {}}'),
        *(json.dumps({**WHOLE_MANIFEST, key: 7}) for key in WHOLE_MANIFEST),
        *(
            json.dumps({**WHOLE_MANIFEST, "seconds": value})
            for value in ("1", -1, [1], float("nan"))
        ),
        json.dumps({"config": WHOLE_MANIFEST["config"], "stage": "motion train"}),
        json.dumps({**WHOLE_MANIFEST, "config": json.loads('{"a":' * 400 + "1" + "}" * 400)}),
    ],
    ids=lambda content: content[:30],
)
@pytest.mark.parametrize("name", ["manifest.json", ".manifest.json"])
def test_what_is_no_manifest_is_said(tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text(content)
    told = sentence(lambda: Stage("inner", path.parent, Settings()).run(dict), path.parent)
    assert told or json.loads(content).get("results") is None or name == ".manifest.json"
    if name == "manifest.json":
        path.write_text(content)
        assert sentence(lambda: find_trained(path.parent), path.parent)
        sentence(lambda: fingerprint(path.parent), path)
        sentence(lambda: read_counts(path.parent, "frames"), path)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": []},
        {"config": {"surprise": 1}},
        {"config": {"loops": 3}},
        {"results": {"focal_factor": "far"}},
        {"results": {"focal_factor": 0}},
        {"results": {"focal_factor": float("nan")}},
        {"results": None},
    ],
)
def test_a_training_with_another_manifest_is_refused(tmp_path: Path, changes: dict) -> None:
    config = to_dict(load_preset(MotionTrainingConfig, "street", "motion"))
    manifest = {"stage": "motion train", "config": config, "inputs": {}, "results": {}, **changes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert sentence(lambda: find_trained(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "results", [{"frames": 3}, {"frames": "3"}, {"frames": 3, "instances": []}]
)
def test_label_sets_without_counts_are_named(tmp_path: Path, results: dict) -> None:
    path = folder(tmp_path, LABEL_SETS["L0"].name) / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**WHOLE_MANIFEST, "results": results}))
    assert "are no counts" in sentence(lambda: training_labels(tmp_path), path)


# --- what is said twice -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "initial_labels: {eps: 1}\ninitial_labels: {window: 3}",
        "initial_labels: {eps: 1, window: 3, eps: 2}",
        "large: {loop: {steps: 1, 'steps': 2}}",
    ],
)
def test_presets_that_say_a_key_twice_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    load = lambda: load_preset(InitialConfig, str(path), "initial_labels")  # noqa: E731
    assert "occurs twice" in sentence(load, path)


def test_presets_may_take_over_what_they_change(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {eps: 1.0, window: 6}\ninitial_labels: {<<: *a, eps: 0.5}\n")
    config = load_preset(InitialConfig, str(path), "initial_labels")
    assert (config.eps, config.window) == (0.5, 6)
