"""Files from elsewhere: fetched whole, taken out of archives by name, never run."""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from moduv.engine.errors import InputError
from moduv.engine.files import broken_disk, reason_of

GOOGLE_DRIVE = re.compile(
    r"https://drive\.google\.com/(?:file/d/|(?:uc|open)\?(?:.*&)?id=)([\w-]+)"
)
SCHEMES = ("https://", "http://", "file://")
CHUNK = 1 << 20
SILENCE = 60
"""Seconds without a byte after which a server counts as gone."""
LARGEST, DENSEST = 8 << 30, 20
"""Bytes that a file of an archive may have, and how many times those that it takes there."""


def download(source: str, target: Path) -> None:
    """Fetch a file to `target`; what is there is not trusted until the caller has checked it.

    Args:
        source: an address (https, http, file), the link of a public file on Google Drive, or a path.
        target: where it is written.

    Raises:
        InputError: when it cannot be had, ends early, or is a web page.
    """
    drive = GOOGLE_DRIVE.match(source)
    if drive:
        _from_google_drive(drive[1], source, target)
    elif source.startswith(SCHEMES):
        _from_web(source, target)
    elif Path(source).is_file():
        shutil.copyfile(source, target)
    else:
        raise InputError(f"{source}: no such file; give a file or an address.")
    with target.open("rb") as stream:
        if stream.read(64).lstrip()[:1] == b"<":
            raise InputError(f"{source}: gives a web page instead of a file; check the link.")


def _from_web(source: str, target: Path) -> None:
    request = urllib.request.Request(source, headers={"User-Agent": "moduv"})
    try:
        with (
            urllib.request.urlopen(request, timeout=SILENCE) as answer,
            target.open("wb") as stream,
        ):
            told = int(answer.headers.get("Content-Length") or 0)
            name = source.rpartition("/")[2]
            with tqdm(total=told or None, desc=name, unit="B", unit_scale=True, delay=2) as bar:
                while chunk := answer.read(CHUNK):
                    stream.write(chunk)
                    bar.update(len(chunk))
    except (OSError, ValueError) as error:
        _raise_broken_disk(error, target)
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{source}: could not be fetched ({reason}); check the address.") from None
    if told and target.stat().st_size != told:
        raise InputError(
            f"{source}: ended after {target.stat().st_size} of {told} bytes; try again."
        )


def _raise_broken_disk(error: Exception, target: Path) -> None:
    """Raise OSError where not the source is to blame but the disk that is written to."""
    if (broken := broken_disk(error, target)) is not None:
        raise broken from None


def _from_google_drive(identity: str, source: str, target: Path) -> None:
    import gdown  # only here, and it brings a web client

    try:
        gdown.download(id=identity, output=str(target), quiet=True)
    except (OSError, gdown.exceptions.FileURLRetrievalError) as error:
        _raise_broken_disk(error, target)
        reason = " ".join(str(error).split())
        raise InputError(
            f"{source}: could not be fetched ({reason[:200]}); check the link."
        ) from None
    if not target.is_file():
        raise InputError(f"{source}: Google Drive gives no file; check the link.")


def is_archive(path: Path) -> bool:
    """Whether a file is a zip of files; PyTorch's weights, which are zips too, are none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    except Exception:  # in a broken one anything can be wrong
        return False


def unpack(archive: Path, wanted: Sequence[str], folder: Path) -> list[Path]:
    """Take files out of a zip.

    The archive decides nothing about where files are written: what is wanted is looked for by the end
    of its path, and everything else is left in the archive.

    Args:
        archive: a zip.
        wanted: relative paths, e.g. `K_Dynamo-Depth/depth_enc.pth`.
        folder: receives the files under these paths.

    Raises:
        InputError: when one is missing, there twice, or broken.
    """
    taken = []
    try:
        with zipfile.ZipFile(archive) as content:
            for name in wanted:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(_member(content, name)) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream, CHUNK)
                taken.append(target)
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile archive leads to
        _raise_broken_disk(error, archive)
        raise InputError(
            f"{archive.name}: is no whole zip ({reason_of(error)}); fetch it again."
        ) from None
    return taken


def _member(content: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    ending = PurePosixPath(name).parts
    found = [
        member
        for member in content.infolist()
        if PurePosixPath(member.filename).parts[-len(ending) :] == ending
        and not member.is_dir()
        and "__MACOSX" not in member.filename
    ]
    if len(found) != 1:
        raise InputError(
            f"the archive holds {name!r} {len(found)} times instead of once; take another archive."
        )
    # Weights hardly shrink; what shrinks a lot grows to fill the disk.
    if found[0].file_size > min(LARGEST, CHUNK + DENSEST * found[0].compress_size):
        raise InputError(
            f"{name!r} has {found[0].file_size} bytes in the archive, more than any checkpoint; take "
            "another archive."
        )
    return found[0]
