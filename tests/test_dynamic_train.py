"""Stage 1 trained on with pseudo-depth: what it teaches, what it keeps, and that its weights serve as others do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_world import final_weights

from moduv.dynamic_depth.data import MinedTriplets
from moduv.dynamic_depth.pseudo import ObjectDepth, PseudoDepth, write_pseudo_depth
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.loop import LoopConfig
from moduv.frames.splits import read_split
from moduv.geometry import disparity_to_depth
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.motion.weights import find_trained
from moduv.rounds.dynamic_depth import DepthTrainingConfig, mined_losses, train_depth

LOOP = LoopConfig(steps=2, batch_size=2, learning_rate=1e-3, save_every=1, log_every=1)
CONFIG = DepthTrainingConfig(LOOP, flip=0.0, jitter=0.0)


def write_pseudo(root: Path, split: Path, objects: int) -> Path:
    mask = np.ones((12, 20), bool)
    item = ObjectDepth(40, 60, mask, np.full((12, 20), 7.0), 0.5)
    for frame in read_split(split):
        write_pseudo_depth(
            frame.file(root, ".npz"), PseudoDepth((96, 160), (item,) if objects else ())
        )
    known = {"stage": "depth pseudo", "config": {}, "inputs": {}}
    write_json(root / "manifest.json", {**known, "results": {"objects": objects}})
    return root


def test_the_weights_serve_as_those_of_stage_1(street: Path, trained: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    pseudo = write_pseudo(tmp_path / "pseudo", split, 8)
    train_depth(street, split, trained, pseudo, tmp_path / "depth", CONFIG)
    before, after = final_weights(trained), final_weights(tmp_path / "depth")
    assert list(before) == list(after)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"depth_enc", "depth_dec", "pose_enc", "pose_dec"}
    first, second = (find_trained(folder).settings for folder in (trained, tmp_path / "depth"))
    assert first == second
    val = street / "splits/val_files.txt"
    predict_motion(street, val, tmp_path / "depth", tmp_path / "out", MotionPredictionConfig())
    predict_motion(
        street, val, tmp_path / "depth" / "weights", tmp_path / "2", MotionPredictionConfig()
    )
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 8


def test_an_interrupted_training_ends_with_the_same_weights(
    street: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = street / "splits/train_files.txt"
    pseudo = write_pseudo(tmp_path / "pseudo", split, 8)
    train_depth(street, split, trained, pseudo, tmp_path / "whole", CONFIG)
    calls = []

    def interrupt(*arguments: object, **more: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mined_losses(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("moduv.rounds.dynamic_depth.mined_losses", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_depth(street, split, trained, pseudo, tmp_path / "broken", CONFIG)
    train_depth(street, split, trained, pseudo, tmp_path / "broken", CONFIG)
    first, second = final_weights(tmp_path / "whole"), final_weights(tmp_path / "broken")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_movers_depth_stays(
    street: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = street / "splits/train_files.txt"
    pseudo = write_pseudo(tmp_path / "pseudo", split, 0)
    train_depth(street, split, trained, pseudo, tmp_path / "depth", CONFIG)
    assert "no object moves: depth stays as it is" in capsys.readouterr().out
    before, after = final_weights(trained), final_weights(tmp_path / "depth")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_moving_pixels_are_taught_by_pseudo_depth_alone(
    street: Path, trained: Path, tmp_path: Path
) -> None:
    split = street / "splits/train_files.txt"
    pseudo = write_pseudo(tmp_path / "pseudo", split, 8)
    known = find_trained(trained)
    model, teacher = known.load(), known.load().eval()
    data = MinedTriplets(street, read_split(split), known.height, known.width, pseudo)
    batch = data.collate([data[0, 0], data[1, 0]])
    with torch.no_grad():
        scene = disparity_to_depth(teacher.disparity(batch["images"][:, 1])[0], 0.5, 100.0)
    # Within the range of what is predicted, or it would not count.
    batch["pseudo_depth"] = torch.where(batch["pseudo_depth"] > 0, scene.quantile(0.3), 0.0)
    silent = replace(CONFIG, weight=0.0)

    def losses(images: torch.Tensor, config: DepthTrainingConfig) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return mined_losses(
                model.eval(), teacher, {**batch, "images": images}, known.losses, config, generator
            )

    plain, taught = (losses(batch["images"], config) for config in (silent, CONFIG))
    assert taught["loss"] == pytest.approx(
        (plain["loss"] + 0.1 * plain["pseudo_depth"]).item(), rel=1e-5
    )
    assert plain["pseudo_depth"] > 0
    held = losses(batch["images"], replace(silent, hold=0.5))
    assert held["loss"] == pytest.approx((plain["loss"] + 0.5 * held["held"]).item(), rel=1e-5)
    assert held["held"] < 0.1, "nothing has been trained yet; scales differ a little"
    everywhere = {**batch, "pseudo_depth": torch.full_like(batch["pseudo_depth"], 7.0)}
    with torch.no_grad():
        covered = mined_losses(model, teacher, everywhere, known.losses, silent)
    assert covered["photometric"] == 0


def test_pseudo_depth_is_mirrored_with_its_image(street: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    pseudo = write_pseudo(tmp_path / "pseudo", split, 8)
    frames = read_split(split)
    plain = MinedTriplets(street, frames, 96, 160, pseudo)[0, 5]
    mirrored = MinedTriplets(street, frames, 96, 160, pseudo, flip=1.0)[0, 5]
    for key in ("images", "pseudo_depth"):
        assert torch.equal(plain[key].flip(-1), mirrored[key])
    assert plain["pseudo_depth"][0, 41, 61] == 7
    assert (plain["pseudo_depth"] > 0).sum() == 12 * 20


def test_pseudo_depth_that_is_not_finished_is_refused(
    street: Path, trained: Path, tmp_path: Path
) -> None:
    split = street / "splits/train_files.txt"
    with pytest.raises(InputError, match="missing or not finished"):
        train_depth(street, split, trained, tmp_path / "none", tmp_path / "depth", CONFIG)
