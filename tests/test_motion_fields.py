"""Fields of stage 1: what depth, ego-motion, flow and mask say together, under every option."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_stubs import HEIGHT, WIDTH, Stored, Tiny, noise, sideways, stored, triplets
from torch import Tensor

from moduv import geometry
from moduv.depth.photometric import photometric
from moduv.motion.fields import ScaleFields, mask_and_depth, motion_fields
from moduv.motion.losses import compute_losses
from moduv.motion.phases import PHASES, MotionConfig


def full(fields: ScaleFields) -> ScaleFields:
    """The fields of a phase with flow and mask, all of them there."""
    for item in dataclass_fields(fields):
        assert getattr(fields, item.name) is not None
    return fields


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**20))
def test_a_silent_mask_means_a_static_world(seed: int) -> None:
    model = stored(2, logit=-60.0, seed=seed)
    fields = full(motion_fields(model, triplets(2), PHASES["fine_tune"], MotionConfig()).finest)
    torch.testing.assert_close(fields.coordinates, fields.ego_coordinates, atol=1e-3, rtol=0)
    assert fields.independent_flow is not None
    assert fields.independent_flow.abs().max() < 1e-12


@pytest.mark.parametrize("unit", ["length", "depth"])
def test_with_residual_flow_a_silent_network_means_a_static_world(unit: str) -> None:
    model = stored(logit=60.0)
    assert model.flows is not None
    model.flows = [torch.zeros_like(flow) for flow in model.flows]
    config = MotionConfig(flow_parametrisation="residual", flow_unit=unit)
    for phase in (PHASES["motion_init"], PHASES["fine_tune"]):
        fields = motion_fields(model, triplets(), phase, config).finest
        torch.testing.assert_close(fields.coordinates, fields.ego_coordinates, atol=1e-3, rtol=0)
        assert fields.residual_flow is not None
        assert fields.residual_flow.abs().max() < 1e-6
    static = motion_fields(model, triplets(), PHASES["fine_tune"], MotionConfig()).finest
    assert (
        static.coordinates - static.ego_coordinates
    ).abs().max() > 0.5  # published: flow 0 moves


def test_both_parametrisations_describe_the_same_motion() -> None:
    """A full mask: complete flow carries points to project(T(P + F - ego)), for either output."""
    residual = stored(logit=60.0)
    batch, phase = triplets(), PHASES["fine_tune"]
    first = full(
        motion_fields(residual, batch, phase, MotionConfig(flow_parametrisation="residual")).finest
    )
    assert first.complete_flow is not None
    complete = stored(logit=60.0)
    complete.flows = [first.complete_flow[:, 1]]
    second = full(motion_fields(complete, batch, phase, MotionConfig()).finest)
    torch.testing.assert_close(second.coordinates[:, 1], first.coordinates[:, 1], atol=1e-3, rtol=0)


def test_ego_motion_does_not_learn_from_the_flow_that_starts_from_it() -> None:
    model, config = stored(), MotionConfig(flow_parametrisation="residual")
    model.poses = model.poses.requires_grad_()
    fields = motion_fields(model, triplets(), PHASES["fine_tune"], config).finest
    assert fields.complete_flow is not None
    assert not fields.complete_flow.requires_grad
    assert fields.coordinates.requires_grad


def test_flow_is_backwards_for_the_frame_before_and_grows_with_time() -> None:
    model = stored()
    assert model.flows is not None
    batch = {**triplets(), "time_steps": torch.tensor([[0.5, 3.0]])}
    flow = motion_fields(model, batch, PHASES["motion_init"], MotionConfig()).finest.complete_flow
    assert flow is not None
    torch.testing.assert_close(flow[:, 0], -0.5 * model.flows[0])
    torch.testing.assert_close(flow[:, 1], 3.0 * model.flows[0])
    in_depths = MotionConfig(flow_unit="depth")
    scaled = motion_fields(model, batch, PHASES["motion_init"], in_depths).finest
    assert scaled.complete_flow is not None
    torch.testing.assert_close(scaled.complete_flow, flow * scaled.depth[:, None])


def shifted_world() -> tuple[Stored, dict[str, Tensor]]:
    """A wall at depth 3 and a camera that moves so that it shifts by exactly 2 pixels a frame."""
    wide = noise(1, 3, HEIGHT, WIDTH + 8)
    views = [wide[..., 4 + 2 * step : 4 + 2 * step + WIDTH] for step in (-1, 0, 1)]
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.0)
    model = Stored(
        [geometry.depth_to_disparity(depth, 0.1, 100.0)],
        sideways(0.2),  # 2 pixels x depth 3 / focal length 30
        [torch.zeros(1, 3, HEIGHT, WIDTH)],
        [torch.zeros(1, 1, HEIGHT, WIDTH)],
    )
    return model, {**triplets(), "images": torch.stack(views, 1)}


def test_a_static_world_is_explained_by_depth_and_ego_motion() -> None:
    model, batch = shifted_world()
    fields = motion_fields(model, batch, PHASES["disp_init"], MotionConfig()).finest
    inner = fields.warped[..., 3:-3] - batch["images"][:, 1:2, ..., 3:-3]
    assert inner.abs().max() < 1e-4
    assert photometric(fields.warped, batch["images"]) < 1e-3


def test_warped_input_shows_the_motion_network_aligned_frames() -> None:
    model, batch = shifted_world()
    motion_fields(model, batch, PHASES["motion_init"], MotionConfig())
    assert model.seen is not None
    assert torch.equal(model.seen, batch["images"])
    motion_fields(model, batch, PHASES["motion_init"], MotionConfig(motion_input="warped"))
    before, centre, after = model.seen[..., 3:-3].unbind(1)
    assert torch.equal(centre, batch["images"][:, 1, ..., 3:-3])
    torch.testing.assert_close(before, centre, atol=1e-4, rtol=0)
    torch.testing.assert_close(after, centre, atol=1e-4, rtol=0)


def test_networks_see_the_augmented_frames_and_losses_the_clean_ones() -> None:
    model, batch = shifted_world()
    augmented = 1 - batch["images"]
    fields = motion_fields(
        model, {**batch, "augmented": augmented}, PHASES["motion_init"], MotionConfig()
    )
    assert model.seen is augmented
    plain = motion_fields(model, batch, PHASES["motion_init"], MotionConfig())
    assert torch.equal(fields.finest.warped, plain.finest.warped)


@torch.no_grad()
def test_inference_is_the_mask_and_depth_of_training() -> None:
    torch.manual_seed(0)
    model, batch = Tiny().eval(), triplets(2)
    config = MotionConfig(motion_input="warped", min_depth=0.5)
    mask, depth, poses = mask_and_depth(model, batch, config)
    everything = motion_fields(model, batch, PHASES["fine_tune"], config)
    fields = everything.finest
    torch.testing.assert_close(mask, fields.motion_mask)
    torch.testing.assert_close(depth, fields.depth)
    torch.testing.assert_close(poses, everything.ego_motion.poses)
    assert depth.amin() >= 0.5


def test_geometry_stays_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    model, batch = Tiny(), triplets()
    config = MotionConfig(motion_input="warped", tie_break=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.disparity(batch["images"][:, 1])[0].dtype == torch.bfloat16
        fields = motion_fields(model, batch, PHASES["fine_tune"], config).finest
        result = compute_losses(model, batch, PHASES["disp_init"], 1.0, config)
    for item in dataclass_fields(fields):
        assert getattr(fields, item.name).dtype == torch.float32, item.name
    points = geometry.back_project(fields.depth, batch["inv_K"])
    exact = geometry.transform(model.ego_motion(batch["images"]).poses[:, 0], points)
    torch.testing.assert_close(
        fields.ego_coordinates[:, 0], geometry.project(exact, batch["K"]), atol=0.1, rtol=0
    )
    assert result["loss"].dtype == torch.float32
