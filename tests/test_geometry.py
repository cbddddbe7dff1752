"""Geometry: what goes out to the world comes back, and the formulas are those of the papers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moduv import geometry

numbers = st.floats(-3, 3, allow_nan=False, width=32)
vectors = st.tuples(numbers, numbers, numbers)


def intrinsics(focal: float, cx: float, cy: float) -> Tensor:
    K = torch.eye(4)[None]
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2], K[:, 1, 2] = cx, cy
    return K


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- rigid motion ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(vectors)
def test_rotation_is_the_exponential_of_the_cross_product(
    vector: tuple[float, float, float],
) -> None:
    x, y, z = vector
    axis_angle = torch.tensor([vector], dtype=torch.float64)
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    expected = torch.linalg.matrix_exp(generator)
    torch.testing.assert_close(geometry.rotation_matrix(axis_angle)[0], expected)


@settings(deadline=None)
@given(vectors, vectors)
def test_inverse_pose_undoes_the_pose(
    axis_angle: tuple[float, float, float], translation: tuple[float, float, float]
) -> None:
    pose = geometry.pose_matrix(torch.tensor([axis_angle]), torch.tensor([translation]))
    points = noise(1, 3, 4, 5)
    back = geometry.transform(geometry.inverse_pose(pose), geometry.transform(pose, points))
    torch.testing.assert_close(back, points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        geometry.inverse_pose(pose) @ pose, torch.eye(4)[None], atol=1e-5, rtol=0
    )


def test_transform_rotates_then_translates() -> None:
    quarter_turn = geometry.pose_matrix(
        torch.tensor([[0.0, 0.0, torch.pi / 2]]), torch.tensor([[0.0, 0.0, 5.0]])
    )
    moved = geometry.transform(quarter_turn, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.0, 1, 5]), atol=1e-6, rtol=0)


def test_rotation_has_a_finite_gradient_at_rest() -> None:
    axis_angle = torch.zeros(2, 3, requires_grad=True)
    geometry.rotation_matrix(axis_angle)[:, 0, 1].sum().backward()
    assert axis_angle.grad is not None
    torch.testing.assert_close(axis_angle.grad, torch.tensor([[0.0, 0, -1]] * 2))


# --- pixels and points ----------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.floats(20, 500), st.floats(-5, 40), st.floats(-5, 30), st.floats(0.1, 100), st.integers(0, 9)
)
def test_projection_of_a_back_projected_pixel_is_that_pixel(
    focal: float, cx: float, cy: float, far: float, seed: int
) -> None:
    K = intrinsics(focal, cx, cy)
    depth = 0.1 + far * noise(1, 1, 12, 17, seed=seed)
    pixels = geometry.project(geometry.back_project(depth, torch.inverse(K)), K)
    expected = geometry.pixel_grid(12, 17, depth)
    torch.testing.assert_close(pixels, expected, atol=2e-3, rtol=1e-4)


def test_pixel_centres_lie_at_integers() -> None:
    assert geometry.pixel_grid(2, 3, torch.zeros(1))[0, :, 1, 2].tolist() == [2.0, 1.0]
    ray = geometry.rays(torch.inverse(intrinsics(10, 4, 3)), 8, 9)[0, :, 3, 4]
    assert ray.tolist() == [0.0, 0.0, 1.0]  # the principal point looks along the axis


def test_points_behind_the_camera_are_not_mirrored_into_the_image() -> None:
    K = intrinsics(10, 8, 6)
    behind = torch.tensor([2.0, 1.0, -4.0]).view(1, 3, 1, 1)
    x, y = geometry.project(behind, K).flatten().tolist()
    assert x > 16
    assert y > 12


@settings(deadline=None)
@given(st.floats(0.05, 1), st.floats(2, 200), st.floats(0, 1))
def test_disparity_and_depth_are_inverse(nearest: float, farthest: float, value: float) -> None:
    disparity = torch.tensor([value, 0.0, 1.0], dtype=torch.float64)
    depth = geometry.disparity_to_depth(disparity, nearest, farthest)
    torch.testing.assert_close(depth[1:].tolist(), [farthest, nearest])
    torch.testing.assert_close(geometry.depth_to_disparity(depth, nearest, farthest), disparity)


# --- warping --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 5))
def test_warp_by_the_identity_is_the_identity(height: int, width: int, seed: int) -> None:
    image = noise(2, 3, height, width, seed=seed)
    grid = geometry.pixel_grid(height, width, image).expand(2, -1, -1, -1)
    torch.testing.assert_close(geometry.warp(image, grid), image, atol=1e-5, rtol=0)


def test_warp_reads_between_pixels_and_continues_the_border() -> None:
    image = torch.tensor([[[[0.0, 1.0, 4.0]] * 2]])
    xs = torch.tensor([0.5, 1.75, -9.0, 9.0])
    coordinates = torch.stack([xs, torch.zeros(4)]).view(1, 2, 1, 4)
    torch.testing.assert_close(
        geometry.warp(image, coordinates).flatten(), torch.tensor([0.5, 3.25, 0.0, 4.0])
    )


def test_warp_passes_gradients_to_image_and_coordinates() -> None:
    image = noise(1, 3, 6, 8).requires_grad_()
    coordinates = (geometry.pixel_grid(6, 8, image) * 0.8 + 0.3).requires_grad_()
    geometry.warp(image, coordinates).square().sum().backward()
    assert image.grad is not None
    assert coordinates.grad is not None
    assert coordinates.grad.abs().amin() > 0


def test_warp_shows_lost_coordinates_and_survives_their_gradient() -> None:
    image = noise(1, 2, 6, 8).requires_grad_()
    coordinates = geometry.pixel_grid(6, 8, image) * 0.8 + 0.3
    coordinates[:, 0, 2, 3] = torch.nan
    coordinates.requires_grad_()
    warped = geometry.warp(image, coordinates)
    assert warped.isnan().nonzero().tolist() == [[0, 0, 2, 3], [0, 1, 2, 3]]
    warped.square().mean().backward()
    assert coordinates.grad is not None
    assert (coordinates.grad[..., :2, :] != 0).all()


# --- photometric error ----------------------------------------------------------------------------


def test_images_are_like_themselves_and_unlike_others() -> None:
    first, second = noise(1, 3, 8, 9), noise(1, 3, 8, 9, seed=1)
    assert geometry.photometric_error(first, first).abs().max() < 1e-6
    error = geometry.photometric_error(first, second)
    assert error.shape == (1, 1, 8, 9)
    assert error.amin() > 0
    assert error.amax() <= 1


def test_ssim_is_that_of_the_reflected_window() -> None:
    first, second = noise(1, 1, 5, 5).double(), noise(1, 1, 5, 5, seed=1).double()
    windows = [
        F.pad(image, (1,) * 4, mode="reflect")[0, 0, :3, :3].flatten() for image in (first, second)
    ]  # around the top left pixel
    (a, b), c1, c2 = windows, 0.01**2, 0.03**2
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    similarity = ((2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)) / (
        (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(correction=0) + b.var(correction=0) + c2)
    )
    expected = ((1 - similarity) / 2).clamp(0, 1)
    torch.testing.assert_close(geometry.ssim(first, second)[0, 0, 0, 0], expected)


def test_uniform_images_differ_by_brightness_alone() -> None:
    dark, bright = torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.6)
    structure = (1 - (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)) / 2
    expected = torch.full((1, 1, 4, 4), 0.85 * structure + 0.15 * 0.4)
    torch.testing.assert_close(geometry.photometric_error(dark, bright), expected)


def test_a_step_in_the_field_is_cheaper_on_an_edge_of_the_image() -> None:
    field, image = torch.zeros(1, 1, 6, 6), torch.zeros(1, 3, 6, 6)
    field[..., 3:], image[..., 3:] = 1.0, 1.0
    torch.testing.assert_close(
        geometry.smoothness(field, torch.zeros_like(image)), torch.tensor(1 / 5)
    )
    torch.testing.assert_close(
        geometry.smoothness(field, image), torch.tensor(np.exp(-1) / 5, dtype=torch.float32)
    )
    assert geometry.smoothness(torch.ones(1, 2, 6, 6), noise(1, 3, 6, 6)) == 0


# --- ground plane ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(0.5, 3), st.integers(0, 2**20))
def test_ransac_finds_a_planted_plane_among_outliers(
    a: float, b: float, c: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-10, 10, 600), rng.uniform(2, 40, 600)
    y = a * x + b * z + c
    y[:120] -= rng.uniform(0.5, 8, 120)  # things that stand on the ground
    points = torch.tensor(np.stack([x, y, z]), dtype=torch.float32)[None]
    plane = geometry.ransac_plane(points, torch.Generator().manual_seed(seed), tolerance=0.01)
    torch.testing.assert_close(plane, torch.tensor([[a, b, c]]), atol=5e-3, rtol=0)


def test_ransac_treats_every_sample_by_itself_and_repeats_with_its_seed() -> None:
    x, z = noise(2, 400) * 8 - 4, noise(2, 400, seed=1) * 20
    y = torch.stack([0.1 * x[0] + 1.5, -0.05 * z[1] + 0.7])
    y[:, ::4] += noise(2, 100, seed=2)
    points = torch.stack([x, y, z], 1)
    first, again = (
        geometry.ransac_plane(points, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    torch.testing.assert_close(
        first, torch.tensor([[0.1, 0, 1.5], [0, -0.05, 0.7]]), atol=2e-3, rtol=0
    )
    assert torch.equal(first, again)


def test_ransac_of_points_on_a_line_is_a_finite_plane_through_them() -> None:
    z = torch.linspace(1, 9, 50)
    points = torch.stack([torch.full_like(z, 2.0), torch.full_like(z, 1.5), z])[None]
    a, b, c = geometry.ransac_plane(points)[0].tolist()
    assert a * 2 + b * 5 + c == pytest.approx(1.5, abs=1e-3)


def test_ground_disparity_is_that_of_points_on_the_plane() -> None:
    K = intrinsics(60, 31.5, 20)
    plane = torch.tensor([[0.05, -0.02, 1.6]])
    disparity, seen = geometry.ground_disparity(plane, torch.inverse(K), (48, 64), 0.5, 100.0)
    depth = geometry.disparity_to_depth(disparity, 0.5, 100.0)
    x, y, z = geometry.back_project(depth, torch.inverse(K)).split(1, 1)
    height = 0.05 * x - 0.02 * z + 1.6
    torch.testing.assert_close(y[seen], height[seen], atol=1e-3, rtol=1e-3)
    assert seen[..., 40:, :].all()
    assert not seen[..., :15, :].any()
    assert disparity[~seen].abs().max() < 1e-6


def test_ground_points_are_the_lowest_rows() -> None:
    points = geometry.pixel_grid(10, 4, torch.zeros(1))[:, [0, 1, 1]]
    assert geometry.ground_points(points, 0.4)[0, 1].unique().tolist() == [6.0, 7.0, 8.0, 9.0]


# --- golden ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["litemono", "monodepthv2"])
def test_geometry_agrees_with_the_reference(shared: Path, model: str) -> None:
    stored = np.load(shared / "golden" / "dynamo" / f"{model}_real.npz")
    golden = {key: torch.from_numpy(stored[key]) for key in stored}
    K = golden["K"][None]
    depth = geometry.disparity_to_depth(golden["disp_0"], 0.1, 100.0)
    torch.testing.assert_close(depth, golden["depth_0"], rtol=1e-4, atol=0)
    points = geometry.back_project(depth, torch.inverse(K))
    for frame in ("-1", "1"):
        network = geometry.pose_matrix(
            golden[f"axisangle_{frame}"][:, 0], golden[f"translation_{frame}"][:, 0]
        )
        pose = geometry.inverse_pose(network)
        torch.testing.assert_close(pose, golden[f"cam_T_cam_{frame}"], rtol=1e-4, atol=1e-6)
        x, y = geometry.project(geometry.transform(pose, points), K)[0]
        grid = torch.stack([x / (320 - 1) * 2 - 1, y / (192 - 1) * 2 - 1], -1)[None]
        torch.testing.assert_close(grid, golden[f"sample_ego_{frame}"], rtol=1e-4, atol=1e-5)
