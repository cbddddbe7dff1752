"""Frames: intrinsics follow their image, split files and images are whole or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef, list_segments, with_neighbours
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import hold_out, read_split, write_split

sizes = st.integers(16, 2000)
CAMERA = Intrinsics(500.0, 510.0, 240.0, 161.0, 480, 320)


@given(sizes, sizes, st.floats(-1, 1), st.floats(-1, 1))
def test_resized_intrinsics_see_the_same_rays(width: int, height: int, x: float, y: float) -> None:
    small = CAMERA.resized(width, height)
    pixel = CAMERA.matrix() @ [x, y, 1]
    scaled = small.matrix() @ [x, y, 1]
    assert np.allclose(scaled[:2], pixel[:2] * [width / 480, height / 320])


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_flipped_intrinsics_mirror_the_principal_point(x: float, y: float) -> None:
    pixel = CAMERA.matrix() @ [x, y, 1]
    mirrored = CAMERA.flipped().matrix() @ [-x, y, 1]
    assert mirrored[0] == pytest.approx(CAMERA.width - 1 - pixel[0])
    assert CAMERA.flipped().flipped() == CAMERA


def test_a_part_of_an_image_sees_the_same_rays() -> None:
    part = CAMERA.cropped(40, 30, 320, 200)
    pixel, moved = (camera.matrix() @ [0.1, -0.2, 1] for camera in (CAMERA, part))
    assert np.allclose(moved[:2], pixel[:2] - [40, 30])
    assert (part.width, part.height) == (320, 200)


def test_intrinsics_round_trip(tmp_path: Path) -> None:
    CAMERA.to_cam_json(tmp_path / "cam.json")
    again = Intrinsics.from_cam_json(tmp_path / "cam.json", 480, 320)
    assert np.allclose(again.matrix(), CAMERA.matrix())
    assert np.allclose(CAMERA.inverse4() @ CAMERA.matrix4(), np.eye(4))


def test_field_of_view() -> None:
    camera = Intrinsics.from_field_of_view(90, 200, 100)
    assert camera.fx == pytest.approx(100)
    with pytest.raises(InputError, match="field of view"):
        Intrinsics.from_field_of_view(0, 200, 100)


@pytest.mark.parametrize(
    "content",
    [{}, {"intrinsic_mat": [[1, 2]]}, {"intrinsic_mat": "K"}, {"intrinsic_mat": [[0] * 3] * 3}],
)
def test_broken_intrinsics_name_the_key(tmp_path: Path, content: dict) -> None:
    write_json(tmp_path / "cam.json", content)
    with pytest.raises(InputError, match=r"cam\.json.*intrinsic_mat"):
        Intrinsics.from_cam_json(tmp_path / "cam.json", 480, 320)


def test_waymo_intrinsics(shared: Path) -> None:
    path = next((shared / "real/dynamo_depth/tiny_waymo").rglob("cam.json"))
    camera = Intrinsics.from_cam_json(path, 480, 320)
    assert 450 < camera.fx < 600
    assert 200 < camera.cx < 280


def test_splits_round_trip(tmp_path: Path) -> None:
    frames = [FrameRef("train/segment-1_2", 45), FrameRef("val/a", 0)]
    write_split(tmp_path / "split.txt", frames)
    assert (tmp_path / "split.txt").read_text().splitlines()[0] == "train/segment-1_2 45"
    assert read_split(tmp_path / "split.txt") == frames


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the split is empty"),
        ("\n\n", "the split is empty"),
        ("train/a\n", "line 1"),
        ("train/a x\n", "line 1"),
        ("train/a 1\n/etc 1\n", "line 2 leaves the data folder"),
        ("../a 1\n", "line 1 leaves the data folder"),
    ],
)
def test_bad_splits_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.txt").write_text(text)
    with pytest.raises(InputError, match=rf"split\.txt: {message}"):
        read_split(tmp_path / "split.txt")


def test_missing_split_and_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such split file"):
        read_split(tmp_path / "none.txt")
    with pytest.raises(InputError, match="no such image"):
        read_image(tmp_path / "none.jpg")


def test_truncated_images_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"000001{suffix}"
        write_image(path, noise)
        assert read_image(path).shape == noise.shape
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(InputError, match=r"000001\.(jpg|png): the image is"):
            read_image(path)


def test_lossless_images_come_back_as_they_were(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    write_image(tmp_path / "a.png", noise)
    assert np.array_equal(read_image(tmp_path / "a.png"), noise)
    assert resize_image(noise, 16, 24).shape == (16, 24, 3)


def test_frames_without_neighbours_are_counted(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    frames = [FrameRef("val/clip", index) for index in (0, 1, 2, 3, 7)]
    for frame in frames:
        write_image(frame.file(tmp_path, ".jpg"), image)
    kept, dropped = with_neighbours(frames, tmp_path)
    assert [frame.index for frame in kept] == [1, 2]
    assert dropped == 3
    assert list(list_segments(tmp_path)) == ["val/clip"]


def test_every_tenth_segment_is_held_out() -> None:
    many = [FrameRef(f"clip{s}", i) for s in range(25) for i in range(3)]
    train, val = hold_out(many)
    assert {frame.segment for frame in val} == {"clip9", "clip19"}
    assert sorted(train + val) == sorted(many)


@pytest.mark.parametrize(
    ("length", "held"), [(3, [3]), (4, [3, 4]), (12, [11, 12]), (40, [37, 38, 39, 40])]
)
def test_no_trained_triplet_has_a_held_out_frame(length: int, held: list[int]) -> None:
    frames = [FrameRef(f"clip{s}", i) for s in range(2) for i in range(1, length + 1)]
    train, val = hold_out(frames)
    assert [frame.index for frame in val] == 2 * held
    seen = {frame.neighbour(offset) for frame in train for offset in (-1, 0, 1)}
    assert not seen & set(val)
    assert len(train) == len(frames) - len(val) - 2  # one between them, in each segment


def test_pieces_too_short_to_hold_frames_out() -> None:
    short = [FrameRef("short", 1), FrameRef("short", 2)]
    train, val = hold_out([*short, *(FrameRef("long", i) for i in range(1, 6))])
    assert set(short) < set(train)
    assert {frame.segment for frame in val} == {"long"}
    with pytest.raises(InputError, match="2 frames with both neighbours are too few"):
        hold_out(short)
