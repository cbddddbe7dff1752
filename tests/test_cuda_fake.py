"""What a GPU runs, without one: everything is on one device, and nothing waits for it that need not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, FOUND, FakeCuda, fake_cuda, to_cuda
from torch import Tensor

from moduv.depth.networks.camera import LearnedCamera
from moduv.depth.triplets import Triplets
from moduv.detector.config import PAPER, DetectorConfig, detector_config
from moduv.detector.crops import CropMasks
from moduv.detector.half import run_in_half
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.detector.train import detector_step
from moduv.detector.transforms import Sample
from moduv.engine import distributed
from moduv.engine.config import load_preset
from moduv.engine.journal import Tally
from moduv.engine.loop import LoopConfig, StepState, make_optimizer
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.instances.crops import Crop
from moduv.motion.fields import motion_fields
from moduv.motion.losses import compute_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES, MotionConfig
from moduv.motion.predict import MotionPredictionConfig, predict_frames
from moduv.motion.train import MotionTrainingConfig
from moduv.runs.watch import draw_fields

HEIGHT, WIDTH = 64, 96
SETTINGS = {
    "litemono": MotionConfig(),
    "monodepthv2": MotionConfig(),
    "street": load_preset(MotionTrainingConfig, "street", "motion").losses,
}
DETECTORS = {
    "paper": replace(PAPER, min_size=HEIGHT, max_size=WIDTH),
    "street": replace(detector_config("street"), min_size=HEIGHT, max_size=WIDTH),
}
TRAINING = {
    "torchvision",  # matches anchors, filters proposals, checks the boxes of labels
    "moduv.detector.sampling._draw",  # how many anchors and proposals are objects
    "moduv.detector.heads.forward",  # which of the proposals are
    "moduv.detector.heads.box_losses",
    "moduv.detector.crops.targets",  # how many of them belong to each mask
}
"""Where a training step of the detector must wait: numbers of proposals depend on the weights."""
PREDICTION = {
    "torchvision",  # filters proposals and detections
    "moduv.detector.predictor._run",
    "moduv.detector.pasting.paste_masks",
}
"""Where detections come back to the host."""


@pytest.fixture
def mode() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


def on_cuda(depth_model: str, mode: FakeCuda) -> DynamoDepth:
    model = DynamoDepth(depth_model)
    model.camera = LearnedCamera()
    to_cuda(model)
    mode.copies.clear()
    return model


def triplets(count: int = 2) -> dict[str, Tensor]:
    images = torch.rand(count, 3, 3, HEIGHT, WIDTH, device=CUDA)
    K = torch.rand(count, 4, 4, device=CUDA)
    return {
        **{"images": images, "augmented": images, "K": K, "inv_K": K},
        "assumed": torch.ones(count, dtype=torch.bool, device=CUDA),
        "time_steps": torch.ones(count, 2, device=CUDA),
    }


def sample(seed: int) -> Sample:
    """A noisy image with as many objects as a GPU is said to find of anything."""
    image = torch.randint(255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    boxes = torch.tensor([[4 + 20 * n, 4, 22 + 20 * n, 30 + n] for n in range(FOUND)])
    crops = [Crop(y0, x0, np.ones((y1 - y0, x1 - x0), bool)) for x0, y0, x1, y1 in boxes.tolist()]
    masks = CropMasks.pack(crops, (HEIGHT, WIDTH))
    labels = torch.ones(FOUND, dtype=torch.int64)
    return image, {"boxes": boxes.float(), "labels": labels, "masks": masks, "seed": seed}


def test_mistakes_are_found(mode: FakeCuda) -> None:
    there, here = torch.ones(3, device=CUDA), torch.ones(3)
    assert (there + torch.tensor(1.0)).device.type == "cuda"
    assert here.tolist() == [1, 1, 1]
    assert not mode.waits
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError):
        torch.bincount(there.long())
    assert len(there[there > 0]) == FOUND
    assert mode.waits == {"the test"}
    assert mode.copies == set()
    torch.tensor([1.0], device=CUDA)
    assert mode.copies == {"the test"}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("depth_model", SETTINGS)
def test_losses_of_every_phase_need_not_wait(mode: FakeCuda, depth_model: str, bf16: bool) -> None:
    model, config = on_cuda(depth_model, mode), SETTINGS[depth_model]
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        features = model.pose_enc(triplets()["images"][:, :2].flatten(1, 2))
    assert features[-1].dtype == (torch.bfloat16 if bf16 else torch.float32)
    for phase in PHASES.values():
        phase.freeze(model)
        batch = triplets()
        batch["K"], batch["inv_K"] = model.camera(batch["K"], batch["inv_K"], batch["assumed"])
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            terms = compute_losses(model, batch, phase, 0.5, config)
        assert terms["loss"].requires_grad
        assert {(t.dtype, t.device.type, t.ndim) for t in terms.values()} == {
            (torch.float32, "cuda", 0)
        }
        assert not mode.waits
        assert not mode.copies


@pytest.mark.parametrize("depth_model", SETTINGS)
def test_motion_prediction_waits_for_its_results(
    mode: FakeCuda, depth_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "device", lambda: CUDA)
    segment = tmp_path / "clip"
    segment.mkdir()
    Intrinsics(70, 70, 48, 30, WIDTH, HEIGHT).to_cam_json(segment / "cam.json")
    for index in range(3):
        write_image(segment / f"{index:06d}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    frames = Triplets(tmp_path, [FrameRef("clip", 1)], HEIGHT, WIDTH)
    model = on_cuda(depth_model, mode)
    config = MotionPredictionConfig(bf16=True, enlarge=2)
    ((_, arrays),) = predict_frames(model, frames, SETTINGS[depth_model], config)
    assert arrays["mot_mask"].shape == arrays["depth"].shape == (2 * HEIGHT, 2 * WIDTH)
    assert mode.waits == {"moduv.motion.predict._forward"}


def test_pictures_of_validation_wait_for_their_pixels(mode: FakeCuda) -> None:
    model, batch = on_cuda("street", mode), triplets()
    for phase in PHASES.values():
        with torch.inference_mode():
            fields = motion_fields(model.eval(), batch, phase, SETTINGS["street"])
        assert not mode.waits
        assert draw_fields(fields, batch, 1).dtype == np.uint8
        assert mode.waits == {"moduv.runs.watch.draw_fields", "moduv.runs.watch._picture"}
        mode.waits.clear()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_steps_and_sums_need_not_wait(mode: FakeCuda, optimizer: str) -> None:
    model = torch.nn.Linear(3, 2)
    to_cuda(model)
    steps = make_optimizer(model, LoopConfig(10, 1, 1e-3, optimizer=optimizer))
    tally = Tally("training", CUDA, {})
    for index in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        tally.add(index, {"loss": torch.zeros((), device=CUDA)})
    assert not mode.waits
    assert tally.means().keys() == {"loss"}
    assert mode.waits == {"moduv.engine.journal.values"}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)
def test_a_training_step_of_the_detector_waits_where_it_must(
    mode: FakeCuda, config: DetectorConfig, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_detector(config)
    to_cuda(model)
    images, targets = zip(sample(1), sample(2), strict=True)
    # Without a GPU there is no source of randomness on it, and none is needed.
    monkeypatch.setattr(torch, "Generator", lambda *_, make=torch.Generator: make())
    state = StepState(0, 1, torch.Generator())
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        terms = detector_step(model)((list(images), list(targets)), state)
    assert {(term.dtype, term.device.type) for term in terms.values()} == {(torch.float32, "cuda")}
    assert mode.waits == TRAINING
    assert mode.copies == {"torchvision"}


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)
def test_detections_wait_for_their_results(
    mode: FakeCuda, config: DetectorConfig, half: torch.dtype | None
) -> None:
    model = build_detector(config)
    to_cuda(model)
    if half is not None:
        run_in_half(model, half)
    images = [np.zeros((48, 80, 3), np.uint8)] * 2
    found = Detector(model).predictions(images)
    assert [len(one.scores) for one in found] == [FOUND, FOUND]
    assert mode.waits == PREDICTION
    assert mode.copies == {"torchvision"}
