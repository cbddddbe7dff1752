"""Official checkpoints: fetched whole, checked, recorded, and never unpacked where an archive wants."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hostile_world import damaged
from hypothesis import HealthCheck, given, settings

from moduv.commands import checkpoints
from moduv.commands.checkpoints import (
    CATALOGUE,
    Checkpoint,
    choose,
    fetch_checkpoints,
    list_checkpoints,
    verify_checkpoints,
)
from moduv.commands.cli import main
from moduv.engine import checkpoint
from moduv.engine.config import read_preset
from moduv.engine.download import download
from moduv.engine.errors import InputError
from moduv.engine.files import read_json


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/short"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"PK\x03\x04 and no more")
        return None


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder that the server publishes."""
    folder = tmp_path / "published"
    folder.mkdir()
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(published))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def ckpts(tmp_path: Path) -> Path:
    return tmp_path / "ckpts"


def weights(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(path, {"weight": torch.full((3,), value)})
    return path


def publish(monkeypatch: pytest.MonkeyPatch, *links: str, **changes: object) -> Checkpoint:
    """Make one checkpoint, of one file, all that there is."""
    item = Checkpoint(
        name="one",
        group="paper",
        what="a test",
        files=("one.pth",),
        licence="none",
        page="https://example.org",
        sources=links,
    )
    item = replace(item, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(checkpoints, "CATALOGUE", (item,))
    return item


def content(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# --- fetching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_public_checkpoint_is_fetched_and_recorded_once(
    scheme: str, server: str, published: Path, ckpts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights(published / "one.pth")
    link = f"{server}/one.pth" if scheme == "http" else file.as_uri()
    publish(monkeypatch, link)
    fetch_checkpoints(folder=ckpts)
    assert (ckpts / "one.pth").read_bytes() == file.read_bytes()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = {"bytes": file.stat().st_size, "sha256": digest, "from": link}
    assert read_json(ckpts / "checksums.json") == {"one.pth": entry}
    file.unlink()  # what is here is not fetched again
    fetch_checkpoints(folder=ckpts)
    assert content(ckpts) == {"one.pth", "checksums.json"}


def test_the_next_link_is_tried_when_one_gives_no_checkpoint(
    server: str, published: Path, ckpts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published / "page").write_text("<!DOCTYPE html><title>Too many users</title>")
    (published / "text").write_text("quota exceeded")
    weights(published / "one.pth")
    wrong = ["missing.pth", "page", "text", "short"]
    publish(monkeypatch, *(f"{server}/{name}" for name in [*wrong, "one.pth"]))
    fetch_checkpoints(folder=ckpts)
    assert read_json(ckpts / "checksums.json")["one.pth"]["from"] == f"{server}/one.pth"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.pth", "could not be fetched (File not found)"),
        ("page", "gives a web page"),
        ("text", "is no PyTorch checkpoint"),
        ("short", "ended after 16 of 1000 bytes"),
    ],
)
def test_what_is_no_checkpoint_leaves_nothing(
    name: str,
    reason: str,
    server: str,
    published: Path,
    ckpts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (published / "page").write_text("<!DOCTYPE html><title>Too many users</title>")
    (published / "text").write_text("quota exceeded")
    publish(monkeypatch, f"{server}/{name}")
    with pytest.raises(InputError, match=r"fetch it by hand from https://example\.org"):
        fetch_checkpoints(folder=ckpts)
    assert reason in capsys.readouterr().out
    assert content(ckpts) == set()


def test_a_server_that_is_not_there_is_said(
    ckpts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, "http://127.0.0.1:9/one.pth")
    with pytest.raises(InputError, match="none of its links works"):
        fetch_checkpoints(folder=ckpts)
    assert "refused" in capsys.readouterr().out


def test_the_hash_that_authors_publish_is_compared(
    published: Path, ckpts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights(published / "one.pth")
    right = hashlib.md5(file.read_bytes()).hexdigest()[:8]
    publish(monkeypatch, file.as_uri(), published="md5:00000000")
    with pytest.raises(InputError):
        fetch_checkpoints(folder=ckpts)
    with pytest.raises(InputError, match=f"begins with {right}, and its authors publish 00000000"):
        fetch_checkpoints(["one"], ckpts, str(file))
    assert content(ckpts) == set()
    publish(monkeypatch, file.as_uri(), published=f"md5:{right}")
    fetch_checkpoints(folder=ckpts)
    assert "one.pth" in content(ckpts)


def test_what_is_not_public_says_how_to_get_it(
    ckpts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["checkpoints", "fetch", "moduv_final", "--folder", str(ckpts)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "fill in the authors' form, https://forms.gle/" in told
    assert "fetch moduv_final --source FILE_OR_LINK" in told
    with pytest.raises(InputError, match="write to the authors"):
        fetch_checkpoints(["W_Dynamo-Depth"], ckpts)


def test_unknown_names_and_files_are_refused(ckpts: Path) -> None:
    with pytest.raises(
        InputError, match="checkpoint 'final' is unknown; choose among paper, moduv"
    ):
        fetch_checkpoints(["final"], ckpts)
    with pytest.raises(InputError, match=r"none\.zip: no such file"):
        fetch_checkpoints(["moduv"], ckpts, "none.zip")


# --- archives ---------------------------------------------------------------------------------------


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


# --- verifying --------------------------------------------------------------------------------------


def test_files_put_there_by_hand_are_recorded_and_compared_from_then_on(
    ckpts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ["checkpoints", "verify", "--folder", str(ckpts)]
    file = weights(ckpts / "moduv_final.pth")
    main(verify)
    assert read_json(ckpts / "checksums.json")["moduv_final.pth"]["from"] == "by hand"
    main(verify)
    weights(file, value=2.0)  # of the same size
    for command in (verify, ["checkpoints", "fetch", "moduv_final", "--folder", str(ckpts)]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert "moduv_final.pth has" in told
        assert "checksums.json says" in told
    way = (
        r"fill in the authors' form, https\S+, then run moduv checkpoints fetch moduv_m2m --source"
    )
    with pytest.raises(InputError, match=rf"moduv_m2m\.pth: not public; {way}"):
        verify_checkpoints(["moduv_m2m"], ckpts)
    with pytest.raises(InputError, match=r"to be fetched; run moduv checkpoints fetch moco\.$"):
        verify_checkpoints(["moco"], ckpts)


def test_another_file_than_before_is_not_put_in_place(
    published: Path,
    ckpts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = weights(published / "one.pth")
    publish(monkeypatch, file.as_uri())
    fetch_checkpoints(folder=ckpts)
    (ckpts / "one.pth").unlink()
    weights(file, value=2.0)
    with pytest.raises(InputError, match="none of its links works"):
        fetch_checkpoints(folder=ckpts)
    assert "checksums.json says" in capsys.readouterr().out
    assert content(ckpts) == {"checksums.json"}


# --- the catalogue ----------------------------------------------------------------------------------


def test_the_preset_finds_every_file_under_its_name() -> None:
    sections = read_preset("paper").values()
    wanted = {
        value
        for section in sections
        if isinstance(section, dict)
        for key, value in section.items()
        if key.endswith("_weights") and value
    }
    assert wanted == {f"ckpts/{item.files[0]}" for item in choose(["paper"])}


def test_the_catalogue_is_whole_and_printed(
    ckpts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(ckpts / "moduv_final.pth")
    weights(ckpts / "N_Dynamo-Depth/depth_enc.pth")
    list_checkpoints(ckpts)
    told = capsys.readouterr().out
    for item in CATALOGUE:
        assert bool(item.sources) != bool(item.access)
        assert all(source.startswith("https://") for source in item.sources)
        for fact in (item.name, item.what, item.licence, item.page, item.access):
            assert fact in told
    assert f"{ckpts}/moduv_final.pth: here, 0 MB" in told
    assert f"{ckpts}/N_Dynamo-Depth: 6 of 7 files are missing" in told
    assert f"{ckpts}/W_Dynamo-Depth: not public" in told
    files = [name for item in CATALOGUE for name in item.files]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    "link",
    [
        "https://drive.google.com/file/d/1b1kw-_x/view?usp=sharing",
        "https://drive.google.com/uc?id=1b1kw-_x",
        "https://drive.google.com/uc?export=download&id=1b1kw-_x",
        "https://drive.google.com/open?id=1b1kw-_x",
    ],
)
def test_links_of_google_drive_are_fetched_by_their_identity(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(*, id: str, output: str, quiet: bool) -> str:
        asked.append(id)
        Path(output).write_bytes(b"PK\x03\x04")
        return output

    monkeypatch.setattr("gdown.download", answer)
    download(link, tmp_path / "file")
    assert asked == ["1b1kw-_x"]
    assert (tmp_path / "file").read_bytes() == b"PK\x03\x04"
