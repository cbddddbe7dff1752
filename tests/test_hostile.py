"""Whatever lies in a file ends in one sentence or is read: nothing runs, nothing is written elsewhere."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_world import damaged, quick, sentence
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from moduv.commands.cli import main
from moduv.datasets.clips import ImportConfig, import_folder
from moduv.engine.config import load_preset, to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_json, read_npy, read_npz, read_text
from moduv.engine.log import say
from moduv.engine.stages import Stage, fingerprint, read_counts
from moduv.frames.camera import Intrinsics
from moduv.frames.images import decode_image, read_image, write_image
from moduv.frames.splits import read_split
from moduv.frames.video import read_clip
from moduv.frames.video_writer import write_video
from moduv.instances.indexed import read_png
from moduv.labels.initial import InitialConfig
from moduv.motion.train import MotionTrainingConfig
from moduv.motion.weights import find_trained
from moduv.rounds.recipe import RoundConfig
from moduv.runs.chains import LABEL_SETS, folder
from moduv.runs.report import training_labels


def npz(**members: bytes) -> bytes:
    """A zip of members as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: np.ndarray, **header: object) -> bytes:
    """An array as it is saved, with other claims in its header."""
    file = io.BytesIO()
    told = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(file, told)  # type: ignore[arg-type]
    return file.getvalue() + array.tobytes()


WHOLE = npy(np.ones((2, 3), np.float32))


@quick
@given(damaged(b'{"boxes": [[1, 2.5, 3, 4e3]], "\xc3\xa9": null}'))
@example(b"[" * 100_000 + b"]" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 5000)
@example(b"[-" + b"9" * 100_000 + b"]")
@example(b"\xff\xfe{\x00")
@example(b"")
def test_any_bytes_as_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "000001.json"
    path.write_bytes(content)
    told = sentence(lambda: read_json(path), path)
    assert "not readable as JSON" in told or "UTF-8" in told or not told


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_text_of_other_systems_is_read(tmp_path: Path, coding: str, mark: str) -> None:
    path = tmp_path / "content"
    path.write_bytes((mark + '{"Straße": 1}').encode(coding))
    if mark or coding == "utf-8":
        assert read_json(path) == {"Straße": 1}
    else:  # without the mark nobody knows
        assert "it is not UTF-8 text; save the file as UTF-8" in sentence(
            lambda: read_text(path), path
        )


def test_files_larger_than_any_text_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "split.txt"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)  # sparse
    for read in (read_json, read_split):
        assert "MiB; give the right file" in sentence(lambda read=read: read(path), path)  # type: ignore[misc]


@quick
@given(damaged(npz(depth=WHOLE)))
def test_any_bytes_as_npz_and_npy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "000001.npz"
    path.write_bytes(content)
    sentence(lambda: read_npz(path, ("depth",)), path)
    sentence(lambda: read_npy(path), path)


