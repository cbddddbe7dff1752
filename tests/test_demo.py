"""The demo on images and videos: overlays, detections, identities, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, detections, shown, street, write_frames, write_weights
from ingest_world import set_display_matrix
from PIL import Image

from moduv.commands.cli import main
from moduv.commands.demo import DemoConfig, run_demo
from moduv.detector.half import run_in_half
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.detector.weights import load_detector
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.frames.images import read_image, write_image
from moduv.frames.video import read_clip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained street detector: it finds something everywhere, with spread scores."""
    return write_weights(tmp_path_factory.mktemp("round"), seed=3).parent


def test_a_turned_video_is_shown_upright(weights: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "phone.mp4", [np.rot90(street(), -1)] * 3)
    set_display_matrix(tmp_path / "phone.mp4", 0, -1, 1, 0)  # by 90 degrees against the clock
    run_demo(weights, tmp_path / "phone.mp4", tmp_path / "out", DemoConfig(threshold=1.0))
    content = detections(tmp_path / "out")
    assert {(i["height"], i["width"]) for i in content["images"]} == {(HEIGHT, WIDTH)}
    ((_, picture), *_) = read_clip(tmp_path / "out/phone.mp4")
    assert np.abs(picture.astype(int) - street()).mean() < 8


def test_folders_of_images_and_videos_are_walked(weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_image(source / "a/one.png", street())
    write_image(source / "a/two.JPG", np.zeros((50, 120, 3), np.uint8))
    write_frames(source / "b/one.mp4", [street()] * 2)
    write_frames(source / "b/two.mkv", [street()] * 2)
    out = source / "overlays"
    for _ in range(2):  # a second run does not take the first one's overlays for images
        run_demo(weights, source, out, DemoConfig(batch_size=3))
        names = {path.name for path in out.iterdir()}
        assert names == {"a-one.png", "a-two.JPG", "b-one.mp4", "b-two.mkv.mp4", "detections.json"}
    content = detections(out)
    assert [image.get("video_id") for image in content["images"]] == [None, None, 1, 1, 2, 2]
    numbers = [item["id"] for item in content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not any("track_id" in item for frame in shown(content)[:2] for item in frame)
    picture = read_image(out / "a-one.png")
    assert picture.shape == street().shape
    assert (picture != street()).any()


def test_broken_files_are_all_named_and_the_others_are_done(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_frames(source / "whole.mp4", [street()] * 2)
    (source / "broken.mp4").write_bytes(b"no video" * 100)
    for name in ("broken.jpg", "other.png"):
        (source / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.jpg: .*\(and 2 more, named above\)"):
        run_demo(weights, source, out, DemoConfig())
    assert {path.name for path in out.iterdir()} == {"whole.mp4", "detections.json"}
    assert len(detections(out)["images"]) == 2
    told = capsys.readouterr().out
    for name in ("broken.jpg", "other.png", "broken.mp4"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"{source / name}: ")]
        assert "leave it out" in line
    assert "split" not in told


def test_pictures_of_every_form_are_shown_but_for_those_of_no_height(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    plain = Image.fromarray(street())
    for mode in ("1", "L", "LA", "P", "RGBA"):
        plain.convert(mode).save(source / f"{mode}.png")
    plain.convert("CMYK").save(source / "cmyk.jpg")
    for suffix in ("webp", "bmp", "tif", "JPEG"):
        plain.save(source / f"a.{suffix}")
    for width, height in ((1, 1), (2, 3), (2000, 20)):
        plain.resize((width, height)).save(source / f"{width}x{height}.png")
    flat = ("2000x3.png", "1x2000.png", "2000x1.png")
    for name in flat:
        width, height = map(int, name.removesuffix(".png").split("x"))
        plain.resize((width, height)).save(source / name)
    (source / "empty.jpg").write_bytes(b"")
    (source / "empty.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"\(and 4 more, named above\)"):
        run_demo(weights, source, out, DemoConfig(batch_size=2))
    shown_files = {path.name for path in source.iterdir()} - {*flat, "empty.jpg", "empty.mp4"}
    assert {path.name for path in out.iterdir()} == {*shown_files, "detections.json"}
    told = capsys.readouterr().out
    assert all(f"{name}: is of {name[:-4].replace('x', ' x ')} pixels" in told for name in flat)
    assert "left out in all: 5 files that cannot be shown" in told


def test_flat_images_are_refused_by_name(weights: Path, tmp_path: Path) -> None:
    detector = load_detector(weights)
    flat = np.zeros((3, 2000, 3), np.uint8)
    with pytest.raises(InputError, match="an image: is of 2000 x 3 pixels"):
        detector.predict([street(), flat])
    write_image(tmp_path / "a.png", flat)
    with pytest.raises(InputError, match=r"a\.png: is of 2000 x 3 pixels"):
        list(detector.stream([tmp_path / "a.png"]))
    write_frames(tmp_path / "a.mp4", [np.zeros((4, 2000, 3), np.uint8)] * 2)
    with pytest.raises(InputError, match=r"a\.mp4: is of 2000 x 4 pixels"):
        run_demo(weights, tmp_path / "a.mp4", tmp_path / "out", DemoConfig())
    assert not list((tmp_path / "out").iterdir())


def test_a_picture_without_suffix_becomes_png(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", street())
    (tmp_path / "a.jpg").rename(tmp_path / "photo")
    run_demo(weights, tmp_path / "photo", tmp_path / "out", DemoConfig())
    assert (tmp_path / "out/photo.png").is_file()


def test_hidden_files_are_counted_and_links_followed(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in/a.jpg", street())
    write_image(tmp_path / "in/.thumbs/t.jpg", street())
    write_image(tmp_path / "store/b.jpg", street())
    (tmp_path / "in/notes.txt").write_text("none")
    for link, target in (("link", "../store"), ("loop", ".")):
        (tmp_path / "in" / link).symlink_to(target)
    run_demo(weights, tmp_path / "in", tmp_path / "out", DemoConfig())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.jpg", "link-b.jpg", "detections.json"}
    told = capsys.readouterr().out
    for part in ("1 hidden (.thumbs)", "1 .txt (notes.txt)", "1 folders linked a second time"):
        assert part in told


@pytest.mark.parametrize("case", ["demo_hidden_folder", "demo_very_flat_picture"])
def test_the_good_picture_of_a_case_is_shown(
    shared: Path, weights: Path, tmp_path: Path, case: str
) -> None:
    command = ["demo", "--load_ckpt", str(weights), "--out", str(tmp_path / "out")]
    source = str(shared / "cases" / case / "pictures")
    if case == "demo_hidden_folder":
        main([*command, "--input", source])
    else:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--input", source])
        assert stopped.value.code == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.jpg", "detections.json"}


def test_the_film_behind_a_cover_is_shown(shared: Path, weights: Path, tmp_path: Path) -> None:
    source = shared / "cases/video_with_cover_picture/clips"
    run_demo(weights, source, tmp_path, DemoConfig())
    assert len(detections(tmp_path)["images"]) == 12


def test_detections_of_an_earlier_run_outlast_one_that_finds_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", street())
    run_demo(weights, tmp_path / "a.png", tmp_path / "out", DemoConfig())
    before = (tmp_path / "out/detections.json").read_bytes()
    (tmp_path / "t.txt").write_text("no image")
    capsys.readouterr()
    with pytest.raises(
        InputError, match=r"t\.txt: the image is not readable.*; replace it or leave"
    ):
        run_demo(weights, tmp_path / "t.txt", tmp_path / "out", DemoConfig())
    assert capsys.readouterr().out == ""  # neither a summary of nothing nor the sentence twice
    assert (tmp_path / "out/detections.json").read_bytes() == before
    with pytest.raises(InputError):
        run_demo(weights, tmp_path / "t.txt", tmp_path / "new", DemoConfig())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_an_interrupt_keeps_what_is_done_and_promises_nothing(
    weights: Path,
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        path = tmp_path / f"in/{number}.{suffix}"
        if suffix == "png":
            write_image(path, street(number))
        else:
            write_frames(path, [street(number)] * 2)
    seen: list[int] = []
    plain = Detector.predictions

    def interrupted(detector: Detector, images: Any) -> Any:
        seen.append(len(images))
        if len(seen) == (3 if suffix == "png" else 6):  # in the last file
            raise KeyboardInterrupt
        return plain(detector, images)

    monkeypatch.setattr(Detector, "predictions", interrupted)
    command = ["demo", "--load_ckpt", str(weights), "--input", str(tmp_path / "in")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 130
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "moduv: interrupted."
    names = {f"0.{suffix}", f"1.{suffix}"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "detections.json"}
    files = {
        Path(i["file_name"]).name.partition("#")[0] for i in detections(tmp_path / "out")["images"]
    }
    assert files == names


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_given_as_folder_ends_with_a_sentence(
    weights: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", street())
    (tmp_path / "file").write_text("mine")
    command = ["demo", "--load_ckpt", str(weights), "--input", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", str(tmp_path / place)])
    assert stopped.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'file'}: is a file, and a folder is needed there" in told
    assert (tmp_path / "file").read_text() == "mine"


def test_what_would_overwrite_or_is_missing_is_refused(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", np.zeros((40, 60, 3), np.uint8))
    before = (tmp_path / "in/a.png").read_bytes()
    with pytest.raises(InputError, match=r"a\.png: the overlay would replace it"):
        run_demo(weights, tmp_path / "in", tmp_path / "in", DemoConfig())
    assert (tmp_path / "in/a.png").read_bytes() == before
    write_image(tmp_path / "in/b/c.png", np.zeros((40, 60, 3), np.uint8))
    write_image(tmp_path / "in/b-c.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match="another file's overlay"):
        run_demo(weights, tmp_path / "in", tmp_path / "out", DemoConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        run_demo(weights, tmp_path / "empty", tmp_path / "out", DemoConfig())
    with pytest.raises(InputError, match="no such image, video or folder"):
        run_demo(weights, tmp_path / "none", tmp_path / "out", DemoConfig())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--half"], "half precision needs a CUDA device"),
        (["--device", "cuda"], "torch finds 0 CUDA devices"),
        (["--device", "tpu"], "'tpu' is unknown"),
        (["--batch_size", "0"], "batch_size is 0"),
    ],
)
def test_senseless_options_end_with_a_sentence(
    weights: Path,
    tmp_path: Path,
    option: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_image(tmp_path / "a.png", street())
    command = ["demo", "--load_ckpt", str(weights), "--input", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", str(tmp_path / "out"), *option])
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("moduv: error:") == 1
    assert sentence in errors
    assert not (tmp_path / "out").exists()


def test_the_command_draws_with_the_options_of_the_original(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", street())
    command = ["demo", "--load_ckpt", str(weights), "--input", str(tmp_path / "a.png")]
    for threshold in ("0.3", "1"):
        out = str(tmp_path / threshold)
        main([*command, "--vis_conf_thrd", threshold, "--out", out, "--device=cpu"])
    assert (read_image(tmp_path / "1/a.png") == street()).all()
    assert (read_image(tmp_path / "0.3/a.png") != street()).any()


def test_videos_without_pyav_name_the_package(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frames(tmp_path / "in/drive.mp4", [street()] * 2)
    write_image(tmp_path / "in/a.png", street())
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"drive\.mp4: video files need PyAV; install it with pip"):
        run_demo(weights, tmp_path / "in", tmp_path / "out", DemoConfig())
    assert (tmp_path / "out/a.png").is_file()


def test_half_precision_finds_the_same_object_at_the_same_place(weights: Path) -> None:
    state = checkpoint.load_weights(weights / "weights.pth")
    best = []
    for half in (False, True):
        model = build_detector("street")
        model.load_state_dict(state)
        if half:
            run_in_half(model, torch.bfloat16)
        found = Detector(model).predictions([street()])[0]
        assert found.boxes.dtype == found.masks.dtype == torch.float32
        best.append((found.boxes[0], found.scores[0]))
    (box, score), (halved_box, halved_score) = best
    assert (box - halved_box).abs().max() < 1.5
    assert abs(score - halved_score) < 0.02
    assert score != halved_score
