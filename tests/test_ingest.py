"""Folders of frames come into the library's layout, or are refused with a sentence."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.ingest import ImportConfig, import_folder
from moduv.frames.splits import read_split


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


# --- videos -----------------------------------------------------------------------------------------


def street_frames(count: int, seed: int = 0, step: int = 3) -> list[np.ndarray]:
    """Smooth pictures that shift by `step` pixels of 160 a frame."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC)
    return [wide[:, step * index : step * index + 160] for index in range(count)]


def write_video(path: Path, frames: list[np.ndarray], times: list[int] | None = None) -> None:
    """An mp4 with the given times in units of 1/100 s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
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


def test_wide_videos_are_shrunk(tmp_path: Path) -> None:
    write_video(tmp_path / "in/drive.mp4", street_frames(4))
    (frame, *_) = imported(tmp_path, max_width=80)
    assert read_image(frame.image_path(tmp_path / "out")).shape == (48, 80, 3)


def test_a_file_that_does_not_decode_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match=r"broken\.mp4: does not decode"):
        imported(tmp_path)