@quick
@given(damaged(WHOLE))
@example(npy(np.ones(3), shape=(1 << 31, 11)))
@example(npy(np.ones(3), shape=(1 << 30, 1 << 30)))
@example(npy(np.ones(3), shape=(10**30,)))
@example(npy(np.ones(3), shape=(-3,)))
@example(npy(np.ones(3), shape=(1,) * 200))
@example(npy(np.ones(3), descr="|O"))
@example(npy(np.ones(3), descr="|V0", shape=(1 << 62,)))
@example(npy(np.ones(3), descr=[("x", "<f8")]))
@example(npy(np.ones(3), descr=[1, 2]))
@example(npy(np.ones(3), descr=("<f8",)))
@example(npy(np.ones(3, np.complex64)))
@example(npy(np.array(["a", "b"])))
@example(npy(np.array(["2026-01-01"], "M8[D]")))
@example(b"\x93NUMPY\x01\x00v\x00" + b"(" * 117 + b"\n")
@example(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
def test_any_array_in_an_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "000001.npz"
    path.write_bytes(npz(depth=content))
    read: list[np.ndarray] = []
    told = sentence(lambda: read.append(read_npz(path, ("depth",))["depth"]), path)
    assert all(array.dtype.kind in "biuf" for array in read)
    assert MEND in told or read


def test_what_is_no_npz_is_said(tmp_path: Path) -> None:
    path = tmp_path / "000001.npz"
    path.write_bytes(WHOLE)
    assert "not readable as npz" in sentence(lambda: read_npz(path, ("depth",)), path)
    path.write_bytes(npz(depth=WHOLE))
    assert "not readable as npy" in sentence(lambda: read_npy(path), path)
    assert "lacks the array 'inv_K' (it holds depth)" in sentence(
        lambda: read_npz(path, ("depth", "inv_K")), path
    )
    path.write_bytes(npz(depth=bytes(600 << 20)))
    assert "'depth' has more than 512 MiB" in sentence(lambda: read_npz(path, ("depth",)), path)


# --- splits -----------------------------------------------------------------------------------------


@quick
@given(damaged(b"train/a 1\nval/b 000002 l\n"))
def test_any_bytes_as_split(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "split.txt"
    path.write_bytes(content)
    frames = []
    told = sentence(lambda: frames.extend(read_split(path)), path)
    assert bool(told) != bool(frames)
    root = tmp_path / "root"
    for frame in frames:
        assert frame.file(root, ".json").resolve().is_relative_to(root.resolve())


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", " \n\n\t\n"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_splits_of_other_systems_are_read(tmp_path: Path, coding: str, ends: str) -> None:
    path = tmp_path / "split.txt"
    path.write_bytes(f"train/é 1{ends}train/b 000002{ends}".encode(coding))
    assert [frame.line() for frame in read_split(path)] == ["train/é 1", "train/b 2"]


@pytest.mark.parametrize(
    "segment",
    [
        *(
            "../a",
            "a/../../b",
            "/etc",
            "//host/share",
            "C:a",
            "C:/a",
            "c:\\a",
            "..\\a",
            "a\\b",
            "\\a",
        ),
        *("\\\\host\\share\\a", "a/..", ".."),
    ],
)
def test_splits_stay_inside_their_folder(tmp_path: Path, segment: str) -> None:
    path = tmp_path / "split.txt"
    path.write_text(f"a 1\n{segment} 2\n")
    told = sentence(lambda: read_split(path), path)
    assert "line 2 leaves the data folder" in told


@pytest.mark.parametrize("number", ["²", "٣", "１", "1.5", "-1", "+1", "1e3", "0x1", "9" * 5000])
def test_numbers_that_name_no_file_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "split.txt"
    path.write_text(f"a {number}\n", encoding="utf-8")
    assert "line 1 is" in sentence(lambda: read_split(path), path)


def test_binary_and_latin_1_splits_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "split.txt"
    for content in (
        b"a\0 1\n",
        "Stra\xdfe 1\n".encode("latin-1"),
        json.dumps("x").encode("utf-16-le"),
    ):
        path.write_bytes(content)
        assert "save the file as UTF-8" in sentence(lambda: read_split(path), path)


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


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 2, "a": 1}]}'])
def test_json_that_says_a_key_twice_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cam.json"
    path.write_text(text)
    assert "the key 'a' occurs twice in one object" in sentence(lambda: read_json(path), path)


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


@pytest.mark.parametrize("line", ["my clip 1", "my 12 000001", "a 1 2", "a 1 l r", "a 1 x"])
def test_lines_with_more_than_a_frame_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "split.txt"
    path.write_text(f"a 1\n{line}\n", encoding="utf-8")
    assert "line 2 is" in sentence(lambda: read_split(path), path)


def test_frames_that_are_named_again_count_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "split.txt"
    path.write_text("a 2\na 000001\na 1\na 2 \nb 1 l\n")
    assert [frame.line() for frame in read_split(path)] == ["a 2", "a 1", "b/image_02 1"]
    assert "names 2 of its frames again, which count once" in capsys.readouterr().out


# --- pictures -----------------------------------------------------------------------------------------


def test_files_larger_than_any_picture_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "000001.png"
    path.write_bytes(b"\x89PNG")
    os.truncate(path, 40 << 30)  # sparse
    assert "larger than the 1024 MiB" in sentence(lambda: read_image(path), path)
    assert "larger than the 512 MiB" in sentence(lambda: read_png(path), path)


