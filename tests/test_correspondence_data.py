"""Clips of dense correspondences: the reference's views and frames, lists and layouts, one sentence for bad ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from correspondence_golden import expected, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.correspondence.augmentation import Similarity, ViewConfig, main_view, scaled_size
from moduv.correspondence.data import ClipConfig, Clips
from moduv.correspondence.losses import align
from moduv.correspondence.train import CorrespondenceConfig, list_frames, training_videos
from moduv.correspondence.videos import Video, find_videos, read_list, write_list
from moduv.engine.errors import InputError
from moduv.frames.images import read_image, write_image
from moduv.frames.video_writer import write_video

VIEWS = ViewConfig(smallest=(32, 48), crop=32)
CLIPS = ClipConfig(frames=3, gap=2, views=VIEWS)
CONFIG = CorrespondenceConfig(clips=CLIPS)


def test_second_views_and_their_matrices_are_the_references(shared: Path) -> None:
    case = golden(shared, "more_augmentation")
    for number, numbers in enumerate(expected(shared, "more_augmentation")):
        top, left, height, width = map(int, numbers["crop"])
        similarity = Similarity(top, left, numbers["scale"], numbers["flip"])
        size = numbers["size"]
        assert [int(similarity.scale * side) for side in size] == [height, width]
        second = similarity.apply(case[f"main_{number}"])
        assert np.abs(second.astype(int) - case[f"second_{number}"]).max() <= 1
        matrix = similarity.matrix(*size)
        assert np.allclose(matrix, case[f"matrix_{number}"], atol=1e-6)
        cells = torch.arange(1, size[0] * size[1] // 64 + 1).float()
        grid = cells.reshape(1, 1, 1, size[0] // 8, size[1] // 8)
        seen = align(grid, torch.from_numpy(matrix)[None])[0, 0, 0]
        assert np.array_equal(seen.numpy(), case[f"resampled_{number}"])


def test_frames_of_clips_are_the_references(shared: Path) -> None:
    case = expected(shared, "more_sampling")
    for kind, in_order in {"frames": False, "frames_kinetics": True}.items():
        for numbers in case[kind]:
            config = ClipConfig(gap=numbers["frame_gap"], in_order=in_order)
            offsets, last = config.offsets(numbers["length"])
            assert (offsets.tolist(), last) == (numbers["offsets"], numbers["last_start"])


@given(st.integers(3, 60), st.integers(1, 12), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_clips_lie_in_their_video(length: int, gap: int, seed: int, in_order: bool) -> None:
    config = replace(CLIPS, gap=gap, in_order=in_order)
    positions = config.draw(length, np.random.default_rng(seed))
    assert 0 <= positions.min() <= positions.max() < length
    assert len(set(positions)) == 3
    if in_order:
        assert (np.diff(positions) > 0).all()


def test_frames_come_in_any_order_unless_they_are_asked_for_in_order() -> None:
    orders = {tuple(np.argsort(CLIPS.draw(9, np.random.default_rng(n)))) for n in range(60)}
    assert len(orders) == 6


def pictures(folder: Path, count: int, size: tuple[int, int] = (40, 64), seed: int = 0) -> Path:
    """A folder of smooth frames, which coding hardly changes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (5, 8, 3)).astype(np.uint8)
        image = np.kron(coarse, np.ones((size[0] // 5, size[1] // 8, 1), np.uint8))
        write_image(folder / f"{number:05d}.jpg", image)
    return folder


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    for name, count in {"aa": 4, "bb": 5, "short": 2}.items():
        pictures(tmp_path / "ytvos/train/JPEGImages" / name, count)
    return tmp_path


def test_samples_follow_from_index_and_seed(layout: Path) -> None:
    videos = training_videos(layout, layout / "out", CONFIG)
    assert [video.folder.name for video in videos] == ["aa", "bb"]
    clips = Clips(videos, CLIPS)
    sample, again, other = clips[1, 7], clips[1, 7], clips[1, 8]
    assert sample["main"].shape == sample["second"].shape == (3, 3, 32, 32)
    assert sample["main"].dtype == torch.uint8
    assert all(torch.equal(sample[key], again[key]) for key in sample)
    assert not torch.equal(sample["main"], other["main"])
    batch = clips.collate([sample, other])
    assert batch["affine"].shape == (2, 2, 3)
    assert batch["draws"].shape == (2, 4)


def test_second_views_show_what_their_matrix_says() -> None:
    rng = np.random.default_rng(3)
    image = np.linspace(0, 255, 64)[None, :, None] + np.zeros((64, 1, 3))  # a ramp across
    similarity = Similarity.draw(64, 64, ViewConfig(smallest=(64, 64), crop=64), rng)
    second = similarity.apply(image.astype(np.uint8)).astype(float)
    expected_columns = align(
        torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None, None],
        torch.from_numpy(similarity.matrix(64, 64))[None],
    )[0, 0].permute(1, 2, 0)
    assert np.abs(second - expected_columns.numpy())[4:-4, 4:-4].max() < 10  # two columns


@pytest.mark.parametrize("size", [(100, 180), (180, 100), (64, 64)])
def test_main_views_have_the_crops_size(size: tuple[int, int]) -> None:
    frames = [np.zeros((*size, 3), np.uint8)] * 2
    for seed in range(5):
        assert main_view(frames, VIEWS, np.random.default_rng(seed)).shape == (2, 32, 32, 3)
    assert scaled_size(480, 854, 256) == (256, 455)


def test_views_from_a_centre_keep_the_middle() -> None:
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[18:22, 38:42] = 255
    config = ViewConfig(smallest=(40, 40), crop=20, random_crop=False)
    view = main_view([frame], config, np.random.default_rng(0))[0]
    assert view[8:12, 8:12].min() == 255
    assert view.astype(int).sum() == frame.astype(int).sum()


def test_large_frames_are_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    pictures(tmp_path, 1, (400, 640))
    path = tmp_path / "00000.jpg"
    assert read_image(path).shape[:2] == (400, 640)
    assert read_image(path, shortest=200).shape[:2] == (200, 320)
    assert read_image(path, shortest=201).shape[:2] == (400, 640)
    assert read_image(path, shortest=50).shape[:2] == (50, 80)
    half = read_image(path, shortest=200).astype(int)
    whole = read_image(path).reshape(200, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(half - whole).mean() < 2  # grey levels


@pytest.mark.parametrize("slash", ["", "/"])
def test_lists_of_frames_and_of_folders_name_the_same_videos(layout: Path, slash: str) -> None:
    folder = "ytvos/train/JPEGImages"
    frames, folders = layout / "frames.txt", layout / "folders.txt"
    names = [
        f"{slash}{folder}/{v}/{n:05d}.jpg" for v, c in (("aa", 4), ("bb", 5)) for n in range(c)
    ]
    frames.write_text("\n".join(names) + "\n")
    folders.write_text(f"{slash}{folder}/aa/\n\n{slash}{folder}/bb\n")
    for path in (frames, folders):
        videos = read_list(path, layout)
        assert [(video.folder, len(video)) for video in videos] == [
            (layout / folder / "aa", 4),
            (layout / folder / "bb", 5),
        ]
        assert videos[1].path(4) == layout / folder / "bb/00004.jpg"


def test_lists_made_from_a_layout_are_read_again(layout: Path) -> None:
    videos = find_videos(layout / "ytvos", layout / "out", 64)
    assert write_list(layout / "list.txt", videos, layout) == 11
    again = read_list(layout / "list.txt", layout)
    assert [video.folder for video in again] == [video.folder for video in videos]
    assert [video.names.tolist() for video in again] == [v.names.tolist() for v in videos]


def test_video_files_are_unpacked_once_a_folder_a_scene(tmp_path: Path) -> None:
    dark, bright = np.full((64, 96, 3), 20, np.uint8), np.full((64, 96, 3), 220, np.uint8)
    frames = [(None, image) for image in [dark] * 4 + [bright] * 3]
    write_video(tmp_path / "clips/a.mp4", frames, Fraction(10))
    pictures(tmp_path / "clips/b", 3)
    videos = find_videos(tmp_path / "clips", tmp_path / "out", 32)
    assert [len(video) for video in videos] == [3, 4, 3]
    assert read_image(videos[1].path(0)).shape == (32, 48, 3)
    written = videos[1].path(0).stat().st_mtime_ns
    assert len(find_videos(tmp_path / "clips", tmp_path / "out", 32)) == 3
    assert videos[1].path(0).stat().st_mtime_ns == written


BAD_LISTS = {
    "": "is empty",
    "ytvos/train/JPEGImages/aa/00009.jpg": r"names .*aa/00009\.jpg, which is not there",
    "ytvos/train/JPEGImages/none": "where no frames are",
    "../aa/00000.jpg": "leaves the data folder",
    "/ytvos/train/JPEGImages/short/00000.jpg": "no video has the 3 frames",
    "ytvos/train/JPEGImages/aa/00000.jpg\nytvos/train/JPEGImages/bb": "a frame and none",
}


@pytest.mark.parametrize("line", BAD_LISTS)
def test_bad_lists_are_one_sentence(layout: Path, line: str) -> None:
    (layout / "list.txt").write_text(line)
    with pytest.raises(InputError, match=BAD_LISTS[line]):
        training_videos(layout, layout / "out", CONFIG, layout / "list.txt")


def test_what_a_list_says_twice_counts_once(
    layout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = "ytvos/train/JPEGImages"
    (layout / "list.txt").write_text(f"{folder}/aa\n/{folder}/bb/\n{folder}/aa/\n")
    assert [len(video) for video in read_list(layout / "list.txt", layout)] == [4, 5]
    assert "names 1 of its lines again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "\udcff", " a "])
def test_names_that_no_list_can_hold_are_one_sentence(tmp_path: Path, name: str) -> None:
    video = Video(tmp_path / "clip", np.array([f"{name}.jpg", f"0.jpg{name}"]))
    with pytest.raises(InputError, match="is a name that no list can hold"):
        write_list(tmp_path / "list.txt", [video], tmp_path)
    assert not list(tmp_path.iterdir())


def test_videos_shorter_than_a_clip_are_one_sentence_unless_frames_may_repeat(layout: Path) -> None:
    config = replace(CONFIG, clips=replace(CLIPS, frames=6))
    with pytest.raises(InputError, match="no video has the 6 frames"):
        training_videos(layout, layout / "out", config)
    kinetics = replace(CONFIG, clips=replace(CLIPS, frames=6, in_order=True))
    videos = training_videos(layout, layout / "out", kinetics)
    assert Clips(videos, kinetics.clips)[2, 0]["main"].shape[0] == 6
    # A list holds what would be trained on.
    list_frames(layout, layout / "list.txt", kinetics)
    assert len(read_list(layout / "list.txt", layout)) == len(videos) == 3


def test_broken_and_uneven_frames_are_one_sentence(layout: Path) -> None:
    folder = layout / "ytvos/train/JPEGImages/aa"
    clips = Clips([Video(folder, np.array(["00000.jpg", "00001.jpg", "00002.jpg"]))], CLIPS)
    pictures(layout / "other", 1, (80, 64))
    (layout / "other/00000.jpg").replace(folder / "00001.jpg")
    with pytest.raises(InputError, match="of one size"):
        clips[0, 0]
    (folder / "00001.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"00001\.jpg"):
        clips[0, 0]


@pytest.mark.parametrize(
    "change", [{"crop": 400}, {"zoom": 0.0}, {"smallest": (300, 256)}, {"flip": 2.0}]
)
def test_impossible_views_are_one_sentence(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="views"):
        replace(ViewConfig(), **change)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [(40, 64), (64, 96), (90, 160)])
def test_main_views_are_windows_of_the_resized_frame(size: tuple[int, int], flip: float) -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    frame = cv2.resize(coarse.astype(np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    config = ViewConfig(smallest=(48, 48), crop=32, random_crop=False, flip=flip)
    view = main_view([frame], config, np.random.default_rng(0))[0]
    view = view[:, ::-1] if flip else view
    height, width = scaled_size(*size, 48)
    whole = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    window = whole[(height - 31) // 2 :, (width - 31) // 2 :][:32, :32]
    # OpenCV's warp rounds positions to a 32nd of a pixel.
    assert np.abs(view.astype(int) - window).max() <= 8
    assert np.abs(view.astype(int) - window).mean() < 1
