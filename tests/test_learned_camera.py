"""Unknown cameras: said, assumed, and learned together with depth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from motion_world import config, final_weights

from moduv import geometry
from moduv.depth.networks.camera import LearnedCamera
from moduv.engine.files import read_npz
from moduv.engine.log import read_log
from moduv.engine.stages import read_manifest
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.runs.watch import train_stage1

HEIGHT, WIDTH, FOCAL = 48, 80, 60.0


def intrinsics(focal: float) -> tuple[torch.Tensor, torch.Tensor]:
    camera = Intrinsics(focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)
    matrices = camera.matrix4(), camera.inverse4()
    return tuple(torch.from_numpy(m).float()[None] for m in matrices)  # type: ignore[return-value]


def test_only_assumed_cameras_are_zoomed() -> None:
    camera = LearnedCamera()
    torch.nn.init.constant_(camera.log_factor, float(np.log(1.5)))
    K, inv_K = (tensor.repeat(2, 1, 1) for tensor in intrinsics(FOCAL))
    zoomed, inverse = camera(K, inv_K, torch.tensor([True, False]))
    torch.testing.assert_close(zoomed @ inverse, torch.eye(4).repeat(2, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(zoomed[0], intrinsics(1.5 * FOCAL)[0][0])
    torch.testing.assert_close(zoomed[1], K[1])


@pytest.mark.parametrize("assumed", [0.7, 1.4])
def test_rotations_tell_the_focal_length(assumed: float) -> None:
    """A camera that turns by a known angle: only the true focal length aligns the two frames."""
    noise = np.random.default_rng(0).random((12, 24, 3)).astype(np.float32)
    wide = cv2.resize(noise, (WIDTH + 40, HEIGHT + 20), interpolation=cv2.INTER_CUBIC)
    frame = torch.from_numpy(wide[10:-10, 20:-20].copy()).permute(2, 0, 1)[None]
    pose = geometry.pose_matrix(torch.tensor([[0.0, 0.06, 0.0]]), torch.zeros(1, 3))
    depth = torch.full((1, 1, HEIGHT, WIDTH), 10.0)

    def moved(K: torch.Tensor, inv_K: torch.Tensor) -> torch.Tensor:
        points = geometry.transform(pose, geometry.back_project(depth, inv_K))
        return geometry.project(points, K)

    seen = geometry.warp(frame, moved(*intrinsics(FOCAL)))
    camera = LearnedCamera()
    optimizer = torch.optim.Adam(camera.parameters(), 0.02)
    for _ in range(80):
        K, inv_K = camera(*intrinsics(FOCAL * assumed), torch.tensor([True]))
        error = (geometry.warp(frame, moved(K, inv_K)) - seen)[..., 4:-4, 8:-8].abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert camera.factor.item() * assumed == pytest.approx(1.0, abs=0.05)


@pytest.fixture
def withheld(street: Path, tmp_path: Path) -> Path:
    """The street world with a camera that somebody guessed."""
    copy = tmp_path / "street"
    shutil.copytree(street, copy)
    for path in copy.rglob("cam.json"):
        Intrinsics.from_field_of_view(50, 160, 96).to_cam_json(path, assumed=True)
    return copy


def test_the_learned_focal_length_reaches_the_outputs(
    withheld: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = withheld / "splits/train_files.txt"
    train_stage1(withheld, split, tmp_path / "motion", config(learn_focal=True))
    factor = read_manifest(tmp_path / "motion")["results"]["focal_factor"]
    assert factor != 1.0
    told = capsys.readouterr().out
    assert "camera assumed in 2 segments" in told
    assert f"focal length learned: {factor:.3f}" in told
    logged = read_log(tmp_path / "motion/4_fine_tune/log.jsonl")
    assert logged[-1]["focal_factor"] == pytest.approx(factor, abs=0.01)
    # Frozen while flow and mask are learned.
    flow = [
        read_log(tmp_path / f"motion/{phase}/log.jsonl")
        for phase in ("2_motion_init", "3_mask_init")
    ]
    assert len({entry["focal_factor"] for log in flow for entry in log}) == 1
    predict_motion(withheld, split, tmp_path / "motion", tmp_path / "out", MotionPredictionConfig())
    frame = FrameRef("train/clip_0000", 1)
    inv_K = read_npz(frame.file(tmp_path / "out", ".npz"), ("inv_K",))["inv_K"]
    guessed = Intrinsics.from_field_of_view(50, 160, 96).resized(96, 64)
    assert 1 / inv_K[0, 0] == pytest.approx(guessed.fx * factor, rel=1e-4)


def test_known_cameras_are_not_learned(street: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    train_stage1(street, split, tmp_path / "asked", config(learn_focal=True))
    train_stage1(street, split, tmp_path / "plain", config())
    assert "focal_factor" not in read_manifest(tmp_path / "asked")["results"]
    plain = final_weights(tmp_path / "plain")
    for key, value in final_weights(tmp_path / "asked").items():
        assert torch.equal(value, plain[key]), key


def test_a_guess_says_so_on_disk(tmp_path: Path) -> None:
    camera = Intrinsics.from_field_of_view(60, 160, 96)
    camera.to_cam_json(tmp_path / "guess.json", assumed=True)
    camera.to_cam_json(tmp_path / "known.json")
    assert json.loads((tmp_path / "guess.json").read_text())["assumed"] is True
    assert "assumed" not in json.loads((tmp_path / "known.json").read_text())
