"""The networks of stage 1: official keys, the reference's outputs, checkpoints that load or explain."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from motion_stubs import losses_on_golden_frames
from torch import Tensor, nn

from moduv import geometry
from moduv.depth.networks.litemono import DropPath
from moduv.depth.networks.resnet import ResNetEncoder
from moduv.depth.weights import load_modules, save_modules
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.motion.fields import EgoMotion, MotionFields, motion_fields
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MODULES, PHASES, MotionConfig

MODELS = ("litemono", "monodepthv2")


@pytest.fixture(scope="module")
def fill(shared: Path) -> ModuleType:
    """The rule that gives networks with the same keys the same weights."""
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=MODELS)
def parity(
    request: pytest.FixtureRequest, shared: Path, fill: ModuleType
) -> tuple[DynamoDepth, dict[str, Tensor], MotionFields]:
    """A filled model, the reference's values, and what the model makes of the same frames."""
    stored = np.load(shared / "golden" / "dynamo" / f"{request.param}_real.npz")
    golden = {key: torch.from_numpy(stored[key]) for key in stored}
    model = DynamoDepth(request.param).eval()
    for name in MODULES:
        module = getattr(model, name)
        module.load_state_dict(fill.fill_state_dict(module.state_dict()))
    images = golden["images"].permute(0, 3, 1, 2)[None].float() / 255
    K = golden["K"][None]
    batch = {"images": images, "K": K, "inv_K": torch.inverse(K)}
    with torch.no_grad():
        fields = motion_fields(model, batch, PHASES["fine_tune"], MotionConfig())
    return model, golden, fields


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal within 1e-4 of the expected values' magnitude."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_modules_have_the_official_keys_and_shapes(shared: Path, name: str) -> None:
    official = json.loads((shared / "golden" / "dynamo" / f"{name}_state_dict.json").read_text())
    model = DynamoDepth(name)
    assert set(official) == set(MODULES)
    for module, shapes in official.items():
        state = getattr(model, module).state_dict()
        assert {key: list(value.shape) for key, value in state.items()} == shapes


def test_fields_agree_with_the_reference(
    parity: tuple[DynamoDepth, dict[str, Tensor], MotionFields],
) -> None:
    _, golden, fields = parity
    for scale, field in fields.scales.items():
        assert field.complete_flow is not None
        assert field.motion_logit is not None
        assert_near(field.disparity, golden[f"disp_{scale}"])
        assert_near(field.complete_flow[:, 1], golden[f"complete_flow_{scale}"])
        assert_near(field.complete_flow[:, 0], -golden[f"complete_flow_{scale}"])
        assert_near(field.motion_logit, golden[f"motion_prob_{scale}"])
    assert_near(fields.finest.depth, golden["depth_0"])


def test_ego_motion_agrees_with_the_reference(
    parity: tuple[DynamoDepth, dict[str, Tensor], MotionFields],
) -> None:
    model, golden, fields = parity
    images = golden["images"].permute(0, 3, 1, 2).float() / 255
    for position, (frame, index) in enumerate((("-1", 0), ("1", 2))):
        pair = torch.cat([images[index], images[1]])[None]
        with torch.no_grad():
            axis_angle, translation = model.pose_dec(model.pose_enc(pair))
        assert_near(axis_angle, golden[f"axisangle_{frame}"][:, 0])
        assert_near(translation, golden[f"translation_{frame}"][:, 0])
        assert_near(fields.ego_motion.poses[:, position], golden[f"cam_T_cam_{frame}"])
        x, y = fields.finest.ego_coordinates[0, position]
        grid = torch.stack([x * 2 / (320 - 1) - 1, y * 2 / (192 - 1) - 1], -1)[None]
        assert_near(grid, golden[f"sample_ego_{frame}"])


