"""Videos become segments: cuts, stills, frame rates, and what does not decode."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from ingest_world import encode, imported, kept_frames, street_frames, write_video

from moduv.datasets.clips import ImportConfig, import_folder
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image
from moduv.frames.splits import read_split
from moduv.frames.video import read_clip


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
