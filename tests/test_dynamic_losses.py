"""The losses of depth in moving regions: the reference's numbers, and what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dynamic_golden import expected, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth import losses
from moduv.dynamic_depth.masks.slots import slot_losses
from moduv.dynamic_depth.networks.slots import Slots
from moduv.dynamic_depth.pixelwise.model import pseudo_depth_term
from moduv.dynamic_depth.pixelwise.residual import euler_pose, residual_coordinates, sample


@pytest.fixture(scope="module")
def case(shared: Path) -> dict[str, Tensor]:
    return tensors(shared, "case")


def close(found: Tensor, expected: float) -> bool:
    return found.item() == pytest.approx(expected, rel=1e-3)


def test_poses_are_the_references(case: dict[str, Tensor]) -> None:
    for invert, name in ((False, "forward"), (True, "inverted")):
        pose = euler_pose(case["angles"], case["translations"], invert=invert)
        assert torch.allclose(pose, case[f"pose_{name}"], atol=1e-5)


def test_coordinates_are_the_references(case: dict[str, Tensor]) -> None:
    coordinates, flow = residual_coordinates(
        case["scene_depth"], case["K"], case["warp_pose"], case["residual"]
    )
    assert torch.allclose(coordinates, case["coordinates_residual"], atol=1e-3)
    assert torch.allclose(flow, case["object_flow"], atol=1e-3)
    warped = sample(case["images"][1:3], coordinates)
    assert torch.allclose(warped, case["warped"].float(), atol=1e-3)  # stored in half precision
    still, none = residual_coordinates(case["scene_depth"], case["K"], case["warp_pose"])
    assert torch.allclose(coordinates - flow, still, atol=1e-4)
    assert none.abs().max() == 0


def contrast(images: Tensor) -> Tensor:
    """Standard deviation around each pixel, of the flattest channel: (B, H, W)."""
    padded = F.pad(images.double(), (1, 1, 1, 1), mode="reflect")
    variance = F.avg_pool2d(padded**2, 3, 1) - F.avg_pool2d(padded, 3, 1) ** 2
    return variance.clamp(min=0).sqrt().amin(1)


def test_photometric_error_is_the_references(case: dict[str, Tensor], shared: Path) -> None:
    images = case["images"]
    warped = sample(images[1:3], case["coordinates_residual"])[None]
    error, kept = losses.photometric_error(warped, images[None, 1:3], images[:1])
    # The variance of flat patches is a difference of near numbers, whose last bits depend on the processor.
    textured = torch.cat([contrast(images[:1]), contrast(warped[0])]).amin(0) > 0.02
    apart = (error[:, 0] - case["photometric_error"]).abs()
    assert textured.float().mean() > 0.2
    assert apart[:, textured].max() < 5e-4
    assert apart.mean() < 2e-3
    assert (kept[:, 0] != case["not_stationary"].bool()).float().mean() < 1e-3
    found = losses.photometric(warped, images[None, 1:3], images[:1])
    assert found.item() == pytest.approx(expected(shared, "losses")["photometric"], rel=5e-3)


def test_losses_are_the_references(case: dict[str, Tensor], shared: Path) -> None:
    numbers = expected(shared, "losses")
    disparity, images = 1 / case["scene_depth"], case["images"][:2]
    assert close(losses.smoothness(disparity, images), numbers["smoothness"])
    assert close(losses.object_smoothness(disparity, case["mask"]), numbers["object_smoothness"])
    assert close(losses.sparsity(case["residual"]), numbers["sparsity"])
    pseudo = case["prediction"], case["pseudo_depth"]
    assert close(losses.pseudo_depth(*pseudo, case["mask"]), numbers["pseudo_depth"])
    valid = losses.align_to_prediction(*pseudo)[1]
    assert (valid != case["pseudo_valid"].bool()).float().mean() < 1e-3
    scaled = case["dsa_scale"][..., None, None] * case["dsa_object_depth"]
    found = losses.scale_alignment(scaled, case["scene_depth"], case["dsa_object_mask"])
    assert close(found, numbers["scale_alignment"])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.floats(0.01, 100))
def test_pseudo_depth_has_no_scale_of_its_own(seed: int, factor: float) -> None:
    source = torch.Generator().manual_seed(seed)
    prediction = 2 + 30 * torch.rand(2, 1, 12, 16, generator=source)
    pseudo = prediction * (0.8 + 0.4 * torch.rand(2, 1, 12, 16, generator=source))
    mask = torch.rand(2, 1, 12, 16, generator=source) < 0.3
    first, second = (losses.pseudo_depth(prediction, p, mask) for p in (pseudo, factor * pseudo))
    assert torch.allclose(first, second, rtol=1e-3)
    assert losses.pseudo_depth(prediction, factor * prediction, mask) < 1e-4


def test_pseudo_depth_moves_only_what_is_in_the_mask() -> None:
    prediction = torch.full((1, 1, 8, 8), 10.0)
    prediction[..., :3] += torch.linspace(0, 5, 8)[:, None]
    prediction.requires_grad_()
    pseudo, mask = prediction.detach().clone(), torch.zeros(1, 1, 8, 8)
    pseudo[..., 6:8, 6:8], mask[..., 6:8, 6:8] = 12.0, 1.0
    losses.pseudo_depth(prediction, pseudo, mask).backward()
    assert prediction.grad is not None
    assert (prediction.grad[mask == 0] == 0).all()
    assert (prediction.grad[mask == 1] < 0).all(), "too near, so depth must grow"


def test_nothing_to_compare_is_no_loss() -> None:
    depth, none = torch.full((1, 1, 8, 8), 10.0), torch.zeros(1, 1, 8, 8)
    for found in (
        losses.pseudo_depth(depth, depth, none),
        losses.scale_alignment(depth, 2 * depth, none),
        losses.object_smoothness(depth, none),
        losses.sparsity(torch.zeros(1, 2, 8, 8)),
    ):
        assert found.item() == 0


def test_an_image_without_object_has_no_gradient() -> None:
    disparity = torch.full((2, 1, 8, 8), 0.1, requires_grad=True)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:6, 2:6] = 1
    losses.object_smoothness(disparity * mask, mask).backward()
    assert disparity.grad is not None
    assert disparity.grad.isfinite().all()


def test_what_stands_still_in_the_image_is_left_out() -> None:
    source = torch.Generator().manual_seed(0)
    centre = torch.rand(1, 3, 16, 16, generator=source)
    neighbours = centre[:, None].expand(-1, 2, -1, -1, -1)
    warped = geometry.resize(torch.rand(2, 3, 16, 16, generator=source), (16, 16))[None]
    error, kept = losses.photometric_error(warped, neighbours, centre)
    assert not kept.any()
    assert losses.photometric(warped, neighbours, centre).item() == 0
    assert error.mean() > 0.1


def test_at_small_scales_objects_do_not_mix_with_what_is_behind_them() -> None:
    scene, mask = torch.full((1, 1, 32, 32), 20.0), torch.zeros(1, 1, 32, 32)
    mask[..., 9:23, 9:23] = 1
    right = torch.where(mask > 0, 10.0, scene)
    small = [F.interpolate(right, (32 >> scale,) * 2, mode="nearest") for scale in range(4)]
    assert pseudo_depth_term(small, right, mask) == 0
    assert pseudo_depth_term(small, right, mask, bilinear=True) > 0.1, "as published"


def test_a_right_background_costs_nothing_unless_as_published() -> None:
    frames = torch.ones(1, 4, 8, 8)
    moving = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    moving[..., 2:6, 2:6] = True
    masks = torch.cat([~moving, moving], 1).float()[:, :, None]
    parts = frames[:, None].expand(-1, 2, -1, -1, -1)
    found = Slots(frames, parts, masks, torch.zeros(1, 2, 64), torch.zeros(1, 1))
    right = slot_losses(found, frames, moving, background=True)
    assert right["loss"] == 0
    published = slot_losses(found, frames, moving, background=True, logits=True)
    # 0.31 on the background, 0.69 elsewhere.
    assert published["background_mask"].item() == pytest.approx(
        0.005 * (0.75 * 0.3133 + 0.25 * 0.6931), rel=1e-3
    )
    wrong = found._replace(masks=masks.flip(1))
    assert slot_losses(wrong, frames, moving, background=True)["loss"] > published["loss"]
