"""Folders of frames come into the library's layout, or are refused with a sentence."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from moduv.datasets.clips import ImportConfig, import_folder, name_clips
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, small_grey, write_image
from moduv.frames.splits import read_split
from moduv.frames.video import count_frames, read_clip


def write_clip(folder: Path, count: int) -> None:
    for index in range(count):
        write_image(folder / f"frame{index:03d}.png", np.full((40, 60, 3), 20 * index, np.uint8))


def test_clips_become_segments_in_order(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/monday/one", 7)
    write_clip(tmp_path / "in/two", 2)
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60, every=2))
    frames = read_split(tmp_path / "out/splits/train_files.txt")
    assert [frame.line() for frame in frames] == ["clips/monday-one 1", "clips/monday-one 2"]
    grey = read_image(frames[1].image_path(tmp_path / "out"))
    assert abs(int(grey.mean()) - 80) <= 1
    camera = Intrinsics.from_cam_json(tmp_path / "out/clips/monday-one/cam.json", 60, 40)
    assert camera.fx == pytest.approx(30 / np.tan(np.pi / 6))


def test_known_intrinsics_are_taken_over(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    Intrinsics(50, 51, 29, 19, 60, 40).to_cam_json(tmp_path / "in/one/cam.json")
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig())
    camera = Intrinsics.from_cam_json(tmp_path / "out/clips/one/cam.json", 60, 40)
    assert camera.matrix() == pytest.approx(Intrinsics(50, 51, 29, 19, 60, 40).matrix())


def test_unknown_intrinsics_and_short_clips_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    with pytest.raises(InputError, match=r"one/cam\.json: missing; .*field_of_view"):
        import_folder(tmp_path / "in", tmp_path / "out", ImportConfig())
    with pytest.raises(InputError, match="no clip of three frames that differ"):
        import_folder(tmp_path / "in", tmp_path / "few", ImportConfig(field_of_view=60, every=2))
    with pytest.raises(InputError, match="no such folder"):
        import_folder(tmp_path / "none", tmp_path / "out2", ImportConfig())
    with pytest.raises(InputError, match="every is -1"):
        ImportConfig(every=-1)


def test_a_camera_that_becomes_known_later_is_not_ignored(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    config = ImportConfig(field_of_view=60)
    import_folder(tmp_path / "in", tmp_path / "out", config)
    Intrinsics(50, 51, 29, 19, 60, 40).to_cam_json(tmp_path / "in/one/cam.json")
    with pytest.raises(InputError, match=r"cameras: one: '' instead of '\w{16}'.*move"):
        import_folder(tmp_path / "in", tmp_path / "out", config)
    import_folder(tmp_path / "in", tmp_path / "again", config)
    Intrinsics(60, 51, 29, 19, 60, 40).to_cam_json(tmp_path / "in/one/cam.json")
    with pytest.raises(InputError, match=r"cameras: one: '\w{16}' instead of '\w{16}'"):
        import_folder(tmp_path / "in", tmp_path / "again", config)


@pytest.mark.parametrize("clip", ["", "one"])
def test_outputs_inside_of_the_source_are_no_clips(
    tmp_path: Path, clip: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path(clip), 3)
    for _ in range(2):
        import_folder(Path("."), Path("out"), ImportConfig(field_of_view=60))
    assert "finished before" in capsys.readouterr().out
    assert list(name_clips([Path(".")], Path("out"))) == [clip or "clip"]
    assert len(name_clips([Path(".")])) == 2
    # A source that is named, and lies among the outputs, is meant.
    assert len(name_clips([Path("out/clips")], Path("out"))) == 1
    with pytest.raises(InputError, match="no images outside of"):
        name_clips([Path("out")], Path("out"))


def test_hidden_files_are_no_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    write_clip(tmp_path / "in/.trash/two", 3)
    for name in ("in/one/._frame000.png", "in/._b.MOV", "in/.c.mp4"):
        (tmp_path / name).write_bytes(b"none")
    assert list(name_clips([tmp_path / "in"])) == ["one"]
    assert len(list(read_clip(tmp_path / "in/one"))) == count_frames(tmp_path / "in/one") == 3


def test_frames_follow_the_numbers_in_their_names(tmp_path: Path) -> None:
    for index in range(12):
        image = np.full((40, 60, 3), 20 * index, np.uint8)
        write_image(tmp_path / f"in/one/IMG_{index}.png", image)
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60))
    files = sorted((tmp_path / "out/clips/one").glob("*.jpg"))
    greys = [int(read_image(file).mean()) for file in files]
    assert greys == sorted(greys)
    assert len(greys) == 12


@pytest.mark.parametrize(("name", "kind"), [("IMG.JPG", "an image"), ("notes.txt", "no video")])
def test_a_file_that_is_no_clip_is_told_apart_from_a_missing_one(
    tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: is {kind}, .*give the folder .*\.mp4"):
        name_clips([tmp_path / name])


# --- clips of several cameras -----------------------------------------------------------------------


def write_noise(folder: Path, width: int, height: int, count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(width * height)
    images = [rng.integers(0, 255, (height, width, 3)).astype(np.uint8) for _ in range(count)]
    for index, image in enumerate(images):
        write_image(folder / f"{index}.png", cv2.blur(image, (9, 9)))
    return [cv2.blur(image, (9, 9)) for image in images]


def test_clips_get_the_aspect_of_most_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "in/large", 320, 192, 8)
    write_noise(tmp_path / "in/usual", 160, 96, 8)
    write_noise(tmp_path / "in/nearly", 162, 96, 6)
    upright = write_noise(tmp_path / "in/upright", 90, 160)
    wide = write_noise(tmp_path / "in/wide", 240, 96)
    known = Intrinsics(100, 110, 44, 81, 90, 160)
    known.to_cam_json(tmp_path / "in/upright/cam.json")
    config = ImportConfig(field_of_view=60, one_aspect=True, max_width=200)
    import_folder(tmp_path / "in", tmp_path / "out", config)
    assert "2 clips cropped to the aspect of the others, 5:3" in capsys.readouterr().out
    clips = tmp_path / "out/clips"
    images = {path.name: read_image(path / "000000.jpg") for path in clips.iterdir()}
    sizes = {name: image.shape[:2] for name, image in images.items()}
    assert sizes == {
        **{"large": (120, 200), "usual": (96, 160), "nearly": (96, 162)},
        **{"upright": (54, 90), "wide": (96, 160)},
    }
    assert np.abs(images["upright"].astype(int) - upright[0][53:107]).mean() < 5
    assert np.abs(images["wide"].astype(int) - wide[0][:, 40:200]).mean() < 5
    camera = Intrinsics.from_cam_json(clips / "upright/cam.json", 90, 54)
    assert camera.matrix() == pytest.approx(Intrinsics(100, 110, 44, 28, 90, 54).matrix())
    # The field of view is that of the whole image, 240 pixels.
    camera = Intrinsics.from_cam_json(clips / "wide/cam.json", 160, 96)
    assert camera.fx == pytest.approx(camera.fy)
    assert camera.fx == pytest.approx(120 / np.tan(np.pi / 6))
    assert (camera.cx, camera.cy) == pytest.approx((79.5, 47.5))
    camera = Intrinsics.from_cam_json(clips / "large/cam.json", 200, 120)
    assert camera.fx == pytest.approx(100 / np.tan(np.pi / 6))


def test_aspects_are_kept_where_nobody_asks(tmp_path: Path) -> None:
    write_noise(tmp_path / "in/usual", 160, 96, 8)
    write_noise(tmp_path / "in/upright", 90, 160)
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60))
    assert read_image(tmp_path / "out/clips/upright/000000.jpg").shape == (160, 90, 3)


def test_another_size_inside_of_a_clip_is_a_cut(tmp_path: Path) -> None:
    for index in range(6):
        shape = (40, 60, 3) if index < 3 else (60, 40, 3)
        write_image(tmp_path / f"in/one/{index}.png", np.full(shape, 4 * index, np.uint8))
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60))
    frames = read_split(tmp_path / "out/splits/train_files.txt")
    assert [frame.line() for frame in frames] == ["clips/one 1", "clips/one-1 1"]


# --- videos -----------------------------------------------------------------------------------------


def street_frames(count: int, seed: int = 0, step: int = 3) -> list[np.ndarray]:
    """Smooth pictures that shift by `step` pixels of 160 a frame."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC)
    return [wide[:, step * index : step * index + 160] for index in range(count)]