def picture(form: str, **options: Any) -> bytes:
    """A smooth picture of odd sides."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((331, 205), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@quick
@given(
    st.integers(0, 2),
    st.sampled_from(["restart_marker_blocks", "restart_marker_rows"]),
    st.integers(1, 7),
    st.booleans(),
    st.data(),
)
def test_parts_that_are_cut_out_of_a_jpeg(
    subsampling: int, unit: str, every: int, progressive: bool, data: st.DataObject
) -> None:
    """Restart markers let decoders go on behind a gap, as if nothing were missing."""
    kept = {"subsampling": subsampling, unit: every, "progressive": progressive}
    content = picture("JPEG", quality=90, **kept)
    decode_image(content, "whole")
    ends = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", content)]
    if progressive or len(ends) < 2:
        return
    first = data.draw(st.integers(0, len(ends) - 2))
    last = data.draw(st.integers(first + 1, len(ends) - 1))
    with pytest.raises(InputError, match="a part of its data is missing"):
        decode_image(content[: ends[first]] + content[ends[last] :], "cut")


def test_strips_of_a_tiff_that_do_not_decode() -> None:
    content = bytearray(picture("TIFF", compression="tiff_lzw"))
    decode_image(bytes(content), "whole")
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    with pytest.raises(InputError, match="a part of it does not decode"):
        decode_image(bytes(content), "cut")


# --- videos and clips -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile real.mp4\nfile real.mp4\n",
        "ffconcat version 1.0\nfile list.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_lists_of_files_are_no_videos(tmp_path: Path, text: str) -> None:
    frames = [np.full((32, 48, 3), 40 * n, np.uint8) for n in range(5)]
    write_video(
        tmp_path / "real.mp4", [(n / 10, image) for n, image in enumerate(frames)], Fraction(10)
    )
    assert len(list(read_clip(tmp_path / "real.mp4"))) == 5
    path = tmp_path / "list.mp4"
    path.write_text(text)
    assert "does not decode" in sentence(lambda: list(read_clip(path)), path)


def test_scenes_are_not_called_like_other_clips(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 30, 3)).astype(np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((600, 48), Image.Resampling.BICUBIC))
    for name, count in (("a", 5), ("a-1", 7), ("a-1_", 4)):
        for index in range(count):
            image = wide[:, 3 * index : 3 * index + 80]
            write_image(tmp_path / f"in/{name}/{index}.png", image)
            if name == "a":
                write_image(tmp_path / f"in/{name}/{index + 5}.png", 255 - image)
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60))
    counts = {p.name: len(list(p.glob("*.jpg"))) for p in (tmp_path / "out/clips").iterdir()}
    assert counts == {"a": 5, "a-1": 7, "a-1_": 4, "a-1__": 5}
    frames = read_split(tmp_path / "out/splits/train_files.txt")
    assert len(frames) == 3 + 5 + 2 + 3


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0.5, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [9, 9, 9, 9]],
        [[1, 0, 0.5, 0, 0], [0, 1, 0.5, 0, 0], [0, 0, 1, 0, 0]],
        [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1], [0, 0, 0]],
    ],
)
def test_matrices_of_other_shapes_are_no_cameras(tmp_path: Path, matrix: object) -> None:
    path = tmp_path / "cam.json"
    path.write_text(json.dumps({"intrinsic_mat": matrix}))
    load = lambda: Intrinsics.from_cam_json(path, 100, 100)  # noqa: E731
    assert "is not a 3 x 3 camera matrix" in sentence(load, path)


# --- where a command runs -----------------------------------------------------------------------------


def test_a_reader_that_leaves_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `moduv … | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(3):
            say("a line")
        monkeypatch.setattr(sys, "stdout", None)
        say("nobody listens")


def test_a_folder_that_was_deleted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--ground_truth", "t.json", "--predictions", "t.json"])
    assert stopped.value.code == 2
    assert "the folder in which this command runs was deleted" in capsys.readouterr().err
