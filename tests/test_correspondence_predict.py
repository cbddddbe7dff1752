"""A data set's masks are carried to all frames, as the reference writes them, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_golden import expected, filled_net, golden
from correspondence_world import write_network
from PIL import Image

from moduv.commands.cli import main
from moduv.correspondence.network import TrainedNet
from moduv.correspondence.predict import Follower, PropagatedConfig, overlay, propagate_dataset
from moduv.correspondence.propagation import PropagationConfig
from moduv.correspondence.sequences import find_sequences
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.engine.stages import OtherSettings
from moduv.frames.images import write_image
from moduv.instances.indexed import read_indices, write_indices

SIZE = (40, 56)
FEW = PropagatedConfig(propagation=PropagationConfig(context=3, radius=3, top_k=4))
TINY = NetworkConfig(width=8, stride=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained network."""
    return write_network(tmp_path_factory.mktemp("weights") / "weights.pth", TINY, "key")


def picture(seed: int, frame: int) -> np.ndarray:
    """A frame of a scene that slides."""
    wide = np.random.default_rng(seed).integers(0, 256, (10, 30, 3), np.uint8)
    return np.roll(wide.repeat(4, 0).repeat(4, 1), 2 * frame, 1)[: SIZE[0], : SIZE[1]]


def write_set(root: Path, images: str, masks: str, frames: int = 5) -> None:
    """Two sequences, the second with an object that is given in its third frame."""
    for seed, name in enumerate(("bear", "dogs")):
        for frame in range(frames):
            write_image(root / images / name / f"{frame:05d}.jpg", picture(seed, frame))
        first, late = np.zeros((2, *SIZE), np.uint8)
        first[5:25, 5:30], late[10:30, 35:50] = 1, 2
        write_indices(root / masks / name / "00000.png", first)
        if name == "dogs":
            write_indices(root / masks / name / "00002.png", late)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "data", "JPEGImages", "Annotations")
    return tmp_path / "data"


def contents(out: Path) -> dict[str, bytes]:
    files = [path for kind in ("vos", "vis") for path in (out / f"key_{kind}").rglob("*.png")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("feature", ["res4", "key"])
def test_written_indices_are_the_references(feature: str, shared: Path) -> None:
    case, told = (
        golden(shared, f"more_end_to_end_{feature}"),
        expected(shared, f"more_end_to_end_{feature}"),
    )
    follower = Follower(
        TrainedNet(filled_net(shared).eval(), feature), PropagatedConfig(), torch.device("cpu")
    )
    found = follower.follow(case["images"], {0: case["init_0"].argmax(0)}, tuple(told["size"]))
    indices = np.stack([indices for _, indices, _ in found])
    # The reference differs from itself in double precision by as much.
    assert (indices == case["ids"]).mean() > 0.999


def test_large_frames_are_shrunk_for_the_network_alone(weights: Path) -> None:
    own, small = (
        Follower.load(weights, FEW, torch.device("cpu"), largest_side=side) for side in (0, 20)
    )
    image = picture(0, 0)
    assert [follower.features(image).shape[1:] for follower in (own, small)] == [(5, 7), (3, 4)]
    assert torch.equal(own.features(image[::2, ::2]), small.features(image[::2, ::2]))
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 10:30] = 1
    ((_, indices, _),) = small.follow([image], {0: mask}, SIZE)
    assert indices.shape == SIZE


def test_every_frame_has_a_mask_and_a_picture(folder: Path, weights: Path, tmp_path: Path) -> None:
    propagate_dataset(folder, weights, tmp_path / "out", FEW)
    written = contents(tmp_path / "out")
    assert len(written) == 20
    masks = [read_indices(tmp_path / f"out/key_vos/dogs/{frame:05d}.png") for frame in range(5)]
    given = read_indices(folder / "Annotations/dogs/00000.png")
    assert (masks[0] == given).mean() > 0.97  # through the size of the features
    assert [2 in mask for mask in masks] == [False, False, True, True, True]
    with Image.open(tmp_path / "out/key_vos/dogs/00003.png") as shown:
        assert shown.mode == "P"


