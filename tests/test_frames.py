"""Frames: intrinsics follow their image, split files and images are whole or refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef, with_neighbours
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.listing import clip_images, list_files
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


# --- cameras that contradict their image --------------------------------------------------------------


def camera_of(tmp_path: Path, matrix: object, width: int = 640, height: int = 360) -> Intrinsics:
    write_json(tmp_path / "cam.json", {"intrinsic_mat": matrix})
    return Intrinsics.from_cam_json(tmp_path / "cam.json", width, height)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[1.2, 0, 0], [0, 2.0, 0], [0.5, 0.5, 1]], "as if written by columns"),
        ([[0, 1.2, 0.5], [2.0, 0, 0.5], [0, 0, 1]], "positive focal lengths"),
        ([[1.2, 0, 0.5], [0.3, 2.0, 0.5], [0, 0, 1]], "not \\(fx 0 cx"),
        ([[1.2, 0, 0.5], [0, 2.0, 0.5], [0, 0, 0]], "not \\(fx 0 cx"),
        ([[1.2, 0.4, 0.5], [0, 2.0, 0.5], [0, 0, 1]], "not \\(fx 0 cx"),
        ([[1.2, 0, 1.4], [0, 2.0, 0.5], [0, 0, 1]], "outside of the image"),
        ([[1.2, 0, 0.5], [0, 2.0, -0.3], [0, 0, 1]], "outside of the image"),
        ([[768, 0, 320], [0, 768, 180], [0, 0, 1]], "not normalised"),
        ([1.2, 0, 0.5, 0, 2.0, 0.5, 0, 0, 1], "no|not a 3 x 3"),
        ([[1.2, 0, 0.5], [0, -2.0, 0.5], [0, 0, 1]], "positive focal lengths"),
    ],
)
def test_matrices_that_are_no_cameras_are_refused(
    tmp_path: Path, matrix: object, said: str
) -> None:
    with pytest.raises(InputError, match=rf"cam\.json: 'intrinsic_mat' .*({said})"):
        camera_of(tmp_path, matrix)


@given(st.floats(0.4, 3), st.sampled_from([(640, 360), (640, 480), (360, 640), (1242, 375)]))
def test_matrices_divided_by_the_wrong_side_are_refused(
    focal: float, size: tuple[int, int]
) -> None:
    width, height = size
    right = Intrinsics(focal * width, focal * width, width / 2, height / 2, width, height)
    assert right.check_pixels("K") is None
    for x, y in ((width, width), (height, height), (height, width)):
        wrong = Intrinsics(
            right.fx * width / x,
            right.fy * height / y,
            right.cx * width / x,
            right.cy * height / y,
            width,
            height,
        )
        with pytest.raises(InputError, match="divide the first row of K by the width"):
            wrong.check_pixels("K")


def test_pixels_that_are_not_square_are_told() -> None:
    squashed = Intrinsics(500, 500, 480, 270, 960, 540).resized(720, 540)
    assert "its pixels are not square" in (squashed.check_pixels("K") or "")


# --- damaged and unusual pictures -----------------------------------------------------------------------

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "full colours": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
}


def photo(width: int = 320, height: int = 240) -> np.ndarray:
    """A textured picture (H, W, 3) without medium grey."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 100, (height // 4, width // 4, 3)).astype(np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(image + rng.integers(0, 20, image.shape), 0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_whole_or_refused(tmp_path: Path, form: str) -> None:
    path, whole = tmp_path / "a.jpg", as_jpeg(photo(), **FORMS[form])
    for trailer in (b"", b"\0" * 2000, b"ftypmp42" * 500, whole[:900], b"\xff\xd9" * 3):
        path.write_bytes(whole + trailer)
        assert np.abs(read_image(path).astype(int) - photo()).mean() < 20
    begin = whole.index(b"\xff\xda")
    for share in (0.1, 0.5, 0.9, 0.98):
        cut = whole[: begin + 14 + int(share * (len(whole) - begin - 14))]
        for end in (b"", b"\xff\xd9", b"\xff\xd9" + b"video" * 400):
            path.write_bytes(cut + end)
            with pytest.raises(InputError, match=r"a\.jpg: the image is (truncated|damaged)"):
                read_image(path)


