"""Losses of stage 1: the reference's numbers, what every phase trains, what every term promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_stubs import (
    HEIGHT,
    WIDTH,
    Stored,
    Tiny,
    camera,
    losses_on_golden_frames,
    noise,
    stored,
    triplets,
)
from torch import nn

from moduv import geometry
from moduv.depth.ground import above_ground
from moduv.depth.photometric import photometric
from moduv.engine.errors import InputError
from moduv.motion import losses
from moduv.motion.fields import motion_fields
from moduv.motion.losses import compute_losses
from moduv.motion.phases import MODULES, PHASES, RAMPED, TERMS, LossWeights, MotionConfig

OFFICIAL = dict(
    zip(
        TERMS,
        ["p_photo", "d_smooth", "d_ground", "c_smooth", "c_consistency", "m_sparsity", "m_smooth"],
        strict=True,
    )
)


# --- golden ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", list(PHASES))
@pytest.mark.parametrize("name", ["litemono", "monodepthv2"])
def test_losses_agree_with_the_reference(shared: Path, name: str, phase: str) -> None:
    folder = shared / "golden" / "dynamo"
    arrays = np.load(folder / f"{name}_real.npz")
    expected = json.loads((folder / f"{name}_real_losses.json").read_text())[phase]
    golden = {key: torch.from_numpy(arrays[key]) for key in arrays}
    count = sum(key.startswith("disp_") for key in golden)
    model = Stored(
        [golden[f"disp_{scale}"] for scale in range(count)],
        torch.stack([golden["cam_T_cam_-1"], golden["cam_T_cam_1"]], 1),
        [golden[f"complete_flow_{scale}"] for scale in range(count)],
        [golden[f"motion_prob_{scale}"] for scale in range(count)],
    )
    actual = losses_on_golden_frames(model, golden, phase)
    assert actual["loss"].item() == pytest.approx(expected["loss"], rel=1e-3)
    for term, official in OFFICIAL.items():
        # The reference logs sums over scales, these are means; it logs 0 for terms a phase lacks.
        value = actual[term].item() * count if term in actual else 0.0
        assert value == pytest.approx(expected[f"loss_term/{official}"], rel=1e-3), term
        weight = getattr(MotionConfig().weights, term)
        assert weight == pytest.approx(expected[f"loss_coef/{official}"])


# --- phases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"flow_parametrisation": "residual", "motion_input": "warped", "flow_unit": "depth"}],
    ids=["published", "street"],
)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "loose"])
@pytest.mark.parametrize("phase", list(PHASES.values()), ids=list(PHASES))
def test_gradients_reach_exactly_what_the_phase_trains(phase, frozen, options) -> None:
    torch.manual_seed(0)
    model = Tiny()
    if frozen:  # else the other modules simply run without
        phase.freeze(model)
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert {name.split(".")[0] for name in trained} == set(phase.trains)
    result = compute_losses(model, triplets(2), phase, 1.0, MotionConfig(**options))
    result["loss"].backward()
    reached = set()
    for name in MODULES:
        gradients = [parameter.grad for parameter in getattr(model, name).parameters()]
        if all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients):
            reached.add(name)
        else:
            assert all(gradient is None for gradient in gradients), name
    assert reached == set(phase.trains)


@pytest.mark.parametrize("phase", list(PHASES.values()), ids=list(PHASES))
def test_the_loss_is_the_weighted_sum_of_the_phases_terms(phase) -> None:
    config = MotionConfig(phase_weights={"mask_init": LossWeights(mask_sparsity=0.002)})
    plane = torch.tensor([[0.0, 0.0, 0.2]])
    result = compute_losses(
        stored(2), triplets(2), phase, 0.25, config, torch.Generator(), ground_plane=plane
    )
    assert set(result) == {"loss", *phase.losses}
    weights = config.weights_of(phase)
    assert weights.mask_sparsity == (0.002 if phase.name == "mask_init" else 0.04)
    expected = sum(
        getattr(weights, name) * (0.25 if name in RAMPED else 1) * result[name]
        for name in phase.losses
    )
    torch.testing.assert_close(result["loss"], expected)


def test_a_term_without_weight_is_left_out() -> None:
    weights = LossWeights(above_ground=0.0, mask_smoothness=0.0)
    result = compute_losses(
        stored(), triplets(), PHASES["fine_tune"], 1.0, MotionConfig(weights=weights)
    )
    assert set(TERMS) - set(result) == {"above_ground", "mask_smoothness"}


def test_randomness_follows_the_generator() -> None:
    config = MotionConfig(tie_break=0.1)
    phase, batch = PHASES["disp_init"], triplets()
    first, again, other = (
        compute_losses(stored(), batch, phase, 1.0, config, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first["loss"] == again["loss"]
    assert first["loss"] != other["loss"]


def test_only_the_wanted_scales_count() -> None:
    model, batch = stored(), triplets()
    coarse = torch.full((1, 1, HEIGHT // 2, WIDTH // 2), 0.9)
    alone = compute_losses(
        model, batch, PHASES["disp_init"], 1.0, MotionConfig(tie_break=0), torch.Generator()
    )
    model.disparities.append(coarse)
    config = MotionConfig(tie_break=0, loss_scales=(0,))
    wanted = compute_losses(model, batch, PHASES["disp_init"], 1.0, config)
    assert torch.equal(alone["loss"], wanted["loss"])
    both = motion_fields(model, batch, PHASES["disp_init"], MotionConfig())
    assert list(both.scales) == [0, 1]
    assert both.finest is both.scales[0]
    assert both.scales[1].depth.shape == (1, 1, HEIGHT, WIDTH)


# --- terms ----------------------------------------------------------------------------------------


def test_photometric_error_takes_the_better_neighbour_of_every_pixel() -> None:
    images = noise(1, 3, 3, HEIGHT, WIDTH)
    centre = images[:, 1]
    warped = torch.stack([images[:, 0], images[:, 2]], 1)
    warped[:, 0, ..., : WIDTH // 2] = centre[..., : WIDTH // 2]
    warped[:, 1, ..., WIDTH // 2 :] = centre[..., WIDTH // 2 :]
    mixed = photometric(warped, images)
    worst = photometric(images[:, ::2], images)
    assert mixed < 0.25 * worst


def test_automasking_ignores_what_stands_still_in_the_image() -> None:
    images = noise(1, 1, 3, HEIGHT, WIDTH).expand(-1, 3, -1, -1, -1)
    warped = noise(1, 2, 3, HEIGHT, WIDTH, seed=1)
    assert photometric(warped, images) > 0.1
    assert photometric(warped, images, automask=True) < 1e-6


def test_the_pyramid_adds_the_error_of_pooled_images() -> None:
    centre = noise(1, 3, 4, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = torch.stack([centre] * 3, 1)
    warped = torch.stack([centre.roll(4, -1)] * 2, 1)
    plain = photometric(warped, images)
    both = photometric(warped, images, pyramid=(2, 4))
    pooled = [
        geometry.resize(
            geometry.photometric_error(
                *(nn.functional.avg_pool2d(image, factor) for image in (warped[:, 0], centre))
            ),
            centre.shape[-2:],
        ).mean()
        for factor in (2, 4)
    ]
    torch.testing.assert_close(both, plain + sum(pooled))


def test_the_pyramid_counts_in_every_phase() -> None:
    pyramid = MotionConfig(tie_break=0.0, photometric_pyramid=(2,))
    for phase in PHASES.values():
        plain, pooled = (
            compute_losses(stored(), triplets(), phase, 1.0, config)["photometric"]
            for config in (MotionConfig(tie_break=0.0), pyramid)
        )
        assert pooled > plain


def test_points_under_the_ground_are_penalised_and_those_above_are_not() -> None:
    inv_K = torch.inverse(camera())
    plane = torch.tensor([[0.0, 0.0, 1.5]])
    floor, seen = geometry.ground_disparity(plane, inv_K, (HEIGHT, WIDTH), 0.5, 100.0)
    assert above_ground(floor, inv_K, 0.5, 100.0, plane=plane) == 0
    assert above_ground(floor + 0.1, inv_K, 0.5, 100.0, plane=plane) == 0
    under = (floor - 0.01).requires_grad_()
    loss = above_ground(under, inv_K, 0.5, 100.0, plane=plane)
    loss.backward()
    assert under.grad is not None
    assert (under.grad[seen] <= 0).all()
    assert (under.grad < 0).any()
    assert (under.grad[~seen] == 0).all()


def test_the_ground_is_found_among_the_lowest_points() -> None:
    inv_K = torch.inverse(camera())
    plane = torch.tensor([[0.0, 0.0, 1.5]])
    floor, _ = geometry.ground_disparity(plane, inv_K, (HEIGHT, WIDTH), 0.5, 100.0)
    sunk = floor.clone()
    sunk[..., 16:20, 10:14] *= 0.5  # a hole in the road
    generator = torch.Generator().manual_seed(0)
    found = above_ground(sunk, inv_K, 0.5, 100.0, generator=generator)
    known = above_ground(sunk, inv_K, 0.5, 100.0, plane=plane)
    assert known > 0
    torch.testing.assert_close(found, known, rtol=0.02, atol=0)


def test_consistency_holds_near_static_points_alone() -> None:
    residual = torch.ones(1, 2, 3, 1, 4)
    mask = torch.tensor([0.0, 0.0, 1.0, 0.5]).view(1, 1, 1, 4).requires_grad_()
    disparity = torch.tensor([0.5, 0.01, 0.5, 0.5]).view(1, 1, 1, 4)
    loss = losses.flow_consistency(residual, mask, disparity, 0.03)
    assert loss.item() == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert not loss.requires_grad  # the mask does not grow to please it


def test_sparsity_silences_the_mask_where_ego_motion_explains_the_flow() -> None:
    logit = torch.zeros(1, 1, 4, 4, requires_grad=True)
    ego = torch.zeros(1, 2, 2, 4, 4)
    complete = ego.clone()
    complete[..., 0, :] = 2.0  # the first row moves by itself
    loss = losses.mask_sparsity(logit, ego, complete)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert logit.grad is not None
    assert (logit.grad[0, 0, 0] == 0).all()
    torch.testing.assert_close(logit.grad[0, 0, 1:], torch.full((3, 4), 0.5 / 12))


def test_sparsity_without_any_flow_is_finite() -> None:
    coordinates = torch.zeros(1, 2, 2, 4, 4)
    assert losses.mask_sparsity(torch.zeros(1, 1, 4, 4), coordinates, coordinates) == 0


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"motion_input": "bent"}, "motion_input.*bent.*warped"),
        ({"flow_parametrisation": "x"}, "flow_parametrisation"),
        ({"min_depth": 200.0}, "min_depth"),
        ({"phase_weights": {"warm_up": LossWeights()}}, "warm_up.*disp_init"),
    ],
)
def test_a_setting_that_makes_no_sense_is_explained(change: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        replace(MotionConfig(), **change)
