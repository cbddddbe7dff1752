"""Prediction of stage 1: which frames, from which weights, in which precision."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_world import config

from moduv.commands.cli import main
from moduv.depth.triplets import Triplets
from moduv.depth.weights import save_modules
from moduv.engine.errors import InputError
from moduv.engine.stages import read_manifest
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import read_split, write_split
from moduv.motion import predict
from moduv.motion.fields import mask_and_depth
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MODULES, MotionConfig
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.runs.watch import train_stage1


def outputs(root: Path) -> dict[str, dict[str, np.ndarray]]:
    return {str(p.relative_to(root)): dict(np.load(p)) for p in sorted(root.rglob("*.npz"))}


# --- which frames -----------------------------------------------------------------------------------


def test_a_wrong_data_folder_is_refused_and_blocks_nothing(
    street: Path, trained: Path, tmp_path: Path
) -> None:
    split, out = street / "splits/train_files.txt", tmp_path / "out"
    with pytest.raises(InputError, match=r"nowhere: has no image of the 8 frames .*000001\.jpg"):
        predict_motion(tmp_path / "nowhere", split, trained, out, MotionPredictionConfig())
    predict_motion(street, split, trained, out, MotionPredictionConfig())
    assert len(outputs(out)) == 8


def test_absent_frames_and_clip_edges_are_counted_apart(
    street: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.txt"
    numbers = (0, 1, 2, 5, 77)  # of a clip of six frames
    write_split(split, [FrameRef("train/clip_0000", number) for number in numbers])
    predict_motion(street, split, trained, tmp_path / "out", MotionPredictionConfig())
    assert "2 frames, 0 finished before, 2 at clip edges and 1 without" in capsys.readouterr().out
    results = read_manifest(tmp_path / "out")["results"]
    assert results == {"frames": 2, "edges": 2, "absent": 1}
    write_split(split, [FrameRef("train/clip_0000", number) for number in (0, 5)])
    with pytest.raises(InputError, match="none of its 2 frames has both neighbours"):
        predict_motion(street, split, trained, tmp_path / "edges", MotionPredictionConfig())


@pytest.mark.parametrize("left", [(0,), (2, 3), (1, 4, 7)])
def test_what_was_interrupted_ends_with_the_same_bytes(
    street: Path, trained: Path, tmp_path: Path, left: tuple[int, ...]
) -> None:
    split, out = street / "splits/train_files.txt", tmp_path / "out"
    settings = MotionPredictionConfig(batch_size=3)
    predict_motion(street, split, trained, out, settings)
    whole = {path: path.read_bytes() for path in sorted(out.rglob("*.npz"))}
    (out / "manifest.json").rename(out / ".manifest.json")
    for number, path in enumerate(whole):
        if number not in left:
            path.unlink()
    predict_motion(street, split, trained, out, settings)
    assert {path: path.read_bytes() for path in whole} == whole


def test_a_frame_that_was_not_written_is_no_success(
    street: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, out = street / "splits/train_files.txt", tmp_path / "out"
    write = predict.write_npz
    monkeypatch.setattr(
        predict, "write_npz", lambda path, **arrays: path.stem == "000002" or write(path, **arrays)
    )
    with pytest.raises(InputError, match=r"000002\.npz: was not written, nor were 1 others of 8"):
        predict_motion(street, split, trained, out, MotionPredictionConfig())
    monkeypatch.undo()
    predict_motion(street, split, trained, out, MotionPredictionConfig())
    assert len(outputs(out)) == 8


def test_shrunken_frames_are_used_only_where_they_suffice(tmp_path: Path) -> None:
    frames = [FrameRef("drive", index) for index in (1, 2)]
    rng = np.random.default_rng(0)
    for frame in (*frames, FrameRef("drive", 0), FrameRef("drive", 3)):
        original = rng.integers(0, 255, (96, 128, 3)).astype(np.uint8)
        for folder, image in (("original", original), ("downsample", original[::2, ::2] // 4)):
            write_image(tmp_path / f"drive/FRONT/rgb/{folder}/{frame.index:06d}.png", image)

    def seen(height: int, width: int) -> np.ndarray:
        triplets = Triplets(tmp_path, frames, height, width, field_of_view=60)
        return np.stack([triplets[index, 0]["images"].numpy() * 255 for index in range(2)])

    assert seen(48, 64).max() < 64
    assert seen(24, 32).max() < 64
    assert seen(96, 128).max() > 200
    assert seen(48, 96).max() > 200  # wide enough in one direction alone
    full = read_image(tmp_path / "drive/FRONT/rgb/original/000002.png")
    np.testing.assert_allclose(seen(96, 128)[1, 1].transpose(1, 2, 0), full, atol=1e-3)


# --- which weights ----------------------------------------------------------------------------------


def official(folder: Path, depth_model: str = "monodepthv2") -> DynamoDepth:
    """Write a folder as Dynamo-Depth does: state dicts, the encoders' with the training's size."""
    torch.manual_seed(3)
    model = DynamoDepth(depth_model).eval()
    folder.mkdir()
    for name in MODULES:
        state = OrderedDict(getattr(model, name).state_dict())
        size = {"height": 64, "width": 96} if name.endswith("_enc") else {}
        torch.save(OrderedDict({**state, **size}), folder / f"{name}.pth")
    torch.save({"state": {}, "param_groups": []}, folder / "adam.pth")
    return model


@pytest.mark.parametrize("depth_model", ["litemono", "monodepthv2"])
def test_official_checkpoints_predict_through_the_command(
    street: Path, tmp_path: Path, depth_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = official(tmp_path / "official", depth_model)
    split = tmp_path / "split.txt"
    frames = read_split(street / "splits/train_files.txt")[:2]
    write_split(split, frames)
    command = ["motion", "predict", "--preset", "paper", "--data", str(street), "--split"]
    command += [str(split), "--weights", str(tmp_path / "official"), "--out", str(tmp_path / "out")]
    main(command)
    assert f"no manifest; {depth_model} at 64 x 96 with the published" in capsys.readouterr().out
    triplets = Triplets(street, frames, 64, 96)
    with torch.no_grad():
        batch = triplets.collate([triplets[index, 0] for index in range(2)])
        mask, depth, _ = mask_and_depth(model, batch, MotionConfig())
    for position, frame in enumerate(frames):
        found = np.load(frame.file(tmp_path / "out", ".npz"))
        np.testing.assert_allclose(found["mot_mask"], mask[position, 0].numpy(), atol=1e-4)
        np.testing.assert_allclose(found["depth"], depth[position, 0].numpy(), rtol=1e-3)
    main(command)
    assert "finished before, kept" in capsys.readouterr().out
    # Other weights at the same place are other inputs.
    state = torch.load(tmp_path / "official/pose_dec.pth", weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, tmp_path / "official/pose_dec.pth")
    with pytest.raises(SystemExit):
        main(command)
    assert "pose_dec.pth" in capsys.readouterr().err


def test_the_weights_folder_of_a_training_stands_for_the_training(
    street: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = street / "splits/train_files.txt"
    predict_motion(street, split, trained, tmp_path / "out", MotionPredictionConfig())
    predict_motion(street, split, trained / "weights", tmp_path / "out", MotionPredictionConfig())
    assert "finished before, kept" in capsys.readouterr().out


def test_weights_that_cannot_be_used_are_explained(street: Path, tmp_path: Path) -> None:
    def refused(weights: Path) -> str:
        split = street / "splits/train_files.txt"
        with pytest.raises(InputError) as error:
            predict_motion(street, split, weights, tmp_path / "out", MotionPredictionConfig())
        return str(error.value)

    assert "neither a finished training of stage 1 nor an official" in refused(tmp_path / "none")
    save_modules(DynamoDepth("street"), MODULES, tmp_path / "street", 64, 96)
    assert "give the folder of their training" in refused(tmp_path / "street")
    official(tmp_path / "partial")
    (tmp_path / "partial/motion_mask.pth").unlink()
    assert "motion_mask.pth: no such file" in refused(tmp_path / "partial")
    encoder = tmp_path / "partial/depth_enc.pth"
    (tmp_path / "partial/motion_mask.pth").touch()
    state = torch.load(encoder, weights_only=True)
    torch.save({key: value for key, value in state.items() if key != "width"}, encoder)
    assert "depth_enc.pth: does not tell the 'height' and 'width'" in refused(tmp_path / "partial")
    torch.save({"conv.weight": torch.zeros(1)}, encoder)
    assert "depth_enc.pth: fits none of the depth models" in refused(tmp_path / "partial")
    (tmp_path / "begun/weights").mkdir(parents=True)
    (tmp_path / "begun/.manifest.json").write_text("{}")
    assert "the training is not finished" in refused(tmp_path / "begun/weights")


def test_a_training_of_depth_and_ego_motion_alone_writes_no_mask(
    street: Path, tmp_path: Path
) -> None:
    split, settings = street / "splits/train_files.txt", config(1)
    short = replace(settings, loops={"disp_init": settings.loops["disp_init"]})
    train_stage1(street, split, tmp_path / "motion", short)
    predict_motion(street, split, tmp_path / "motion", tmp_path / "out", MotionPredictionConfig())
    found = outputs(tmp_path / "out")
    assert len(found) == 8
    assert all(set(arrays) == {"depth", "inv_K", "pose"} for arrays in found.values())
    metrics, curve = evaluate_motion_outputs(tmp_path / "out", street / "truth", read_split(split))
    assert curve is None
    assert metrics["depth/abs_rel"] > 0
    assert not any(name.startswith("motion/") for name in metrics)


# --- how fast ---------------------------------------------------------------------------------------


def test_workers_change_nothing_and_half_precision_little(
    street: Path, trained: Path, tmp_path: Path
) -> None:
    split = street / "splits/train_files.txt"
    plain, threads, half = (
        MotionPredictionConfig(batch_size=3),
        MotionPredictionConfig(batch_size=3, workers=2),
        MotionPredictionConfig(batch_size=3, bf16=True),
    )
    for name, settings in (("plain", plain), ("threads", threads), ("half", half)):
        predict_motion(street, split, trained, tmp_path / name, settings)
    expected = outputs(tmp_path / "plain")
    assert len(expected) == 8
    for name, arrays in outputs(tmp_path / "threads").items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, expected[name][key])
    differences = [
        np.abs(arrays["depth"] / expected[name]["depth"] - 1).mean()
        for name, arrays in outputs(tmp_path / "half").items()
    ]
    assert 0 < max(differences) < 0.05


def test_a_broken_frame_is_named_by_the_workers_too(
    street: Path, trained: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "data/train/clip_0000"
    clip.mkdir(parents=True)
    for path in (street / "train/clip_0000").iterdir():
        (clip / path.name).write_bytes(path.read_bytes())
    (clip / "000003.jpg").write_bytes(b"no image")
    split = tmp_path / "split.txt"
    write_split(split, [FrameRef("train/clip_0000", index) for index in range(1, 5)])
    with pytest.raises(InputError, match=r"^\S*000003\.jpg: the image is"):
        predict_motion(
            tmp_path / "data", split, trained, tmp_path / "out", MotionPredictionConfig(workers=2)
        )