def test_warped_neighbours_agree_with_the_reference(
    parity: tuple[DynamoDepth, dict[str, Tensor], MotionFields],
) -> None:
    _, golden, fields = parity
    for position, frame in enumerate(("-1", "1")):
        expected = golden[f"warped_{frame}"].float()  # stored in half precision
        torch.testing.assert_close(fields.finest.warped[:, position], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("phase", list(PHASES))
@torch.no_grad()
def test_frames_through_the_networks_give_the_reference_losses(
    parity: tuple[DynamoDepth, dict[str, Tensor], MotionFields], shared: Path, phase: str
) -> None:
    """From images to the loss, every field computed on the way."""
    model, golden, _ = parity
    file = shared / "golden" / "dynamo" / f"{model.depth_model}_real_losses.json"
    expected = json.loads(file.read_text())[phase]
    terms = losses_on_golden_frames(model, golden, phase)
    assert terms["loss"].item() == pytest.approx(expected["loss"], rel=1e-3)
    scales = sum(key.startswith("disp_") for key in golden)
    photometric = scales * terms["photometric"].item()  # the reference logs sums
    assert photometric == pytest.approx(expected["loss_term/p_photo"], rel=1e-3)


# --- conventions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*MODELS, "street"])
def small(request: pytest.FixtureRequest) -> DynamoDepth:
    torch.manual_seed(0)
    return DynamoDepth(request.param).eval()


@torch.no_grad()
def test_every_model_keeps_the_conventions(small: DynamoDepth) -> None:
    images = torch.rand(2, 3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    disparities = small.disparity(images[:, 1])
    finest = (32, 48) if small.depth_model == "street" else (64, 96)
    assert disparities[0].shape == (2, 1, *finest)
    assert all((d > 0).all() and (d < 1).all() for d in disparities)
    ego_motion = small.ego_motion(images)
    assert ego_motion.poses.shape == (2, 2, 4, 4)
    assert ego_motion.mean.shape == (2, 6)
    flows, logits = small.motion(images, ego_motion)
    assert logits is not None
    for disparity, flow, logit in zip(disparities, flows, logits, strict=False):
        assert flow.shape == (2, 3, *disparity.shape[-2:])
        assert logit.shape == disparity.shape
    assert len(flows) >= len(disparities)
    assert small.motion(images, ego_motion, with_mask=False)[1] is None


@torch.no_grad()
def test_evaluation_is_deterministic(small: DynamoDepth) -> None:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(small.disparity(image)[0], small.disparity(image)[0])


def test_checkpoint_brings_every_weight_back(small: DynamoDepth, tmp_path: Path) -> None:
    save_modules(small, MODULES, tmp_path, 64, 96)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.pth" for name in MODULES}
    other = DynamoDepth(small.depth_model)
    assert load_modules(other, MODULES, tmp_path) == (64, 96)
    restored = other.state_dict()
    assert all(torch.equal(value, restored[key]) for key, value in small.state_dict().items())


class Brightness(nn.Module):
    """A pose network that reads the camera's position from the frames' brightness."""

    def forward(self, pairs: Tensor) -> list[Tensor]:
        return [pairs]


class Difference(nn.Module):
    """Points move by what the first frame is brighter than the second."""

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        first, second = features[0].mean((2, 3)).split(3, 1)
        return torch.zeros_like(first), first - second


@pytest.mark.parametrize("order", ["source", "time"])
def test_ego_motion_leads_from_the_centre_to_the_neighbours(order: str) -> None:
    model = DynamoDepth("monodepthv2")
    model.pose_enc, model.pose_dec = Brightness(), Difference()
    positions = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.4, 0.1], [0.7, 0.5, 0.0]])  # of the camera
    images = positions[None, :, :, None, None].expand(1, 3, 3, 4, 4)
    ego_motion = model.ego_motion(images, translation_scale=10.0, pose_order=order)
    landmark = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)  # seen from the centre
    for neighbour, index in ((0, 0), (1, 2)):
        seen = geometry.transform(ego_motion.poses[:, neighbour], landmark)
        expected = landmark.flatten() + 10 * (positions[1] - positions[index])
        torch.testing.assert_close(seen.flatten(), expected)
    step = (positions[0] - positions[2]) / 2
    torch.testing.assert_close(ego_motion.mean[0], torch.cat([step, torch.zeros(3)]))
    assert not ego_motion.mean.requires_grad


# --- bad input ------------------------------------------------------------------------------------


def missing_folder(folder: Path) -> Path:
    return folder / "nowhere"


def missing_file(folder: Path) -> Path:
    (folder / "pose_dec.pth").unlink()
    return folder


def other_network(folder: Path) -> Path:
    state = checkpoint.load(folder / "motion_dec.pth")
    del state["refine_motion_conv3.0.bias"]
    state["surplus"] = torch.zeros(1)
    checkpoint.save(folder / "motion_dec.pth", state)
    return folder


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (missing_folder, "nowhere"),
        (missing_file, "pose_dec.pth"),
        (other_network, r"motion_dec.pth.*refine_motion_conv3.0.bias.*surplus"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_explained(
    tmp_path: Path, spoil: Callable[[Path], Path], named: str
) -> None:
    model = DynamoDepth("monodepthv2")
    save_modules(model, MODULES, tmp_path, 64, 96)
    with pytest.raises(InputError, match=named):
        load_modules(model, MODULES, spoil(tmp_path))


def test_an_unknown_depth_model_is_refused() -> None:
    with pytest.raises(InputError, match="litemono"):
        DynamoDepth("resnet1000")


@pytest.mark.parametrize("name", MODELS)
def test_an_image_size_the_networks_cannot_halve_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"100 x 96.*32"):
        DynamoDepth(name).disparity(torch.rand(1, 3, 100, 96))


# --- parts ----------------------------------------------------------------------------------------


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    dropped = layer(x)[:, :, 0, 0]
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(x), x)


def test_stacked_encoder_sees_every_frame() -> None:
    torch.manual_seed(0)
    encoder = ResNetEncoder(3).eval()
    frames = torch.rand(1, 9, 32, 32).requires_grad_()
    features = encoder(frames)
    assert [feature.shape[-1] for feature in features] == [16, 8, 4, 2, 1]
    features[-1].sum().backward()
    assert frames.grad is not None
    assert (frames.grad.abs().sum((2, 3)) > 0).all()


def test_motion_starts_from_the_cameras_motion() -> None:
    torch.manual_seed(0)
    model = DynamoDepth("monodepthv2").eval()
    images = torch.rand(1, 3, 3, 64, 64)
    poses = torch.eye(4).expand(1, 2, 4, 4)
    with torch.no_grad():
        still, moving = (
            model.motion(images, EgoMotion(poses, mean), with_mask=False)[0][0]
            for mean in (torch.zeros(1, 6), torch.ones(1, 6))
        )
    assert (still - moving).abs().mean() > 1e-3