@pytest.mark.parametrize("form", ["plain", "full colours", "restarts"])
def test_a_picture_with_zeros_inside_is_refused(tmp_path: Path, form: str) -> None:
    whole = as_jpeg(photo(), **FORMS[form])
    middle = len(whole) // 2
    (tmp_path / "a.jpg").write_bytes(whole[:middle] + bytes(512) + whole[middle + 512 :])
    with pytest.raises(InputError, match="is damaged"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("level", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("form", FORMS)
def test_flat_pictures_are_whole(tmp_path: Path, level: int, form: str) -> None:
    half = np.full((240, 320, 3), level, np.uint8)
    half[:120] = photo()[:120]
    for image in (np.full_like(half, level), half, half[::-1], half.transpose(1, 0, 2)):
        (tmp_path / "a.jpg").write_bytes(as_jpeg(np.ascontiguousarray(image), **FORMS[form]))
        assert read_image(tmp_path / "a.jpg").shape == image.shape


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_they_say(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"a.{suffix.lower()}"
    Image.fromarray(photo()).save(path, suffix, exif=exif)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - upright).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_other_pixels_become_colours(tmp_path: Path, mode: str) -> None:
    plain = Image.fromarray(cv2.blur(photo(), (9, 9)))
    image = plain.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    expected = np.asarray((plain.convert("L") if mode == "I;16" else image).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).mean() < 4


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


@pytest.mark.parametrize("side", [30_000, 50_000, 2_000_000_000])
def test_absurd_sizes_are_refused_by_the_header(tmp_path: Path, side: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + content)
    with pytest.raises(
        InputError, match=r"a\.png: the image is larger than the \d+ million pixels"
    ):
        read_image(tmp_path / "a.png")
    jpeg = bytearray(as_jpeg(photo()))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 50_000, 50_000)
    (tmp_path / "a.jpg").write_bytes(jpeg)
    with pytest.raises(InputError, match=r"a\.jpg: the image is larger than"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("place", ["data", "check", "cut", "end"])
def test_damaged_png_are_refused(tmp_path: Path, place: str) -> None:
    write_image(tmp_path / "a.png", photo())
    content = bytearray((tmp_path / "a.png").read_bytes())
    if place in ("data", "check"):
        content[len(content) // 2 if place == "data" else -14] ^= 0x55
    (tmp_path / "a.png").write_bytes(content[: {"cut": len(content) // 2, "end": -12}.get(place)])
    with pytest.raises(InputError, match=r"a\.png: the image is"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\ud800.jpg", "a" * 50 + "\udcff.jpg"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such image"):
        read_image(tmp_path / name)


# --- listings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["12.5", "12.55", "12.6", "12.75", "13.0", "13.25", "13.5"],
        ["0.0", "0.033", "0.067", "0.1", "0.5", "9.9", "10.05", "10.1"],
        ["1.1", "1.2", "1.9", "1.10", "1.11"],
        ["f_9.9_left", "f_9.95_left", "f_10.0_left"],
        ["9", "10", "100"],
        ["frame.9", "frame.10"],
        ["a1", "a2", "a10", "b1"],
    ],
)
def test_names_are_ordered_by_their_numbers(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / f"{name}.jpg").touch()
    assert [path.stem for path in clip_images(tmp_path)] == names


def test_links_are_followed_once_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("in/z/0.JPG", "in/z/1.webp", "in/z/cam.json", "in/z/2.tif", "store/one/0.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("a.MTS", "a.MTS.cam.json", "cam.json", "notes.txt", ".hidden.jpg", "b.heic"):
        (root / name).touch()
    for link, target in {
        "first": "z",  # the real folder keeps its name
        "one": "../store/one",
        "again": "../store",
        "up": "..",
        "self": ".",
        "z/loop": "../../store",
        "dead": "nowhere",
        "circle": "circle",
    }.items():
        (root / link).symlink_to(target)
    found = list_files(root)
    images = {path.relative_to(root).as_posix() for path in found.images}
    assert {name for name in images if name.startswith("z/") and name.count("/") == 1} == {
        "z/0.JPG",
        "z/1.webp",
        "z/2.tif",
    }
    assert len([name for name in images if name.endswith("0.bmp")]) == 1
    assert len(images) == 4
    assert [path.name for path in found.videos] == ["a.MTS"]
    counts = {why.partition(" (")[0]: count for why, count in found.left_out.items()}
    assert counts.pop("folders linked a second time") >= 4
    assert counts == {".json": 1, ".txt": 1, "hidden": 1, ".heic": 1, "links to nothing": 2}
