"""Video files are read as players show them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from ingest_world import encode, set_display_matrix, street_frames, write_video

from moduv.datasets.clips import name_clips
from moduv.engine.errors import InputError
from moduv.frames.images import resize_image, small_grey
from moduv.frames.video import read_clip


def corners(width: int = 160, height: int = 96) -> np.ndarray:
    """A grey picture with a red corner top left, a green one top right and a blue one bottom right."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 3, : width // 3] = 255, 0, 0
    image[: height // 3, -width // 3 :] = 0, 255, 0
    image[-height // 3 :, -width // 3 :] = 0, 0, 255
    return image


@pytest.mark.parametrize(
    ("turn", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
@pytest.mark.parametrize("grey_width", [0, 48])
def test_videos_are_turned_and_mirrored_as_they_say(
    tmp_path: Path, turn: tuple[int, ...], shown: Any, grey_width: int
) -> None:
    write_video(tmp_path / "a.mp4", [corners()] * 3)
    set_display_matrix(tmp_path / "a.mp4", *turn)
    ((_, image), *_) = read_clip(tmp_path / "a.mp4", grey_width=grey_width)
    expected = np.ascontiguousarray(shown(corners()))
    if grey_width:
        expected = small_grey(expected, grey_width)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    "name", ["a.avi", "a.mp4", "a.mkv", "a.TS", "a.m2ts", "a.mts", "a.mov", "a.flv", "a.asf"]
)
def test_times_grow_in_every_container(tmp_path: Path, name: str) -> None:
    encode(tmp_path / f"in/{name}", street_frames(12))
    (clip,) = name_clips([tmp_path / "in"]).values()
    frames = list(read_clip(clip))
    assert [time for time, _ in frames] == pytest.approx([0.1 * i for i in range(12)], abs=2e-3)
    for (_, image), expected in zip(frames, street_frames(12), strict=True):
        assert np.abs(image.astype(int) - expected).mean() < 8


def test_repeated_times_are_replaced(tmp_path: Path) -> None:
    packets: list[Any] = []
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.pix_fmt, stream.height, stream.width = "yuvj420p", 96, 160
        for image in street_frames(6):
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        for packet, time in zip(packets, [0, 100, 100, 300, 300, 500], strict=True):
            packet.pts = packet.dts = time
            packet.time_base = Fraction(1, 1000)
            container.mux_one(packet)
    times = [time for time, _ in read_clip(tmp_path / "a.mkv")]
    assert len(times) == 6
    assert np.diff(times).min() > 0


def test_absurd_pixels_and_files_without_picture_are_named(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", street_frames(4), sample_aspect_ratio=Fraction(1, 100))
    with pytest.raises(InputError, match=r"a\.mp4: has pixels of 1:100"):
        list(read_clip(tmp_path / "a.mp4"))
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        audio = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    with pytest.raises(InputError, match=r"b\.mkv: has no video stream"):
        list(read_clip(tmp_path / "b.mkv"))


@pytest.mark.parametrize("first", ["preview", "film"])
def test_the_stream_of_the_most_pixels_is_read(
    tmp_path: Path, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film = street_frames(8)
    small = [resize_image(image, 48, 80) for image in film]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = []
        for frames in (small, film) if first == "preview" else (film, small):
            stream = container.add_stream("mpeg4", rate=10)
            stream.pix_fmt = "yuv420p"
            stream.height, stream.width = frames[0].shape[:2]
            streams.append((stream, frames))
        for index in range(8):
            for stream, frames in streams:
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(frames[index], format="rgb24"))
                )
        for stream, _ in streams:
            container.mux(stream.encode())
    assert {image.shape for _, image in read_clip(tmp_path / "a.mkv")} == {(96, 160, 3)}
    assert "has 2 video streams" in capsys.readouterr().out