def test_a_killed_run_goes_on_with_the_next_sequence(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propagate_dataset(folder, weights, tmp_path / "whole", FEW)
    real, seen = Follower.features, list[int]()

    def killed(self: Follower, image: np.ndarray) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return real(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Follower, "features", killed)
        with pytest.raises(KeyboardInterrupt):
            propagate_dataset(folder, weights, tmp_path / "out", FEW)
        assert len(contents(tmp_path / "out")) == 14
        seen.clear()
        propagate_dataset(folder, weights, tmp_path / "out", FEW)
        assert len(seen) == 5
        propagate_dataset(folder, weights, tmp_path / "out", FEW)  # finished before
        assert len(seen) == 5
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(OtherSettings, match="feature"):
        propagate_dataset(folder, weights, tmp_path / "out", PropagatedConfig("res3"))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one process")
def test_two_processes_write_what_one_writes(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["correspondence", "propagate", "--data", folder, "--weights", weights]
    monkeypatch.setenv("WORLD_SIZE", "1")
    main([*map(str, words), "--out", str(tmp_path / "one")])
    monkeypatch.delenv("WORLD_SIZE")
    torch_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        main([*map(str, words), "--out", str(tmp_path / "two")])
    finally:
        torch.set_num_threads(torch_threads)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) == 20
    assert one == two


def test_davis_starts_from_first_masks_alone(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "DAVIS"
    write_set(root, "JPEGImages/480p", "Annotations/480p")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("dogs\n")
    (sequence,) = find_sequences(root, "davis")
    assert (sequence.name, len(sequence.frames), [*sequence.masks]) == ("dogs", 5, [0])


def test_youtube_vos_gets_the_frames_it_asks_for_and_an_archive(
    weights: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "ytvos", tmp_path / "out"
    write_set(root / "valid_all_frames", "JPEGImages", "unused", frames=6)
    shutil.rmtree(root / "valid_all_frames/unused")
    write_set(root / "valid", "JPEGImages", "Annotations", frames=6)
    for name in ("bear", "dogs"):
        for frame in (1, 3, 4, 5):
            (root / f"valid/JPEGImages/{name}/{frame:05d}.jpg").unlink()
    propagate_dataset(root, weights, out, FEW, "ytvos")
    asked = [f"{name}/{frame:05d}.png" for name in ("bear", "dogs") for frame in (0, 2)]
    assert (
        sorted(p.relative_to(out / "key_vos").as_posix() for p in out.glob("key_vos/*/*")) == asked
    )
    with zipfile.ZipFile(out / "Annotations.zip") as archive:
        assert archive.namelist() == [f"Annotations/{name}" for name in asked]
        (tmp_path / "read.png").write_bytes(archive.read("Annotations/dogs/00002.png"))
    assert 2 in read_indices(tmp_path / "read.png")


def test_lists_name_frames_flags_and_masks(folder: Path, tmp_path: Path) -> None:
    lines = [
        f"{int(frame != 1)} /JPEGImages/dogs/{frame:05d}.jpg /Annotations/dogs/{frame:05d}.png"
        for frame in range(4)
    ]
    (tmp_path / "val.txt").write_text("\n".join([*lines, "1 JPEGImages/bear/00000.jpg"]) + "\n")
    with pytest.raises(InputError, match="sequence 'bear' has no mask"):
        find_sequences(folder, "folder", tmp_path / "val.txt")
    (tmp_path / "val.txt").write_text("\n".join(lines))
    (sequence,) = find_sequences(folder, "folder", tmp_path / "val.txt")
    assert sequence.asked == (True, False, True, True)
    assert [*sequence.masks] == [0, 2]
    assert sequence.results(Path("x"))[:2] == [Path("x/dogs/00000.png"), None]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("1 JPEGImages/dogs/00009.jpg x.png", "names JPEGImages/dogs/00009.jpg and 0 other files"),
        ("2 a.jpg b.png", "is no line 'flag image mask'"),
        ("1 ../a.jpg b.png", "leaves the data folder"),
        (
            "1 JPEGImages/dogs/00000.jpg Annotations/dogs/00000.png\n"
            "1 JPEGImages/bear/00000.jpg Annotations/bear/00000.png\n"
            "1 JPEGImages/dogs/00001.jpg Annotations/dogs/00000.png",
            "2 sequences are called 'dogs'",
        ),
        ("", "holds no sequences"),
    ],
)
def test_lists_that_do_not_fit_are_one_sentence(
    folder: Path, tmp_path: Path, lines: str, sentence: str
) -> None:
    (tmp_path / "val.txt").write_text(lines)
    with pytest.raises(InputError, match=sentence):
        find_sequences(folder, "folder", tmp_path / "val.txt")


@pytest.mark.parametrize("name", ["../../taken", "/taken", "bear\nbear"])
def test_sequences_of_davis_stay_in_the_folder_of_results(tmp_path: Path, name: str) -> None:
    root = tmp_path / "DAVIS"
    write_set(root, "JPEGImages/480p", "Annotations/480p")
    write_set(tmp_path, "taken", "taken")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text(f"{name}\n")
    with pytest.raises(InputError, match=r"leaves the data folder|2 sequences are called 'bear'"):
        find_sequences(root, "davis")


def test_frames_whose_masks_would_be_one_file_are_refused(folder: Path) -> None:
    write_image(folder / "JPEGImages/bear/00001.png", picture(0, 1))
    with pytest.raises(InputError, match=r"00001\.jpg and of 00001\.png would be one file"):
        find_sequences(folder, "folder")


def test_masks_without_frames_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = folder / "Annotations"
    (masks / "dogs/00002.png").rename(masks / "dogs/2.png")
    (masks / "cats").mkdir()
    (folder / "JPEGImages/.thumbnails").mkdir()
    assert len(find_sequences(folder, "folder")) == 2
    told = capsys.readouterr().out
    assert "1 files are masks of no frame, left out, first 2.png" in told
    assert "1 folders of masks have no frames, left out, first cats" in told


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("mask size", "00002.png: is 9 x 8 and the frames are 56 x 40"),
        ("frame size", "frame 3 is 28 x 20 and the first 56 x 40"),
        ("colours", "00002.png: is a picture of kind RGB"),
        ("weights", "another.pth"),
        ("no masks", "sequence 'bear' has no mask"),
        ("no frames", "dogs: holds no frames"),
        ("dataset", "data set 'coco' is unknown"),
        ("feature", "feature is 'res5'"),
    ],
)
def test_bad_input_is_one_sentence(
    kind: str,
    sentence: str,
    folder: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    mask, more = folder / "Annotations/dogs/00002.png", list[str]()
    if kind == "mask size":
        write_indices(mask, np.ones((8, 9), np.uint8))
    elif kind == "frame size":
        write_image(folder / "JPEGImages/dogs/00003.jpg", picture(0, 0)[::2, ::2])
    elif kind == "colours":
        Image.open(mask).convert("RGB").save(mask)
    elif kind == "weights":
        weights = tmp_path / "another.pth"
        torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, weights)
    elif kind == "no masks":
        shutil.rmtree(folder / "Annotations/bear")
    elif kind == "no frames":
        shutil.rmtree(folder / "JPEGImages/dogs")
        (folder / "JPEGImages/dogs").mkdir()
    elif kind == "dataset":
        more = ["--dataset", "coco"]
    else:
        more = ["--config.feature", "res5"]
    words = [
        "correspondence",
        "propagate",
        "--data",
        folder,
        "--weights",
        weights,
        "--out",
        tmp_path / "out",
    ]
    with pytest.raises(SystemExit) as left:
        main([*map(str, words), *more])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err


