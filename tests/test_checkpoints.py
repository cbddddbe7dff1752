"""Official checkpoints: fetched whole, checked, recorded, and never unpacked where an archive wants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from checkpoint_world import content, weights

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