def write_video(
    path: Path, frames: list[np.ndarray], times: list[int] | None = None, codec: str = "mpeg4"
) -> None:
    """A video with the given times in units of 1/100 s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        stream.time_base = Fraction(1, 100)
        stream.bit_rate = 4_000_000
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[index] if times else 4 * index
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def imported(tmp_path: Path, **settings: object) -> list[FrameRef]:
    config = ImportConfig(field_of_view=60, **settings)  # type: ignore[arg-type]
    import_folder(tmp_path / "in", tmp_path / "out", config)
    return read_split(tmp_path / "out/splits/train_files.txt")


def test_a_video_becomes_a_segment_with_times(tmp_path: Path) -> None:
    frames = street_frames(6)
    write_video(tmp_path / "in/drive.mp4", frames, times=[0, 4, 8, 20, 24, 28])
    assert [f.line() for f in imported(tmp_path)] == [f"clips/drive {i}" for i in range(1, 5)]
    image = read_image(FrameRef("clips/drive", 3).image_path(tmp_path / "out"))
    assert np.abs(image.astype(int) - frames[3]).mean() < 8
    times = read_json(tmp_path / "out/clips/drive/times.json")
    assert times == pytest.approx([0, 0.04, 0.08, 0.2, 0.24, 0.28])


def test_cuts_end_a_segment_and_stills_are_left_out(tmp_path: Path) -> None:
    first, second = street_frames(5), [255 - image for image in street_frames(4, seed=1)]
    still = [first[-1]] * 3
    write_video(tmp_path / "in/drive.mp4", [*first, *still, *second])
    segments = {frame.segment for frame in imported(tmp_path)}
    assert segments == {"clips/drive", "clips/drive-1"}
    kept = len(list((tmp_path / "out/clips/drive").glob("*.jpg")))
    assert 5 <= kept <= 6  # compression may tell the first repetition from its original


def test_the_frame_rate_follows_the_motion(tmp_path: Path) -> None:
    write_video(tmp_path / "in/slow.mp4", street_frames(30, step=1))
    write_video(tmp_path / "in/fast.mp4", street_frames(30, step=6))
    imported(tmp_path, every=0, motion=0.03)  # 4.8 of 160 pixels
    slow, fast = (len(list((tmp_path / "out/clips" / n).glob("*.jpg"))) for n in ("slow", "fast"))
    assert fast == 30
    assert 5 <= slow <= 9


def kept_frames(tmp_path: Path) -> int:
    return len(list((tmp_path / "out/clips/drive").glob("*.jpg")))


def slow_frames(count: int, step: float, start: float = 0.0) -> list[np.ndarray]:
    """Pictures that shift by parts of a pixel."""
    noise = np.random.default_rng(3).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC)
    moves = [np.float64([[1, 0, -start - step * index], [0, 1, 0]]) for index in range(count)]
    return [cv2.warpAffine(wide, move, (800, 96))[:, 400:560] for move in moves]


def test_a_slow_camera_is_told_from_one_that_stands(tmp_path: Path) -> None:
    write_video(tmp_path / "in/drive.mp4", slow_frames(120, 0.0009 * 160))
    write_video(tmp_path / "in/fast.mp4", street_frames(30, step=6))
    imported(tmp_path, every=0)
    assert 12 <= kept_frames(tmp_path) <= 14  # one in ten, or nine
    assert len(list((tmp_path / "out/clips/fast").glob("*.jpg"))) == 30


def test_short_clips_are_not_thinned_away(tmp_path: Path) -> None:
    write_video(tmp_path / "in/drive.mp4", slow_frames(12, 0.0009 * 160))
    imported(tmp_path, every=0, keep_stills=True)
    assert kept_frames(tmp_path) == 6  # one in two: one in ten would leave two
    write_video(tmp_path / "short/drive.mp4", slow_frames(4, 0.0009 * 160))
    import_folder(tmp_path / "short", tmp_path / "all", ImportConfig(70, every=0, keep_stills=True))
    assert len(list((tmp_path / "all/clips/drive").glob("*.jpg"))) == 4


def test_clips_of_a_standing_camera_go_by_the_others(tmp_path: Path) -> None:
    # A hundredth of a pixel a frame, as codecs make it: ten frames later there is nothing to see either.
    write_video(tmp_path / "in/drive.mp4", slow_frames(60, 0.01))
    for name in ("fast", "faster"):
        write_video(tmp_path / f"in/{name}.mp4", street_frames(30, step=2))
    imported(tmp_path, every=0, motion=0.025, keep_stills=True)
    assert kept_frames(tmp_path) == 30


def test_the_motion_of_the_whole_clip_counts(tmp_path: Path) -> None:
    slow = slow_frames(50, 0.4)
    write_video(tmp_path / "in/drive.mp4", slow + slow_frames(110, 3.2, start=0.4 * 50))
    imported(tmp_path, every=0, motion=0.02)
    assert kept_frames(tmp_path) == 160


def test_a_pause_does_not_count(tmp_path: Path) -> None:
    moving = street_frames(40, step=4)
    jitter = [np.clip(moving[-1].astype(int) + 3 * (i % 2), 0, 255) for i in range(60)]
    write_video(tmp_path / "in/drive.mp4", moving + [image.astype(np.uint8) for image in jitter])
    imported(tmp_path, every=0, motion=0.05, keep_stills=True)
    assert kept_frames(tmp_path) == 50


def test_wide_videos_are_shrunk(tmp_path: Path) -> None:
    write_video(tmp_path / "in/drive.mp4", street_frames(4))
    (frame, *_) = imported(tmp_path, max_width=80)
    assert read_image(frame.image_path(tmp_path / "out")).shape == (48, 80, 3)


def test_clips_that_do_not_decode_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in/drive.mp4", street_frames(5))
    (tmp_path / "in/broken.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "in/notes").mkdir()
    (tmp_path / "in/notes/scan.png").write_bytes(b"no image")
    frames = imported(tmp_path)
    assert {frame.segment for frame in frames} == {"clips/drive"}
    told = capsys.readouterr().out
    assert told.count("left out: ") == 2
    left_out = read_json(tmp_path / "out/manifest.json")["results"]["left_out"]
    assert set(left_out) == {"broken", "notes"}
    assert "broken.mp4: does not decode" in left_out["broken"]
    assert left_out["notes"] in told


def test_where_nothing_decodes_the_first_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "in" / name).write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match=r"a\.mp4: does not decode.*\(and 1 more\)"):
        imported(tmp_path)
    with pytest.raises(InputError, match=r"b\.mp4: does not decode"):
        list(read_clip(tmp_path / "in/b.mp4"))


def test_packets_that_do_not_decode_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = street_frames(8)
    write_video(tmp_path / "in/drive.avi", frames, codec="png")
    content = (tmp_path / "in/drive.avi").read_bytes()
    begin, *packets = content.split(b"IHDR")
    damaged = [b"none" if index in (0, 4) else b"IHDR" for index in range(8)]
    whole = (mark + packet for mark, packet in zip(damaged, packets, strict=True))
    (tmp_path / "in/drive.avi").write_bytes(begin + b"".join(whole))
    imported(tmp_path, every=0)
    assert capsys.readouterr().out.count("drive.avi: 2 packets do not decode; left out") == 1
    kept = [read_image(path) for path in sorted((tmp_path / "out/clips/drive").glob("*.jpg"))]
    assert len(kept) == 6
    for image, index in zip(kept, (1, 2, 3, 5, 6, 7), strict=True):
        assert np.abs(image.astype(int) - frames[index]).mean() < 5


def test_images_that_do_not_decode_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "in/one", 5)
    (tmp_path / "in/one/frame000.png").write_bytes(b"")
    imported(tmp_path)
    assert "one: 1 images do not decode; left out" in capsys.readouterr().out
    assert len(list((tmp_path / "out/clips/one").glob("*.jpg"))) == 4


# --- what players show --------------------------------------------------------------------------------


def corners(width: int = 160, height: int = 96) -> np.ndarray:
    """A grey picture with a red corner top left, a green one top right and a blue one bottom right."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 3, : width // 3] = 255, 0, 0
    image[: height // 3, -width // 3 :] = 0, 255, 0
    image[-height // 3 :, -width // 3 :] = 0, 0, 255
    return image


def set_display_matrix(path: Path, *turn: int) -> None:
    """Set a, b, c, d of the matrix of an mp4's track: (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, c, d = (number << 16 for number in turn)
    matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    path.write_bytes(bytes(content))


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


def encode(path: Path, frames: list[np.ndarray], codec: str = "libx264", **settings: Any) -> None:
    """A video at 10 frames a second; B-frames where the codec likes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        add_stream(container, frames, codec, **settings)


def add_stream(container: Any, frames: list[np.ndarray], codec: str, **settings: Any) -> None:
    stream = container.add_stream(codec, rate=10)
    stream.pix_fmt = "yuv420p"
    stream.height, stream.width = frames[0].shape[:2]
    for name, value in settings.items():
        setattr(stream.codec_context, name, value)
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 10)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


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


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9)])
def test_pixels_become_square(
    tmp_path: Path, aspect: Fraction, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(tmp_path / "in/a.mp4", street_frames(4), sample_aspect_ratio=aspect)
    width = round(160 * aspect)
    (frame, *_) = imported(tmp_path)
    image = read_image(frame.image_path(tmp_path / "out"))
    assert image.shape == (96, width, 3)
    expected = resize_image(street_frames(4)[1], 96, width)
    assert np.abs(image.astype(int) - expected).mean() < 8
    told = capsys.readouterr().out
    assert told.count("are made square") == 1
    camera = Intrinsics.from_cam_json(tmp_path / "out/clips/a/cam.json", width, 96)
    assert camera.fx == pytest.approx(camera.fy)


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


@pytest.mark.parametrize("name", ["12:30:05.mp4", "file:a.mp4", "-a.mp4", "%03d.mp4", "a\nb c.mp4"])
def test_names_of_videos_are_names(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "a.mp4", street_frames(4))
    (tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    import_folder(Path(name), Path("out"), ImportConfig(field_of_view=60))
    assert len(read_split(Path("out/splits/train_files.txt"))) == 2


@pytest.mark.parametrize("name", [b"night\xff.mp4", b"a\\b.mp4", b"\x1c\xc2\x85.mp4"])
def test_names_that_are_no_text_become_segments(tmp_path: Path, name: bytes) -> None:
    encode(tmp_path / "a.mp4", street_frames(4))
    (tmp_path / "in").mkdir()
    (tmp_path / "a.mp4").rename(tmp_path / "in" / os.fsdecode(name))
    (tmp_path / "in" / os.fsdecode(name + b".txt")).write_text("left out, and told")
    frames = imported(tmp_path)
    assert len(frames) == 2
    assert frames[0].image_path(tmp_path / "out").is_file()


@pytest.mark.parametrize("levels", [(2, 11), (1, 6), (0, 3)])
@pytest.mark.parametrize("lamp", [False, True])
def test_dark_frames_that_move_are_no_repeats(
    tmp_path: Path, levels: tuple[int, int], lamp: bool
) -> None:
    noise = np.random.default_rng(1).uniform(*levels, (12, 60, 3)).astype(np.float32)
    wide = np.clip(cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC), *levels)
    for index in range(12):
        image = np.round(wide[:, 2 * index : 2 * index + 160]).astype(np.uint8)
        if lamp:
            image[5:15, 5:15] = 255
        write_image(tmp_path / f"in/a/{index}.png", image)
        write_image(tmp_path / f"in/b/{2 * index}.png", image)
        write_image(tmp_path / f"in/b/{2 * index + 1}.png", image)
    imported(tmp_path)
    for name in ("a", "b"):
        assert len(list((tmp_path / f"out/clips/{name}").glob("*.jpg"))) == 12


@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_a_small_object_before_a_standing_camera_is_no_repeat(tmp_path: Path, suffix: str) -> None:
    plain = resize_image(street_frames(1)[0], 384, 640)
    frames = []
    for index in range(10):
        frames.append(plain.copy())
        frames[-1][200:220, 100 + 8 * index : 116 + 8 * index] = 255
    if suffix == "mp4":
        encode(tmp_path / "in/drive.mp4", frames)
    else:
        for index, image in enumerate(frames):
            write_image(tmp_path / f"in/drive/{index}.png", image)
    imported(tmp_path)
    assert kept_frames(tmp_path) == 10


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, image in enumerate(street_frames(6)):
        write_image(tmp_path / f"in/one/{index}.png", image)
    write_image(tmp_path / "in/one/6.png", street_frames(6)[-1])
    (tmp_path / "in/one/7.png").write_bytes(b"none")
    (tmp_path / "in/broken.mp4").write_bytes(b"none")
    (tmp_path / "in/notes.txt").write_text("none")
    (tmp_path / "in/link").symlink_to("one")
    write_clip(tmp_path / "in/short", 2)
    imported(tmp_path)
    told = capsys.readouterr().out.splitlines()
    (line,) = [line for line in told if "left out in all" in line]
    for part in (
        "1 folders linked a second time (link)",
        "1 .txt (notes.txt)",
        "1 clips that do not decode",
        "1 images that do not decode",
        "1 frames that repeat the one before",
        "2 frames too few for a triplet",
    ):
        assert part in line


def test_cameras_that_contradict_their_frames_are_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "in/a", 160, 90, 3)
    write_json(
        tmp_path / "in/a/cam.json", {"intrinsic_mat": [[1, 0, 0.5], [0, 1, 0.28], [0, 0, 1]]}
    )
    with pytest.raises(
        InputError, match=r"a.cam\.json: 'intrinsic_mat' gives 160 x 90 pixels focal"
    ):
        imported(tmp_path)