def test_pictures_show_the_frame_and_the_colour_of_each_object() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    shown = overlay(image, np.array([[0, 1, 2], [0, 0, 0]], np.uint8))
    assert shown[0].tolist() == [[100] * 3, [120, 30, 30], [30, 120, 30]]


def test_the_script_propagates_and_measures(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "DAVIS"
    write_set(root, "JPEGImages/480p", "Annotations/480p")
    for frame in range(1, 5):
        shutil.copy(
            root / "Annotations/480p/bear/00000.png",
            root / f"Annotations/480p/bear/{frame:05d}.png",
        )
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("bear\n")
    repository = Path(__file__).parents[1]
    settings = {"DATA": tmp_path, "WEIGHTS": weights, "OUT": tmp_path / "out", "WORLD_SIZE": 1}
    environment = {**os.environ, **{key: str(value) for key, value in settings.items()}}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    words = ["bash", str(repository / "scripts/correspondence/infer.sh")]
    environment["MODUV_ENVIRONMENT"] = "ready"
    done = subprocess.run([*words, "davis"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "J&F-Mean" in done.stdout
    assert (tmp_path / "out/key_vos/global_results-val.csv").is_file()
    assert len([*(tmp_path / "out/key_vis/bear").iterdir()]) == 5
    head = (repository / "scripts/correspondence/infer.sh").read_text().splitlines()[1]
    told = subprocess.run([*words, "--help"], env=environment, capture_output=True, text=True)
    assert f"# {told.stdout.splitlines()[0]}" == head
    wrong = subprocess.run([*words, "coco"], env=environment, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "unknown data set coco" in wrong.stderr
