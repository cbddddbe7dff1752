"""Folders of frames come into the library's layout, or are refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from ingest_world import encode, imported, kept_frames, street_frames, write_clip, write_noise

from moduv.datasets.clips import ImportConfig, import_folder, name_clips
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.frames.camera import Intrinsics
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import read_split
from moduv.frames.video import count_frames, read_clip


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
    assert "2 clips cropped to the aspect ratio of the others, 5:3" in capsys.readouterr().out
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


def test_images_that_do_not_decode_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "in/one", 5)
    (tmp_path / "in/one/frame000.png").write_bytes(b"")
    imported(tmp_path)
    assert "one: 1 images do not decode; left out" in capsys.readouterr().out
    assert len(list((tmp_path / "out/clips/one").glob("*.jpg"))) == 4


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