# --- cases that were found by use ---------------------------------------------------------------------

CASES = {
    "avi_with_b_frames": 12,
    "dark_clip_loses_frames": 12,
    "folder_with_transport_stream": 24,
    "frames_named_by_seconds": 7,
    "jpeg_cut_with_end_marker": 5,
    "jpeg_with_video_behind": 6,
    "video_mirrored": 6,
    "video_with_cover_picture": 12,
}


@pytest.mark.parametrize("case", CASES)
def test_all_frames_of_a_case_are_taken(shared: Path, tmp_path: Path, case: str) -> None:
    source = shared / "cases" / case / "clips"
    import_folder(source, tmp_path, ImportConfig(field_of_view=60))
    assert len(list((tmp_path / "clips").rglob("*.jpg"))) == CASES[case]
    for times in (tmp_path / "clips").rglob("times.json"):
        assert np.diff(read_json(times)) == pytest.approx(0.1)


def test_frames_named_by_seconds_are_in_order(shared: Path) -> None:
    frames = read_clip(shared / "cases/frames_named_by_seconds/clips/a")
    bars = [int((image > 200).all(-1).sum()) for _, image in frames]
    assert bars == sorted(bars)


def test_a_camera_written_by_columns_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cam\.json.*as if written by columns"):
        import_folder(shared / "cases/cam_transposed/clips", tmp_path, ImportConfig())


def test_a_linked_clip_is_taken(shared: Path, tmp_path: Path) -> None:
    case = shared / "cases/clips_by_symlink"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/two").symlink_to(case / "clips/two")
    (tmp_path / "in/one").symlink_to(case / "store/one")
    assert {frame.segment for frame in imported(tmp_path)} == {"clips/one", "clips/two"}
