"""Stage 1 on several processes: the gradients, weights and outputs of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from motion_world import config, final_weights
from torch import nn
from torchrun import launch

from moduv.depth.weights import save_modules
from moduv.engine.batch_norm import share_batch_norm
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MODULES, PHASES
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.motion.train import ramp_steps

GRADIENTS = """
import sys, torch
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from motion_world import config
from moduv.engine import distributed
from moduv.frames.splits import read_split
from moduv.depth.triplets import Triplets
from moduv.motion.losses import compute_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES
distributed.start()
root, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
model = DynamoDepth("street").eval()
triplets = Triplets(root, read_split(root / "splits/train_files.txt"), 64, 96)
indices = distributed.shard([0, 1, 4, 5])
batch = triplets.collate([triplets[index, 0] for index in indices])
losses = replace(config().losses, tie_break=0.0)
plane = torch.tensor([[0.01, -0.02, 0.1]]).expand(len(indices), 3)
found = {}
for name in ("disp_init", "fine_tune"):
    PHASES[name].freeze(model)
    model.zero_grad()
    terms = compute_losses(model, batch, PHASES[name], 1.0, losses, ground_plane=plane)
    terms["loss"].backward()
    distributed.average_gradients(model.parameters())
    found |= {f"{name} {k}": p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    found |= {f"{name} loss {term}": distributed.average(value) for term, value in terms.items()}
if distributed.is_main():
    torch.save(found, out)
distributed.stop()
"""


def test_two_processes_give_the_gradients_of_one(street: Path, tmp_path: Path) -> None:
    """In evaluation mode: gradients through statistics of a batch are sums that nearly cancel."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    for processes in (1, 2):
        launch(processes, script, street, tmp_path / f"{processes}.pt", Path(__file__).parent)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    for phase in ("disp_init", "fine_tune"):
        for term in PHASES[phase].losses:
            assert one[f"{phase} loss {term}"] > 0
    for key, gradient in one.items():
        scale = float(gradient.abs().max()) + 1e-8
        assert torch.allclose(gradient, two[key], rtol=0, atol=2e-4 * scale), key


def test_the_command_runs_resumes_and_predicts_on_two_processes(
    street: Path, tmp_path: Path
) -> None:
    split, out = street / "splits/train_files.txt", tmp_path / "run"
    loops = [
        f"--config.loops.{phase}.{key}={value}"
        for phase in PHASES
        for key, value in (("steps", 2), ("batch_size", 2), ("save_every", 1))
    ]
    common = ["--preset", "street_mask", "--data", street, "--split", split]
    size = ["--config.height", 64, "--config.width", 96]
    train = ["-m", "moduv.commands.cli", "motion", "train", *common, *size, *loops, "--out"]
    launch(2, *train, tmp_path / "whole")
    launch(2, *train, out)
    # As if killed after the third phase: what came later is gone.
    for path in (*(out / "4_fine_tune").iterdir(), *(out / "weights").iterdir()):
        path.unlink()
    (out / "manifest.json").unlink()
    launch(2, *train, out)
    for key, value in final_weights(tmp_path / "whole").items():
        assert torch.equal(value, final_weights(out)[key]), key
    predict = ["-m", "moduv.commands.cli", "motion", "predict", *common, "--weights", out, "--out"]
    launch(2, *predict, tmp_path / "two")
    predict_motion(
        street, split, out, tmp_path / "one", MotionPredictionConfig(batch_size=16, half=True)
    )
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npz"))
    assert len(files) == 8
    for file in files:
        one, two = (np.load(tmp_path / run / file) for run in ("one", "two"))
        np.testing.assert_allclose(one["mot_mask"], two["mot_mask"], atol=2e-3)


LATE = """
import sys, time
from pathlib import Path
from moduv.engine import distributed
from moduv.motion import predict
distributed.start()
root, weights, out = map(Path, sys.argv[1:])
find, total = predict.find_triplets, distributed.total
def late(*arguments):
    if distributed.rank() == 1:
        time.sleep(4)
    return find(*arguments)
predict.find_triplets = late
distributed.total = lambda count: count  # else the processes would wait for each other
predict.predict_motion(root, root / "splits/train_files.txt", weights, out, predict.MotionPredictionConfig())
distributed.stop()
"""


def test_a_late_process_finds_its_frames_still_to_do(street: Path, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(LATE)
    torch.manual_seed(0)
    save_modules(DynamoDepth("monodepthv2"), MODULES, tmp_path / "weights", 64, 96)
    launch(2, script, street, tmp_path / "weights", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 8


NORMALISED = """
import sys, torch
from moduv.engine import distributed
from moduv.engine.batch_norm import share_batch_norm
from moduv.motion.networks import DynamoDepth
distributed.start()
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
encoder = DynamoDepth("street").depth_enc.train()
share_batch_norm(encoder)
images = distributed.shard(torch.rand(4, 3, 64, 96).unbind())
features = encoder(torch.stack(images))
sum(feature.square().sum((1, 2, 3)).mean() for feature in features).backward()
distributed.average_gradients(encoder.parameters())
found = {name: p.grad for name, p in encoder.named_parameters()} | dict(encoder.named_buffers())
found = {name: value.clone() for name, value in found.items()}
with torch.autocast("cpu", torch.bfloat16):
    sum(feature.sum() for feature in encoder.float()(torch.stack(images).float())).backward()
if distributed.is_main():
    torch.save(found, sys.argv[1])
distributed.stop()
"""


def test_shared_batch_norm_sees_the_batches_of_all_processes(tmp_path: Path) -> None:
    script = tmp_path / "normalised.py"
    script.write_text(NORMALISED)
    for processes in (1, 2):
        launch(processes, script, tmp_path / f"{processes}.pt")
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    for key, value in one.items():
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-9 * scale, msg=key)


def test_shared_batch_norm_has_the_weights_of_the_plain_one() -> None:
    torch.manual_seed(0)
    model = DynamoDepth("street").train()
    state, images = model.state_dict(), torch.rand(2, 3, 64, 96)
    plain = model.depth_enc(images)
    share_batch_norm(model)
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert model.state_dict().keys() == state.keys()
    for ours, theirs in zip(model.depth_enc(images), plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("ramp", "alone"), [(0.25, 10_000), (0.0, 8000 / 3)])
def test_terms_fade_in_over_the_same_share_on_any_number_of_processes(
    ramp: float, alone: float
) -> None:
    settings = config(40_000, ramp=ramp)
    loop = settings.loops["mask_init"]
    assert ramp_steps(settings, loop, 40_000) == pytest.approx(alone)
    assert ramp_steps(settings, loop, 10_000) == pytest.approx(alone / 4)
