"""Training and prediction of the detector: it learns, it resumes exactly, it answers in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, predict, write_world
from torchvision.models.detection import MaskRCNN

from moduv.detector.data import LabelledFrames
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.detector.train import (
    DetectorTrainingConfig,
    detector_step,
    start_detector,
    train_detector,
)
from moduv.detector.transforms import AugmentationConfig
from moduv.detector.weights import load_detector
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig, StepState
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.instances import rle
from moduv.instances.instances import Predictions

SHORT = DetectorTrainingConfig(
    LoopConfig(steps=4, batch_size=2, learning_rate=1e-3, save_every=2, log_every=1),
    detector="street",
)


@pytest.fixture(scope="module")
def detector() -> MaskRCNN:
    """An untrained street detector that finds something everywhere, with scores that are spread."""
    torch.manual_seed(0)
    model = build_detector("street")
    score = model.roi_heads.box_predictor.cls_score
    torch.nn.init.normal_(score.weight, std=0.3)
    torch.nn.init.constant_(score.bias[1:], 1.0)
    return model.eval()


def test_a_few_steps_on_two_frames_lower_every_loss(tmp_path: Path) -> None:
    refs = write_world(tmp_path, 3)[:2]
    plain = AugmentationConfig(flip=0.0, jitter=0.0)
    dataset = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", plain)
    batch = dataset.collate([dataset[(0, 0)], dataset[(1, 0)]])
    model = start_detector(SHORT)
    step = detector_step(model)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for index in range(30):
        torch.manual_seed(index)
        terms = step(batch, StepState(index, 30, torch.Generator()))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    parts = {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}
    assert set(history[0]) == parts | {"loss"}
    for terms in history:
        assert terms["loss"] == pytest.approx(sum(terms[part] for part in parts), rel=1e-4)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["mask"] < 0.8 * history[0]["mask"]
    assert history[-1]["objectness"] < 0.5 * history[0]["objectness"]


def test_half_precision_hardly_changes_the_losses(tmp_path: Path) -> None:
    refs = write_world(tmp_path, 3)[:2]
    dataset = LabelledFrames(tmp_path / "frames", refs, tmp_path / "labels", AugmentationConfig())
    batch = dataset.collate([dataset[(0, 0)], dataset[(1, 0)]])
    model = start_detector(SHORT)
    losses = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = detector_step(model)(batch, StepState(0, 1, torch.Generator()))
        terms["loss"].backward()
        losses.append(terms["loss"].detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = write_world(tmp_path)
    places = (tmp_path / "frames", tmp_path / "labels", refs, SHORT)
    train_detector(*places, tmp_path / "whole")

    drawn = []
    sample = LabelledFrames.__getitem__

    def killed_in_the_fourth_step(self: LabelledFrames, item: tuple[int, int]) -> Any:
        drawn.append(item)
        if len(drawn) == 7:
            raise KeyboardInterrupt
        return sample(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(LabelledFrames, "__getitem__", killed_in_the_fourth_step)
        with pytest.raises(KeyboardInterrupt):
            train_detector(*places, tmp_path / "killed")
    assert not (tmp_path / "killed" / "weights.pth").exists()
    train_detector(*places, tmp_path / "killed")

    whole = checkpoint.load_weights(tmp_path / "whole" / "weights.pth")
    resumed = checkpoint.load_weights(tmp_path / "killed" / "weights.pth")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [entry["step"] for entry in read_log(tmp_path / "killed" / "log.jsonl")] == [1, 2, 3, 4]


def test_the_start_depends_on_the_seed_only(tmp_path: Path) -> None:
    first = start_detector(SHORT).state_dict()
    torch.rand(3)
    again = start_detector(SHORT).state_dict()
    other = start_detector(replace(SHORT, loop=replace(SHORT.loop, seed=1))).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_finished_detector_is_loaded_from_its_folder(tmp_path: Path) -> None:
    refs = write_world(tmp_path)
    config = replace(SHORT, loop=replace(SHORT.loop, steps=1))
    model = train_detector(tmp_path / "frames", tmp_path / "labels", refs, config, tmp_path / "run")
    loaded = load_detector(tmp_path / "run").model
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    (tmp_path / "run" / "weights.pth").unlink()
    with pytest.raises(InputError, match=r"weights\.pth: no such checkpoint"):
        load_detector(tmp_path / "run")


def test_frames_without_any_object_can_be_trained_on(tmp_path: Path) -> None:
    refs = write_world(tmp_path, 2)
    train_detector(tmp_path / "frames", None, refs, SHORT, tmp_path / "run")
    losses = [entry["loss"] for entry in read_log(tmp_path / "run" / "log.jsonl")]
    assert np.isfinite(losses).all()


def test_the_paper_recipe_asks_for_its_backbone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'backbone_weights' is not set"):
        start_detector(DetectorTrainingConfig(SHORT.loop))
    absent = str(tmp_path / "moco.pth.tar")
    with pytest.raises(InputError, match=r"moco\.pth\.tar.* bash scripts/0_download_ckpts\.sh"):
        start_detector(DetectorTrainingConfig(SHORT.loop, backbone_weights=absent))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "broken", ["labels/train/clip_0000/000001.json", "frames/train/clip_0000/000001.png"]
)
def test_a_broken_frame_is_one_sentence_whoever_reads_it(
    tmp_path: Path, detector: MaskRCNN, broken: str, workers: int
) -> None:
    refs = write_world(tmp_path, 2)
    (tmp_path / broken).write_text("{")
    config = replace(SHORT, loop=replace(SHORT.loop, steps=2, workers=workers))
    with pytest.raises(InputError, match=r"000001\.") as training:
        train_detector(tmp_path / "frames", tmp_path / "labels", refs, config, tmp_path / "run")
    assert len(str(training.value).splitlines()) == 1
    if broken.startswith("frames"):
        with pytest.raises(InputError, match=r"000001\.") as detection:
            list(predict(detector, refs, tmp_path / "frames", workers=workers))
        assert len(str(detection.value).splitlines()) == 1


def test_predictions_come_in_order_whatever_the_batch(tmp_path: Path, detector: MaskRCNN) -> None:
    refs = write_world(tmp_path, 5)
    odd = FrameRef("train/clip_0001", 0)
    noise = np.random.default_rng(1).integers(0, 255, (64, 128, 3), np.uint8)
    write_image(odd.file(tmp_path / "frames", ".png"), noise)
    order = [refs[3], odd, refs[0], refs[2], refs[1], refs[0]]
    alone = list(predict(detector, order, tmp_path / "frames"))
    batched = list(predict(detector, order, tmp_path / "frames", batch_size=4, workers=1))
    assert [ref for ref, _ in alone] == [ref for ref, _ in batched] == order
    assert min(len(found) for _, found in alone) > 0
    for (ref, one), (_, other) in zip(alone, batched, strict=True):
        size = (64, 128) if ref == odd else (HEIGHT, WIDTH)
        assert one.masks.shape == (len(one), *size)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=1e-4)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    direct = Detector(detector).predictions([read_image(refs[0].image_path(tmp_path / "frames"))])[
        0
    ]
    torch.testing.assert_close(direct.boxes, alone[2][1].boxes)


def test_the_score_threshold_is_strict_and_passes(detector: MaskRCNN) -> None:
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    every = Detector(detector).predictions([image])[0]
    threshold = float(every.scores.median())
    own = detector.roi_heads.score_thresh
    kept = Detector(detector).predictions([image], threshold)[0]
    assert detector.roi_heads.score_thresh == own
    assert 0 < len(kept) < len(every)
    assert (kept.scores > threshold).all()


def test_missing_images_are_named(tmp_path: Path, detector: MaskRCNN) -> None:
    with pytest.raises(InputError, match=r"000009\.jpg: no such image"):
        list(predict(detector, [FrameRef("train/clip_0000", 9)], tmp_path))


def test_detections_become_coco_results() -> None:
    masks = torch.zeros(2, 8, 10)
    masks[0, 2:5, 3:7] = 0.9
    masks[1, 0, 0] = 0.5
    found = Predictions.from_dense(
        masks, torch.tensor([[3.0, 2, 7, 5], [0.5, 0, 1, 1]]), torch.tensor([0.75, 0.25])
    )
    first, second = found.to_instances().to_coco(7)
    assert first["image_id"] == second["image_id"] == 7
    assert first["category_id"] == 1
    assert first["bbox"] == [3, 2, 4, 3]
    assert second["bbox"] == [0.5, 0, 0.5, 1]
    assert (first["score"], second["score"]) == (0.75, 0.25)
    np.testing.assert_array_equal(rle.decode(first["segmentation"]), masks[0].numpy() > 0.5)
    assert rle.decode(second["segmentation"]).sum() == 0
