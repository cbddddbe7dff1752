"""Archives of checkpoints: unpacked to their places only, and only if they load."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_world import content, weights
from hostile_world import damaged
from hypothesis import HealthCheck, given, settings

from moduv.commands import checkpoints
from moduv.commands.checkpoints import choose, fetch_checkpoints, verify_checkpoints
from moduv.commands.cli import main
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.files import read_json


@pytest.fixture
def ckpts(tmp_path: Path) -> Path:
    return tmp_path / "ckpts"


def test_an_archive_decides_nothing_about_where_files_go(tmp_path: Path, ckpts: Path) -> None:
    file = weights(tmp_path / "some.pth")
    with zipfile.ZipFile(tmp_path / "ckpts.zip", "w") as archive:
        for item in choose(["moduv"]):
            archive.write(file, f"ckpts/{item.files[0]}")
            archive.writestr(f"__MACOSX/ckpts/{item.files[0]}", b"resource fork")
        archive.write(file, "../../outside.pth")
        archive.write(file, str(tmp_path / "absolute.pth"))
        archive.writestr("ckpts/run_me.py", "raise SystemExit")
    fetch_checkpoints(["moduv"], ckpts, str(tmp_path / "ckpts.zip"))
    names = {f"moduv_{part}.pth" for part in ("final", "m2m", "l2s_l", "l2s_s")}
    assert content(ckpts) == {*names, "checksums.json"}
    assert content(tmp_path) == {"some.pth", "ckpts.zip", *(f"ckpts/{n}" for n in content(ckpts))}
    assert set(read_json(ckpts / "checksums.json")) == names


def test_a_folder_of_modules_comes_out_of_its_zip(
    tmp_path: Path, ckpts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = choose(["K_Dynamo-Depth"])
    with zipfile.ZipFile(tmp_path / "K.zip", "w") as archive:
        for number, name in enumerate(item.files):
            archive.write(weights(tmp_path / "module.pth", number), name)
    linked = replace(item, sources=((tmp_path / "K.zip").as_uri(),))
    monkeypatch.setattr(checkpoints, "CATALOGUE", (linked,))
    fetch_checkpoints(["dynamo-depth"], ckpts)
    for number, name in enumerate(item.files):
        assert checkpoint.load_weights(ckpts / name)["weight"].tolist() == [number] * 3
    (ckpts / item.files[2]).unlink()
    with pytest.raises(InputError, match="1 of 7 files are missing"):
        verify_checkpoints(folder=ckpts)
    fetch_checkpoints(["dynamo-depth"], ckpts)
    verify_checkpoints(folder=ckpts)


def test_broken_archives_leave_nothing(tmp_path: Path, ckpts: Path) -> None:
    (item,) = choose(["K_Dynamo-Depth"])
    file = weights(tmp_path / "module.pth")
    archives = {name: tmp_path / f"{name}.zip" for name in ("lacking", "twice", "cut")}
    with zipfile.ZipFile(archives["lacking"], "w") as archive:
        for name in item.files[:-1]:
            archive.write(file, name)
    with zipfile.ZipFile(archives["twice"], "w") as archive:
        for folder in ("a", "b"):
            for name in item.files:
                archive.write(file, f"{folder}/{name}")
    with zipfile.ZipFile(archives["cut"], "w") as archive:
        for name in item.files:
            archive.write(file, name)
    broken = bytearray(archives["cut"].read_bytes())
    broken[len(broken) // 3 : len(broken) // 3 + 400] = bytes(400)
    archives["cut"].write_bytes(broken)
    sentences = {
        "lacking": r"motion_mask\.pth' 0 times",
        "twice": r"depth_enc\.pth' 2 times",
        "cut": "no whole zip",
    }
    for name, sentence in sentences.items():
        with pytest.raises(InputError, match=sentence):
            fetch_checkpoints(["K_Dynamo-Depth"], ckpts, str(archives[name]))
    assert content(ckpts) == set()


def test_one_file_is_not_taken_for_several_checkpoints(tmp_path: Path, ckpts: Path) -> None:
    file = weights(tmp_path / "some.pth")  # PyTorch's files are zips as well
    with pytest.raises(InputError, match="is one file; name the one checkpoint"):
        fetch_checkpoints(["moduv"], ckpts, str(file))
    fetch_checkpoints(["moduv_m2m"], ckpts, str(file))
    assert (ckpts / "moduv_m2m.pth").read_bytes() == file.read_bytes()
    assert file.is_file()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


def zipped(content: bytes, name: str = "moduv_final.pth", mode: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr, member.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(member, content)
    return file.getvalue()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


GOOD = saved({"weight": torch.rand(500)})
HOSTILE = {
    "cut archive": zipped(b"PK\x03\x04" + os.urandom(100_000))[:-200],
    "cut archive of a checkpoint": zipped(GOOD)[:-30],
    "cut checkpoint": GOOD[:-200],
    "half a checkpoint": GOOD[: len(GOOD) // 2],
    "only the beginning": b"PK\x03\x04",
    "nothing": b"",
    "zeros behind the beginning": zipped(b"PK\x03\x04" + bytes(64 << 20)),
    "a member of noise": zipped(b"PK\x03\x04" + os.urandom(100_000)),
    "code": saved({"weight": Evil()}),
    "code in an archive": zipped(saved(Evil())),
    "a number": saved(7),
    "a link": zipped(b"/etc/passwd", mode=0o120777),
    "a way up": zipped(GOOD, "../../moduv_final.pt"),
    "another member": zipped(GOOD, "other.pth"),
    "a folder": zipped(b"", "moduv_final.pth/"),
    "an archive in an archive": zipped(zipped(GOOD)),
    "a damaged directory": zipped(GOOD).replace(b"PK\x01\x02", b"PK\x01\x03"),
    "encrypted": zipped(GOOD).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    ),
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_is_placed_or_recorded_unless_it_loads(
    source: bytes,
    tmp_path: Path,
    ckpts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.zip").write_bytes(source)
    with pytest.raises(SystemExit) as stopped:
        main(["checkpoints", "fetch", "moduv_final", "--source", "s.zip", "--folder", str(ckpts)])
    assert stopped.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "fetch it again" in told or "take another archive" in told
    assert content(ckpts) == set()
    assert content(tmp_path) == {"s.zip"}


@pytest.mark.parametrize(
    "place", ["moduv_final.pth", "../moduv_final.pth", "/moduv_final.pth", "a/b/moduv_final.pth"]
)
def test_a_member_goes_to_its_place_whatever_its_name(
    place: str, tmp_path: Path, ckpts: Path
) -> None:
    (tmp_path / "s.zip").write_bytes(zipped(GOOD, place))
    fetch_checkpoints(["moduv_final"], ckpts, str(tmp_path / "s.zip"))
    assert content(tmp_path) == {"s.zip", "ckpts/moduv_final.pth", "ckpts/checksums.json"}


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damaged(zipped(GOOD)))
def test_any_bytes_as_archive(tmp_path: Path, source: bytes) -> None:
    file, folder = tmp_path / "s.zip", tmp_path / "any"
    file.write_bytes(source)
    try:
        fetch_checkpoints(["moduv_final"], folder, str(file))
    except InputError:
        assert content(folder) == set()
    else:
        assert isinstance(checkpoint.load(folder / "moduv_final.pth"), dict)
        shutil.rmtree(folder)
