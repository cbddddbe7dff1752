"""Forward warping and surface normals: the reference's numbers, exact small cases, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dynamic_golden import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moduv import geometry
from moduv.geometry import splatting


def camera(batch: int = 1, focal: float = 20.0, width: int = 16, height: int = 12) -> Tensor:
    K = torch.eye(4).repeat(batch, 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2], K[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
    return K


def shift(x: float = 0.0, y: float = 0.0, z: float = 0.0, batch: int = 1) -> Tensor:
    pose = torch.eye(4).repeat(batch, 1, 1)
    pose[:, :3, 3] = torch.tensor([x, y, z])
    return pose


def test_forward_warp_is_the_references(shared: Path) -> None:
    case = tensors(shared, "case")
    image, depth = geometry.forward_warp(
        case["images"][:2], case["scene_depth"], case["K"], case["warp_pose"]
    )
    # Coordinates on the border of two pixels may fall on either side.
    near = (depth - case["forward_depth"]).abs() <= 1e-4 * case["forward_depth"]
    assert near.float().mean() > 0.999
    assert ((image - case["forward_image"].float()).abs() < 2e-3).float().mean() > 0.999


def test_the_nearer_surface_hides_the_farther_one() -> None:
    depth = torch.full((1, 1, 12, 16), 40.0)
    depth[..., 4:8, 4:8] = 4.0
    image = (depth < 10).float()
    # 4 m at 20 pixels a unit: a metre is 5 pixels, and half a pixel at 40 m.
    warped, moved = geometry.forward_warp(image, depth, camera(), shift(x=1.0 + 1e-3))
    assert (moved[..., 4:8, 9:13] == 4.0).all()
    assert warped[..., 5:7, 10:12].min() > 0.99
    assert (moved[..., 5:7, 5:8] == 0).all(), "what was hidden has no surface yet"
    assert warped[moved.expand_as(warped) == 0].abs().max() == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0, -3.0])
def test_depths_that_are_none_land_nowhere(broken: float) -> None:
    depth = torch.full((1, 1, 12, 16), 8.0)
    depth[..., 3, 5] = broken
    # A tenth of a pixel, so that no point falls on a border.
    image, moved = geometry.forward_warp(
        torch.ones(1, 3, 12, 16), depth, camera(), shift(0.04, 0.04)
    )
    assert moved[..., 3, 5] == 0
    assert moved.isfinite().all()
    assert image.isfinite().all()
    assert (moved > 0).sum() == 12 * 16 - 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_devices_agree(seed: int, upsample: int) -> None:
    source = torch.Generator().manual_seed(seed)
    depth = 2 + 30 * torch.rand(3, 1, 12, 16, generator=source)
    angles, moves = torch.rand(2, 3, 3, generator=source) - 0.5
    pose = geometry.pose_matrix(0.2 * angles, moves)
    compiled = splatting._winners(depth, camera(3), pose, upsample)
    scattered = splatting._scattered(depth, camera(3), pose, upsample)
    # The two round coordinates differently, which shows at the borders of pixels.
    assert (compiled == scattered).float().mean() > 0.98
    each = [
        splatting._winners(depth[i : i + 1], camera(), pose[i : i + 1], upsample) for i in range(3)
    ]
    assert torch.equal(compiled, torch.cat(each)), "images of a batch do not know each other"


def test_gradients_are_those_of_the_formula() -> None:
    source = torch.Generator().manual_seed(0)
    depth = (5 + torch.rand(1, 1, 6, 8, generator=source)).double().requires_grad_()
    image = torch.rand(1, 2, 6, 8, generator=source).double().requires_grad_()
    move = torch.tensor([[0.013, 0.021, -0.4]]).double().requires_grad_()
    K = camera(width=8, height=6).double()

    def warped(image: Tensor, depth: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        pose = geometry.pose_matrix(torch.zeros(1, 3).double(), move)
        return geometry.forward_warp(image, depth, K, pose)

    assert torch.autograd.gradcheck(warped, (image, depth, move), eps=1e-7, atol=1e-4)


def test_level_surfaces_are_the_references(shared: Path) -> None:
    case = tensors(shared, "case")
    points = geometry.back_project(case["scene_depth"], case["K"].inverse())
    assert (geometry.level_surfaces(points) != case["ground_mask"]).float().mean() < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_normals_of_a_plane_are_the_planes(a: float, b: float) -> None:
    direction = torch.tensor([a, b, 1.0])
    direction = direction / direction.norm()
    rays = geometry.rays(camera().inverse(), 12, 16)
    depth = 10 / (rays * direction[:, None, None]).sum(1, keepdim=True)
    normals = geometry.surface_normals(depth * rays)
    assert torch.allclose(
        (normals * direction[:, None, None]).sum(1).abs(), torch.ones(()), atol=1e-3
    )


def test_what_moves_by_itself_lands_where_it_moves_to() -> None:
    depth = torch.full((1, 1, 12, 16), 8.0)
    image, residual = torch.zeros(1, 1, 12, 16), torch.zeros(1, 2, 12, 16)
    image[..., 4:8, 4:8], depth[..., 4:8, 4:8] = 1.0, 4.0
    residual[:, 0, 4:8, 4:8] = 4.0 * (3 + 1e-3)  # three pixels at 4 m
    warped, moved = geometry.forward_warp(image, depth, camera(), shift(), residual=residual)
    assert (moved[..., 4:8, 7:11] == 4.0).all()
    assert warped[..., 4:8, 7:11].min() > 0.99
    assert (moved[..., 4:7, 4:7] == 0).all(), "nothing is known of what it hid"
    none, plain = torch.zeros_like(residual), geometry.forward_warp(image, depth, camera(), shift())
    for found, wanted in zip(
        geometry.forward_warp(image, depth, camera(), shift(), residual=none), plain, strict=True
    ):
        assert torch.allclose(found, wanted)
