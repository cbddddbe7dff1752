"""Images, videos, clips and cameras of any content are read or refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_world import quick, sentence
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moduv.datasets.clips import ImportConfig, import_folder
from moduv.engine.errors import InputError
from moduv.frames.camera import Intrinsics
from moduv.frames.images import decode_image, read_image, write_image
from moduv.frames.splits import read_split
from moduv.frames.video import read_clip
from moduv.frames.video_writer import write_video
from moduv.instances.indexed import read_png

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
