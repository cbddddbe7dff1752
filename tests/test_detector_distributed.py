"""A batch is the mean of its images, so processes that share it train what one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from detector_world import write_world
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from moduv.detector.config import DetectorConfig
from moduv.detector.data import LabelledFrames
from moduv.detector.model import build_detector
from moduv.detector.train import detector_step
from moduv.detector.transforms import AugmentationConfig
from moduv.engine import checkpoint
from moduv.engine.loop import StepState

FROZEN = DetectorConfig(
    min_size=64,
    max_size=96,
    anchor_sizes=(8, 16, 32, 48, 64),
    fpn_channels=256,
    proposals_train=60,
    box_samples=32,
    box_hidden=32,
    mask_layers=(16,),
)
"""The published network in small; its batch normalisation is frozen, so images do not mix there."""
STATE = StepState(0, 1, torch.Generator())


def detector() -> MaskRCNN:
    """A detector in float64: the last bits of float32 depend on processor and batch size and may decide
    which proposals are left, and so which regions are learned from."""
    torch.manual_seed(0)
    model = build_detector(FROZEN).double().train()
    # Statistics of no data let activations grow from block to block; trained ones would not.
    for name, buffer in model.named_buffers():
        if name.endswith(("bn3.weight", "downsample.1.weight")):
            buffer.fill_(0.1)
    return model


def samples(root: Path, count: int = 2) -> list:
    refs = write_world(root, count + 1)[:count]
    dataset = LabelledFrames(root / "frames", refs, root / "labels", AugmentationConfig(jitter=0.0))
    drawn = [dataset[(index, 7 + index)] for index in range(count)]
    return [(image.double(), target) for image, target in drawn]


def gradients(model: MaskRCNN, batch: list) -> dict[str, Tensor]:
    model.zero_grad()
    terms = detector_step(model)(LabelledFrames.collate(batch), STATE)
    terms["loss"].backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {**found, "loss": terms["loss"].detach()}


def test_the_loss_of_a_batch_is_the_mean_of_its_images(tmp_path: Path) -> None:
    model, frames = detector(), samples(tmp_path)
    # One image has twice the objects of the other: weighing by regions would not be the mean.
    parts = [gradients(model, [frame]) for frame in frames]
    whole = gradients(model, frames)
    assert whole["loss"] > 0
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(
            value, mean, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_what_is_sampled_of_an_image_depends_on_its_seed_only(tmp_path: Path) -> None:
    model, frames = detector(), samples(tmp_path)
    first = gradients(model, frames[:1])["loss"]
    torch.manual_seed(5)
    assert gradients(model, frames[:1])["loss"] == first
    image, target = frames[0]
    others = {float(gradients(model, [(image, {**target, "seed": s})])["loss"]) for s in range(4)}
    assert len(others) > 1


TRAINING = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import moduv.detector.train as training
from moduv.detector.transforms import AugmentationConfig
from moduv.engine import distributed
from moduv.engine.loop import LoopConfig
from moduv.frames.clip import FrameRef
from test_detector_distributed import FROZEN, detector
root, stop, precise = Path(sys.argv[1]), int(sys.argv[3]), sys.argv[4]
distributed.start()
training.detector_config = lambda _: FROZEN
loop = LoopConfig(steps=3, batch_size=2, learning_rate=1e-3, optimizer="sgd", save_every=1)
settings = training.DetectorTrainingConfig(loop, detector="street", augmentation=AugmentationConfig(jitter=0.5))
training.start_detector = lambda _: detector()
plain = training.detector_step
def stopping(model):
    step = plain(model)
    def stepping(batch, state):
        if stop and state.step == stop:
            raise KeyboardInterrupt
        images, targets = batch
        return step(([image.double() for image in images], targets), state)
    return stepping
training.detector_step = stopping
refs = [FrameRef("train/clip_0000", index) for index in range(4)]
try:
    training.train_detector(root / "frames", root / "labels", refs, settings, root / precise)
except KeyboardInterrupt:
    pass
distributed.stop()
"""


def launch(processes: int, *arguments: object) -> None:
    torchrun = [f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_what_one_trains_and_resume_exactly(tmp_path: Path) -> None:
    write_world(tmp_path, 4)
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    here = Path(__file__).parent
    launch(1, script, tmp_path, here, 0, "one")
    launch(2, script, tmp_path, here, 0, "two")
    launch(2, script, tmp_path, here, 2, "cut")
    assert not (tmp_path / "cut/weights.pth").exists()
    launch(2, script, tmp_path, here, 0, "cut")
    one, two, cut = (
        checkpoint.load_weights(tmp_path / name / "weights.pth") for name in ("one", "two", "cut")
    )
    assert all(torch.equal(cut[name], value) for name, value in two.items())
    start = detector().state_dict()
    moved, apart = (
        torch.cat([(one[name] - other[name]).flatten() for name in one]) for other in (start, two)
    )
    assert moved.abs().max() > 3e-3  # it did learn
    assert apart.norm() < 1e-6 * moved.norm()
