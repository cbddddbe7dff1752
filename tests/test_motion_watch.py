"""Stage 1 watched while it is trained: held-out metrics and pictures, which never end the training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_world import config, final_weights

from moduv.depth.networks.camera import LearnedCamera
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split, write_split
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES
from moduv.runs import watch as stage1
from moduv.runs.watch import ValidationWatch, train_stage1


def test_validation_is_logged_and_drawn_and_changes_nothing(street: Path, tmp_path: Path) -> None:
    train, val = street / "splits/train_files.txt", street / "splits/val_files.txt"
    watched = config(validate_every=2, validation_frames=3, pictures=2)
    train_stage1(street, train, tmp_path / "watched", watched, val)
    train_stage1(street, train, tmp_path / "alone", watched)
    for key, value in final_weights(tmp_path / "alone").items():
        assert torch.equal(value, final_weights(tmp_path / "watched")[key]), key
    logged = {
        name: read_log(tmp_path / "watched" / folder / "log.jsonl")
        for name, folder in (("first", "1_disp_init"), ("last", "4_fine_tune"))
    }
    assert "val/depth/abs_rel" not in logged["first"][0]
    assert logged["first"][1]["val/depth/abs_rel"] > 0
    assert "val/motion/AP" not in logged["first"][1]
    assert 0 <= logged["last"][1]["val/motion/AP"] <= 1
    pictures = sorted((tmp_path / "watched/pictures").glob("fine_tune_*.jpg"))
    assert len(pictures) == 2
    assert np.ptp(read_image(pictures[0])) > 100


def test_validation_between_log_lines_is_refused(street: Path, tmp_path: Path) -> None:
    train, val = street / "splits/train_files.txt", street / "splits/val_files.txt"
    loop = LoopConfig(steps=4, batch_size=2, learning_rate=1e-3, log_every=2)
    wrong = config(loops=dict.fromkeys(PHASES, loop), validate_every=3)
    with pytest.raises(InputError, match="a multiple of log_every, 2"):
        train_stage1(street, train, tmp_path, wrong, val)


def test_held_out_frames_that_cannot_be_seen_are_refused_before_training(
    street: Path, tmp_path: Path
) -> None:
    train, val = street / "splits/train_files.txt", tmp_path / "val.txt"
    write_split(val, [FrameRef("val/clip_0000", 0), FrameRef("val/clip_0000", 5)])
    with pytest.raises(InputError, match=r"val.txt: none of its 2 frames has both neighbours"):
        train_stage1(street, train, tmp_path / "out", config(validate_every=1), val)
    assert not (tmp_path / "out").exists()


def test_a_later_phase_that_cannot_be_watched_is_refused_before_training(
    street: Path, tmp_path: Path
) -> None:
    train, val = street / "splits/train_files.txt", street / "splits/val_files.txt"
    loops = {**config().loops, "fine_tune": LoopConfig(4, 2, 1e-3, log_every=2)}
    with pytest.raises(InputError, match="fine_tune: validation every 3 steps"):
        train_stage1(street, train, tmp_path / "out", config(loops=loops, validate_every=3), val)
    assert not (tmp_path / "out").exists()


def test_frames_without_truth_are_drawn_and_not_measured(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "street"
    shutil.copytree(street, data, ignore=shutil.ignore_patterns("truth"))
    train, val = data / "splits/train_files.txt", data / "splits/val_files.txt"
    settings = config(1, validate_every=1, validation_frames=2, pictures=1)
    train_stage1(data, train, tmp_path / "out", settings, val)
    assert capsys.readouterr().out.count("  validation: ") == 1
    for number, phase in enumerate(PHASES, 1):
        log = read_log(tmp_path / f"out/{number}_{phase}/log.jsonl")
        assert log
        assert not [key for entry in log for key in entry if key.startswith("val/")]
        assert len(list((tmp_path / "out/pictures").glob(f"{phase}_*.jpg"))) == 1


def test_a_held_out_frame_that_breaks_later_does_not_end_the_training(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "street"
    shutil.copytree(street, data)
    (data / "val/clip_0000/000001.jpg").write_bytes(b"no image")
    train, val = data / "splits/train_files.txt", data / "splits/val_files.txt"
    train_stage1(data, train, tmp_path / "out", config(1, validate_every=1), val)
    assert "000001.jpg: the image is not readable" in capsys.readouterr().out
    assert (tmp_path / "out/manifest.json").is_file()


def test_held_out_frames_are_seen_through_the_learned_camera(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "street"
    shutil.copytree(street, data)
    guessed = Intrinsics.from_field_of_view(50, 160, 96)
    for path in data.rglob("cam.json"):
        guessed.to_cam_json(path, assumed=True)
    torch.manual_seed(0)
    model, frames = DynamoDepth("street"), read_split(data / "splits/val_files.txt")[:1]
    model.camera = LearnedCamera()
    torch.nn.init.constant_(model.camera.log_factor, float(np.log(1.5)))
    drawn: list[torch.Tensor] = []
    original = stage1.draw_fields
    monkeypatch.setattr(
        stage1,
        "draw_fields",
        lambda fields, batch, index: (drawn.append(batch["K"]), original(fields, batch, index))[1],
    )
    ValidationWatch(
        model, PHASES["fine_tune"], data, frames, tmp_path / "out", config(validate_every=1)
    )(1)
    expected = 1.5 * guessed.resized(96, 64).fx
    assert drawn[0][0, 0, 0].item() == pytest.approx(expected, rel=1e-5)
    inv_K = read_npz(frames[0].file(tmp_path / "out/validation", ".npz"), ("inv_K",))["inv_K"]
    assert 1 / inv_K[0, 0] == pytest.approx(expected, rel=1e-4)
