"""Whatever lies in a file ends in one sentence or is read: nothing runs, nothing is written elsewhere."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile_world import damaged, quick, sentence
from hypothesis import example, given

from moduv.commands.cli import main
from moduv.engine.files import MEND, read_json, read_npy, read_npz, read_text
from moduv.engine.log import say
from moduv.frames.splits import read_split


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


# --- what is said twice -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 2, "a": 1}]}'])
def test_json_that_says_a_key_twice_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cam.json"
    path.write_text(text)
    assert "the key 'a' occurs twice in one object" in sentence(lambda: read_json(path), path)


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
