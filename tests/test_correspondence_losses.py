"""Losses of dense correspondences: the reference's numbers and gradients, and what must hold on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_golden import expected, filled_net, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moduv.correspondence.losses import (
    LossConfig,
    align,
    contrastive_loss,
    correspondence_losses,
    grid,
    pseudo_labels,
    sample,
    self_training_loss,
)
from moduv.correspondence.network import CorrespondenceNet
from moduv.correspondence.train import (
    CorrespondenceConfig,
    ScheduleConfig,
    clip_losses,
    parameter_groups,
)
from moduv.engine.loop import make_optimizer


def golden_batch(shared: Path) -> dict[str, Tensor]:
    """The reference's batch; its offsets as draws, in shares of the distance between positions."""
    case = golden(shared, "losses")
    side = case["main_view"].shape[2] // 8
    distances = [side // 8, side // 8, side // 4, side // 4]
    draws = [
        (case[f"anchor_offset_{n}"].ravel() + 0.5) / distance
        for n, distance in enumerate(distances)
    ]
    return {
        "main": torch.from_numpy(case["main_view"]).movedim(-1, -3),
        "second": torch.from_numpy(case["second_view"]).movedim(-1, -3),
        "affine": torch.from_numpy(case["affine"][:, 0]),
        "draws": torch.tensor(np.stack(draws, 1), dtype=torch.float32),
    }


def gradient_norms(net: CorrespondenceNet, names: list[str]) -> dict[str, float]:
    parameters = dict(net.named_parameters())
    gradients = {name: parameters[name].grad for name in names}
    return {name: float(g.norm()) for name, g in gradients.items() if g is not None}


def test_losses_gradients_and_statistics_are_the_references(shared: Path) -> None:
    net, numbers = filled_net(shared).train(), expected(shared, "losses")
    losses = clip_losses(net, golden_batch(shared), LossConfig())
    losses["loss"].backward()
    found = {name: value.item() for name, value in losses.items()}
    found["main"] = found.pop("loss")
    assert found == pytest.approx(numbers["losses"], rel=1e-3)
    norms = gradient_norms(net, [*numbers["gradient_norms"]])
    assert norms == pytest.approx(numbers["gradient_norms"], rel=1e-2)
    for key, value in golden(shared, "losses").items():
        if key.startswith("after_"):
            state = net.state_dict()[key.removeprefix("after_")]
            assert np.allclose(state.numpy(), value, atol=1e-5)


@pytest.mark.slow
def test_training_steps_are_the_references(shared: Path) -> None:
    case = expected(shared, "more_training_steps")
    net, batch = filled_net(shared).train(), golden_batch(shared)
    schedule = ScheduleConfig(optimizer="sgd", learning_rate=1e-3)
    optimizer = make_optimizer(net, schedule.loop(16), parameter_groups)
    optimizer.param_groups[1]["lr"] *= optimizer.param_groups[1]["scale"]
    # The argmax of the pseudo-labels amplifies rounding from the second step on.
    for step, numbers in enumerate(case["steps"]):
        optimizer.zero_grad()
        losses = clip_losses(net, batch, LossConfig())
        losses["loss"].backward()
        found = {"main": losses["loss"].item(), "temp": losses["temp"].item()}
        wanted = {name: numbers["losses"][name] for name in found}
        assert found == pytest.approx(wanted, rel=3e-2 if step else 1e-3)
        norms = gradient_norms(net, [*numbers["gradient_norms"]])
        assert norms == pytest.approx(numbers["gradient_norms"], rel=0.15 if step else 1e-2)
        optimizer.step()
    for name, (_, norm) in case["after_sum_and_norm"].items():
        assert float(net.state_dict()[name].norm()) == pytest.approx(norm, rel=5e-3)


def test_grids_are_the_references(shared: Path) -> None:
    case = golden(shared, "more_sampling")
    for number, size in enumerate(expected(shared, "more_sampling")["anchors"]):
        height, width, count = size["H"], size["W"], size["N"]
        columns, rows = (case[f"offset_{axis}_{number}"].ravel() for axis in ("columns", "rows"))
        draws = np.stack([(columns + 0.5) / (width // count), (rows + 0.5) / (height // count)], 1)
        found = grid(height, width, count, torch.tensor(draws))
        assert np.array_equal(found.unflatten(1, (count, count)).numpy(), case[f"index_{number}"])


@given(st.integers(1, 45), st.integers(1, 45), st.integers(1, 9), st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_any_grid_lies_inside_any_map(height: int, width: int, count: int, share: float) -> None:
    indices = grid(height, width, count, torch.full((1, 2), share, dtype=torch.float64))[0]
    assert len(indices) == min(count, height) * min(count, width) == len(indices.unique())
    assert 0 <= int(indices.min()) <= int(indices.max()) < height * width
    rows = (indices // width).unique()
    if len(rows) > 1:  # evenly spread, as whole cells allow
        assert int(rows.diff().max()) - int(rows.diff().min()) <= 1


def keys(*shape: int, seed: int = 0) -> Tensor:
    """Random features of unit length, channels at -3."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-3)


def test_resampled_features_have_the_resampled_affinities() -> None:
    features, anchors = keys(2, 3, 8, 12, 20), keys(5, 8, 1, 1)[..., 0, 0]
    affine = torch.tensor([[[-0.7, 0, 0.2], [0, 0.7, -0.1]], [[1.6, 0, 0], [0, 1.6, 0.3]]])
    affinities = torch.einsum("btchw,nc->btnhw", features, anchors)
    ours = torch.einsum("btchw,nc->btnhw", align(features, affine), anchors)
    assert torch.allclose(ours, align(affinities, affine), atol=1e-6)


def test_pseudo_labels_are_the_softmax_over_all_without_other_videos() -> None:
    second, first = keys(3, 2, 8, 6, 7), keys(3, 8, 6, 7, seed=1)
    own = sample(first, grid(6, 7, 2, torch.zeros(3, 2)))
    everything = torch.einsum("btchw,nc->btnhw", second, own.flatten(0, 1)).div(0.05).softmax(2)
    for video in range(3):
        masked = torch.zeros_like(everything[video])
        masked[:, 4 * video : 4 * video + 4] = everything[video, :, 4 * video : 4 * video + 4]
        assert torch.equal(pseudo_labels(second, own)[video] + 4 * video, masked.argmax(1))


def test_views_that_agree_have_smaller_losses_than_views_that_do_not() -> None:
    main = keys(2, 3, 16, 12, 13)
    main = main[:, :1].expand_as(main)  # nothing moves
    identity = torch.eye(2, 3).expand(2, 2, 3)
    draws = torch.full((2, 4), 0.3)
    same = correspondence_losses(main, main, identity, draws)
    other = correspondence_losses(main, keys(2, 3, 16, 12, 13, seed=5), identity, draws)
    assert same["cross_key"] < 0.1 * other["cross_key"]
    assert same["temp"] < other["temp"]
    assert same["loss"] == pytest.approx(float(same["temp"] + 0.1 * same["cross_key"]))


def test_what_the_losses_are() -> None:
    aligned, anchors = keys(1, 2, 4, 3, 3), keys(6, 4, 1, 1)[..., 0, 0]
    labels = torch.arange(18).reshape(1, 2, 3, 3) % 6
    logits = torch.einsum("btchw,nc->btnhw", aligned, anchors) / 0.1
    chosen = logits.log_softmax(2).gather(2, labels[:, :, None])
    found = self_training_loss(aligned, anchors, labels, 0.1)
    assert float(found) == pytest.approx(-float(chosen.mean()), rel=1e-5)
    ours, theirs = anchors[None, :3], anchors
    logits = (anchors[:3] @ anchors.t() / 0.1).log_softmax(1)
    found = contrastive_loss(ours, theirs, 0, 0.1)
    assert float(found) == pytest.approx(-float(logits.diagonal().mean()), rel=1e-5)


def test_the_second_views_later_frames_pass_without_gradients() -> None:
    config = CorrespondenceConfig()
    torch.manual_seed(0)
    net = CorrespondenceNet().train()
    batch = {
        "main": torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8),
        "second": torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8),
        "affine": torch.eye(2, 3).expand(2, 2, 3),
        "draws": torch.rand(2, 4),
    }
    seen: list[bool] = []
    net.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    clip_losses(net, batch, config.losses)["loss"].backward()
    assert seen == [True, False]
    assert int(net.state_dict()["fast_net.backbone.bn1.num_batches_tracked"]) == 2
