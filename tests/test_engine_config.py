"""Configuration: built strictly, merged deeply, refused in one sentence."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_world import Inner, Labour
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.config import build, load_preset, merge, preset_names, read_preset
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.stages import Stage, read_manifest


@dataclass(frozen=True)
class Outer:
    inner: Inner
    sizes: tuple[int, ...] = (1,)


def test_configuration_is_built_nested_and_strict() -> None:
    config = build(Outer, {"inner": {"rate": "1e-3"}, "sizes": [2, 3]}, "test")
    assert config == Outer(Inner(1e-3), (2, 3))
    with pytest.raises(InputError, match=r"unknown key 'size'"):
        build(Outer, {"inner": {}, "size": 3}, "test")
    with pytest.raises(InputError, match="unknown key 'speed'"):
        build(Outer, {"inner": {"speed": 3}}, "test")
    with pytest.raises(InputError, match="not a number"):
        build(Outer, {"inner": {"rate": "fast"}}, "test")


def test_unknown_preset_names_the_choice() -> None:
    assert {"paper", "street"} <= set(preset_names())
    with pytest.raises(InputError, match="choose one of"):
        read_preset("fastest")
    with pytest.raises(InputError, match="lacks 'rate'; add the missing key"):
        # A missing section means the defaults, and a setting has none.
        load_preset(Labour, "street", "nothing")


@pytest.mark.parametrize(
    ("text", "section", "changed"),
    [
        ("motion: {losses: {min_depth: 1.0}}", "motion", ("losses", "min_depth", 1.0)),
        ("large: {loop: {steps: 900}}", "large", ("loop", "steps", 900)),
    ],
)
def test_an_extended_preset_replaces_single_keys_at_any_depth(
    tmp_path: Path, text: str, section: str, changed: tuple[str, str, float]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: street\n{text}\n")
    # YAML's anchors let sections share their content.
    sections, street = (
        {name: copy.deepcopy(section) for name, section in read_preset(preset).items()}
        for preset in (str(mine), "street")
    )
    inner, key, value = changed
    assert sections[section][inner].pop(key) == value
    street[section][inner].pop(key)
    assert sections == street  # nothing else has changed, also not the preset that is extended


trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@settings(deadline=None)
@given(mappings, mappings)
def test_merging_keeps_what_is_not_named_and_takes_what_is(base: dict, changes: dict) -> None:
    merged = merge(base, changes)
    assert merge(base, {}) == base
    assert merge({}, changes) == changes
    assert merge(merged, changes) == merged
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        assert merged[key] == (merge(base[key], value) if both else value)
    assert {key: merged[key] for key in base if key not in changes} == {
        key: value for key, value in base.items() if key not in changes
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"extends: b.yaml", "must not lead back"),
        (b"measure: [1, 2]", "section 'measure' is .*write a mapping"),
        (b"measure: street", "section 'measure' is .*write a mapping"),
        (b"\xdf{}", "is not UTF-8 text"),
        (b"a: " + 3000 * b"[", "nested too deep|is not valid YAML"),
        (b"- a", "holds no sections"),
    ],
)
def test_broken_presets_are_one_sentence(
    tmp_path: Path, content: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_bytes(content)
    Path("b.yaml").write_text("extends: a.yaml")
    with pytest.raises(InputError, match=sentence) as refused:
        read_preset("a.yaml")
    assert len(str(refused.value)) < 400


def test_files_of_version_0_1_still_work(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: paper\nmeasure: {labels_preset: street, areas: coco}\nx: {ema: 0, steps: 5}"
    )
    assert load_preset(Areas, str(mine), "measure") == Areas("coco")
    assert load_preset(OnlySteps, str(mine), "x") == OnlySteps(5)
    mine.write_text("x: {ema: 0.9}")
    with pytest.raises(InputError, match="'ema' was removed"):
        load_preset(OnlySteps, str(mine), "x")
    stage = Stage("train", tmp_path / "out", OnlySteps())
    stage.run(dict)
    manifest = read_manifest(stage.out)
    write_json(stage.out / "manifest.json", {**manifest, "config": {"steps": 1, "ema": 0.0}})
    stage.run(pytest.fail)
    write_json(stage.out / "manifest.json", {**manifest, "config": {"steps": 1, "ema": 0.9}})
    with pytest.raises(InputError, match=r"ema: 0.9 instead of None"):
        stage.run(dict)


def test_a_preset_extends_another(tmp_path: Path) -> None:
    paper, kitti = read_preset("paper"), read_preset("paper_kitti")
    assert (kitti["motion"]["height"], kitti["motion"]["width"]) == (192, 640)
    assert kitti["motion"]["loops"] == paper["motion"]["loops"]
    assert kitti["final"] == paper["final"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: street\nmeasure: {batch_size: 2}\n")
    assert read_preset(str(mine))["measure"] == {
        **read_preset("street")["measure"],
        "batch_size": 2,
    }
    mine.write_text(f"extends: {mine}\n")
    with pytest.raises(InputError, match="name another preset"):
        read_preset(str(mine))


@dataclass(frozen=True)
class Areas:
    areas: str = "street"


@dataclass(frozen=True)
class OnlySteps:
    steps: int = 1
