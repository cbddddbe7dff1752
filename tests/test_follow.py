"""A mask drawn in one frame is followed through a video or a folder of frames."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_world import write_network
from PIL import Image

from moduv.commands.cli import main
from moduv.commands.follow import instances_of, read_mask
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.frames.images import write_image
from moduv.frames.video import read_clip
from moduv.frames.video_writer import write_video
from moduv.instances import rle
from moduv.instances.indexed import palette, read_indices, write_indices

HEIGHT, WIDTH, FRAMES = 64, 96, 6


def frame(number: int) -> np.ndarray:
    """A red and a green square slide over grey noise."""
    noise = np.random.default_rng(0).integers(90, 130, (HEIGHT // 4, WIDTH // 4, 1), np.uint8)
    image = noise.repeat(4, 0).repeat(4, 1).repeat(3, 2)
    image[8:32, 8 + 4 * number : 32 + 4 * number] = 250, 20, 20
    image[36:60, 56 - 4 * number : 80 - 4 * number] = 20, 250, 20
    return image


def drawn(number: int = 0) -> np.ndarray:
    image = frame(number).astype(int)
    return np.where(image[..., 0] > 200, 1, np.where(image[..., 1] > 200, 2, 0)).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained network, which knows colours."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    return write_network(path, NetworkConfig(width=8, stride=4))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    for number in range(FRAMES):
        write_image(tmp_path / f"clip/{number}.png", frame(number))
    return tmp_path / "clip"


def follow(clip: Path, mask: Path, weights: Path, *more: str) -> None:
    words = ["follow", clip, "--mask", mask, "--weights", weights, "--out", clip.parent / "out"]
    main([*map(str, words), *more])


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_objects_are_followed_to_the_end(
    kind: str, clip: Path, weights: Path, tmp_path: Path
) -> None:
    write_indices(tmp_path / "mask.png", drawn())
    if kind == "video":
        frames = [(0.1 * number, frame(number)) for number in range(FRAMES)]
        write_video(tmp_path / "clip.mp4", frames, Fraction(10))
        clip = tmp_path / "clip.mp4"
    follow(clip, tmp_path / "mask.png", weights)
    masks = [read_indices(tmp_path / f"out/clip/{number:05d}.png") for number in range(FRAMES)]
    assert len([*read_clip(tmp_path / "out/clip.mp4")]) == FRAMES
    for index in (1, 2):
        found, true = masks[-1] == index, drawn(FRAMES - 1) == index
        assert (found & true).sum() / (found | true).sum() > 0.5
    tracks = json.loads((tmp_path / "out/tracks.json").read_text())
    assert [video["name"] for video in tracks["videos"]] == [str(clip)]
    assert len(tracks["images"]) == FRAMES
    assert ("time" in tracks["images"][1]) == (kind == "video")
    assert {a["track_id"] for a in tracks["annotations"]} == {1, 2}
    last = [a for a in tracks["annotations"] if a["image_id"] == FRAMES]
    for annotation in last:
        mask = rle.decode(annotation["segmentation"]) > 0
        assert (mask == (masks[-1] == annotation["track_id"])).all()
        assert 0 <= annotation["score"] <= 1


def test_a_mask_of_a_later_frame_counts_from_there(
    clip: Path, weights: Path, tmp_path: Path
) -> None:
    write_indices(tmp_path / "mask.png", drawn(3))
    follow(clip, tmp_path / "mask.png", weights, "--frame", "3")
    masks = [read_indices(tmp_path / f"out/clip/{number:05d}.png") for number in range(FRAMES)]
    assert [bool(mask.any()) for mask in masks] == [False] * 3 + [True] * 3
    assert (masks[3] == drawn(3)).mean() > 0.95


def save(path: Path, kind: str) -> np.ndarray:
    """Save a mask of two objects in some form, and give the indices that it stands for."""
    indices = drawn()
    if kind == "grey":
        Image.fromarray(indices).save(path)
    elif kind == "palette of its own":
        picture = Image.fromarray(indices)
        picture.putpalette([9, 9, 9, 200, 0, 7, 1, 2, 3])
        picture.save(path)
    elif kind == "colours of DAVIS":
        indices = np.where(indices == 2, 5, indices)
        Image.fromarray(palette()[indices]).save(path)
    elif kind == "colours":
        colours = np.array([[0, 0, 0], [255, 0, 200], [10, 200, 0]], np.uint8)
        Image.fromarray(colours[indices]).save(path)
    elif kind == "transparent":
        colours = np.array([[9, 9, 9, 0], [255, 0, 200, 255], [10, 200, 0, 255]], np.uint8)
        Image.fromarray(colours[indices]).save(path)
    elif kind == "black and white":
        indices = (indices > 0).astype(np.uint8)
        Image.fromarray(255 * indices).save(path)
    else:
        indices = (indices > 0).astype(np.uint8)
        Image.fromarray(indices > 0).save(path)
    return indices


@pytest.mark.parametrize(
    "kind",
    [
        *("grey", "palette of its own", "colours of DAVIS", "colours", "transparent"),
        *("black and white", "bits"),
    ],
)
def test_masks_may_be_drawn_in_any_form(kind: str, tmp_path: Path) -> None:
    indices = save(tmp_path / "mask.png", kind)
    assert (read_mask(tmp_path / "mask.png") == indices).all()


def test_masks_that_hold_no_objects_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    ramp = np.linspace(0, 255, 40 * 50).astype(np.uint8).reshape(40, 50)
    for values, sentence in (
        (np.zeros((4, 5, 3), np.uint8), "has no object"),
        (np.zeros((4, 5), np.uint8), "has no object"),
        (np.zeros((4, 5), np.uint16), "is a picture of kind I;16"),
        (np.stack([ramp, 0 * ramp, ramp], -1), "has 255 colours, and each is taken for an object"),
    ):
        Image.fromarray(values).save(path)
        with pytest.raises(InputError, match=sentence):
            read_mask(path)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("size", "mask.png: is 48 x 32 and the frames are 96 x 64"),
        ("frame", "has 6 frames, and the mask is of frame 9"),
        ("below", "frame is -1; frames count from 0"),
        ("weights", "other.pth"),
        ("video", "no such video or folder of frames"),
        ("two", "2 values are given for VIDEO"),
        ("mask", "gone.png: no such mask"),
    ],
)
def test_bad_input_is_one_sentence(
    kind: str,
    sentence: str,
    clip: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mask, more = tmp_path / "mask.png", list[str]()
    write_indices(mask, drawn()[::2, ::2] if kind == "size" else drawn())
    videos = {"video": [tmp_path / "gone.mp4"], "two": [clip, clip]}.get(kind, [clip])
    if kind == "weights":
        weights = tmp_path / "other.pth"
        torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, weights)
    elif kind in ("frame", "below"):
        more = [f"--frame={9 if kind == 'frame' else -1}"]
    elif kind == "mask":
        mask = tmp_path / "gone.png"
    words = ["follow", *videos, "--mask", mask, "--weights", weights, "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as left:
        main([*map(str, words), *more])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out/tracks.json").exists()


@pytest.mark.parametrize("kind", ["folder", "video", "mask"])
def test_nothing_that_is_read_is_written_over(
    kind: str, clip: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, out = tmp_path / "mask.png", tmp_path
    if kind == "video":
        write_video(tmp_path / "film.mp4", [(None, frame(0))], Fraction(10))
        clip = tmp_path / "film.mp4"
    elif kind == "mask":
        mask, out = tmp_path / "out/clip/00000.png", tmp_path / "out"
    write_indices(mask, drawn())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = ["follow", clip, "--mask", mask, "--weights", weights, "--out", out]
    with pytest.raises(SystemExit) as left:
        main([*map(str, words)])
    assert left.value.code == 2
    assert "for --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_grey_masks_with_smooth_edges_or_losses_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 255, 40 * 50).astype(np.uint8).reshape(40, 50)
    Image.fromarray(ramp).save(tmp_path / "smooth.png")
    with pytest.raises(InputError, match="254 grey values, and each is taken for an object"):
        read_mask(tmp_path / "smooth.png")
    Image.fromarray(255 * drawn()).save(tmp_path / "mask.jpg")
    with pytest.raises(InputError, match="save the mask as a PNG"):
        read_mask(tmp_path / "mask.jpg")
    Image.fromarray(np.array([0, 128, 255], np.uint8)[drawn()]).save(tmp_path / "white.png")
    assert set(np.unique(read_mask(tmp_path / "white.png"))) == {0, 128}
    assert "255, white, are void" in capsys.readouterr().out


def test_indices_become_instances_with_their_confidence() -> None:
    indices = np.array([[0, 3, 3], [0, 0, 7]], np.uint8)
    found = instances_of(indices, np.array([[1, 0.5, 0.25], [1, 1, 1.5]], np.float32))
    assert found.columns["track"].tolist() == [3, 7]
    assert found.scores is not None
    assert found.scores.tolist() == [0.375, 1]
    assert found.boxes.tolist() == [[1, 0, 3, 1], [2, 1, 3, 2]]
    assert len(instances_of(0 * indices, indices)) == 0


@pytest.mark.parametrize("background", ["black", "transparent"])
def test_palettes_may_have_black_anywhere(
    background: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, more = tmp_path / "mask.png", {}
    picture = Image.fromarray(np.array([2, 0, 1], np.uint8)[drawn()])
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 0) if background == "black" else (255, 255, 255)]
    picture.putpalette(np.array(colours, np.uint8).tobytes())
    if background == "transparent":
        more = {"transparency": 2}
    picture.save(path, **more)
    assert (read_mask(path) == drawn()).all()
    assert "its index 0 is no black" in capsys.readouterr().out


def test_masks_of_an_earlier_longer_run_are_told(
    clip: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_indices(tmp_path / "mask.png", drawn())
    write_indices(tmp_path / "out/clip/00099.png", drawn())
    follow(clip, tmp_path / "mask.png", weights)
    assert "1 more masks lie there" in capsys.readouterr().out
    assert (tmp_path / "out/clip/00099.png").is_file()
