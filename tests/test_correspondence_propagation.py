"""Masks are carried as by the reference, for any number of objects and from any frame on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moduv.correspondence import neighbours, propagation
from moduv.correspondence.propagation import Memory, PropagationConfig, first_planes, propagate
from moduv.engine.errors import InputError

CASES = (
    *("propagate_late_object", "propagate_long", "propagate_nothing", "propagate_small_radius"),
    *("propagate_tiny_object", "propagate_two_late", "propagate_two_objects", "more_one_pixel"),
    *("more_two_starts", "more_over_another", "more_empty_first", "more_disappears", "more_radius"),
)
MARGIN = 1e-4
"""Between the two likeliest planes, below which rounding decides."""


def features(seed: int, frames: int, height: int, width: int, channels: int = 16) -> Tensor:
    """Features of a scene that changes slowly."""
    random = torch.Generator().manual_seed(seed)
    scene = torch.randn(channels, height, width, generator=random)
    change = 0.4 * torch.randn(frames, channels, height, width, generator=random)
    return F.normalize(scene + change, dim=1)


def likeliest(feats: Tensor, first: dict[int, Tensor], size: tuple[int, int], told: dict) -> Tensor:
    """The planes (T, 2, H, W) of the two likeliest indices."""
    config = PropagationConfig(told["context"], told["radius"], told["top_k"], told["temperature"])
    memory = Memory(len(first[0]), config)
    planes = torch.stack([memory.advance(f, first.get(t)) for t, f in enumerate(feats)])
    return F.interpolate(planes, size, mode="bilinear", align_corners=True).topk(2, dim=1)[0]


@pytest.mark.parametrize("name", CASES)
def test_indices_are_the_references(name: str, shared: Path) -> None:
    folder = shared / "golden/correspondence"
    told = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as case:
        arrays = dict(case)
    feats, size = torch.from_numpy(arrays["features"]), tuple(told["size"])
    starts = [key for key in arrays if key.startswith("init_")]
    first = {int(key[5:]): torch.from_numpy(arrays[key]).float() for key in starts}
    names = ("context", "radius", "top_k", "temperature")
    indices, confidence = propagate(feats, first, size, **{key: told[key] for key in names})
    best = likeliest(feats, first, size, told)
    clear = (best[:, 0] - best[:, 1] > MARGIN).numpy()
    assert (indices.numpy() == arrays["ids"])[clear].all()
    assert (indices.numpy() == arrays["ids"]).mean() > 0.9995  # the context is rounded to 16 bits
    # The reference's confidence is stored in half precision.
    assert np.abs(confidence.numpy() - arrays["confidence"].astype(np.float32)).max() < 2e-3


@pytest.mark.parametrize("radius", [1, 3, 3.5, 12, None])
@pytest.mark.parametrize(("height", "width"), [(9, 21), (3, 2), (17, 5)])
def test_windows_in_blocks_find_what_all_pixels_and_a_mask_find(
    height: int, width: int, radius: float | None
) -> None:
    query, key = features(1, 2, height, width).movedim(1, -1)
    rows, columns = np.divmod(np.arange(height * width), width)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    cosines = query.reshape(-1, 16) @ key.reshape(-1, 16).T
    if radius is not None:
        cosines[torch.from_numpy(apart >= radius)] = -torch.inf
    missing = max(0, 10 - height * width)
    wanted = F.pad(cosines.sort(1, descending=True)[0][:, :10], (0, missing), value=-torch.inf)
    for search in (neighbours._search_blocks, neighbours._search_strips):
        values, places = search(query.contiguous(), [key.contiguous()], 10, radius)
        # Products of other shapes add in another order.
        torch.testing.assert_close(values.sort(1, descending=True)[0], wanted, atol=1e-6, rtol=0)
        found = cosines.gather(1, places)
        finite = values.isfinite()
        torch.testing.assert_close(values[finite], found[finite], atol=1e-6, rtol=0)


@pytest.mark.parametrize("radius", [2.5, None])
def test_frames_searched_together_yield_the_best_of_all(radius: float | None) -> None:
    query, *keys = features(4, 4, 7, 10).movedim(1, -1).contiguous()
    alone = [neighbours.most_similar(query, [key], 6, radius) for key in keys]
    cosines = torch.cat([one.cosines for one in alone], 1)
    places = torch.cat([one.places + 70 * n for n, one in enumerate(alone)], 1)
    wanted, chosen = cosines.topk(6)
    for search in (neighbours._search_blocks, neighbours._search_strips):
        values, found = search(query, keys, 6, radius)
        order = values.argsort(1, descending=True)
        torch.testing.assert_close(values.gather(1, order), wanted, atol=1e-6, rtol=0)
        assert torch.equal(found.gather(1, order), places.gather(1, chosen))


def rounded(feature: Tensor) -> neighbours.Rounded:
    height, width, channels = feature.shape
    kept = neighbours.Rounded(
        torch.empty(height, width, channels, dtype=torch.int16), torch.empty(height, width, 1)
    )
    kept.fill(feature)
    return kept


def test_rounded_features_find_what_whole_ones_find_at_half_the_memory() -> None:
    query, key = features(5, 2, 9, 11, channels=256).movedim(1, -1)
    key[3, 4] = 0
    kept = rounded(key)
    assert kept.numbers.nbytes + kept.scale.nbytes < 0.51 * key.nbytes
    torch.testing.assert_close(kept.restored().square().sum(-1)[:3], torch.ones(3, 11))
    assert not kept.restored()[3, 4].any()
    plain = neighbours.most_similar(query, [key], 10, 4)
    found = neighbours.most_similar(rounded(query), [kept], 10, 4)
    wanted, cosines = (one.cosines.sort(1)[0] for one in (plain, found))
    torch.testing.assert_close(cosines, wanted, atol=2e-5, rtol=0)
    same = (plain.places.sort(1)[0] == found.places.sort(1)[0]).all(1)
    assert same.float().mean() > 0.95


def test_frames_of_another_size_are_refused() -> None:
    query, key = torch.ones(4, 6, 8), torch.ones(6, 4, 8)
    with pytest.raises(InputError, match="give frames of one size"):
        neighbours.most_similar(query, [query, key], 3, 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 5), st.integers(1, 12))
def test_the_size_of_blocks_changes_nothing(seed: int, block: int, radius: int, count: int) -> None:
    query, key = features(seed, 2, 11, 13).movedim(1, -1).contiguous()
    wanted = neighbours.most_similar(query, [key], count, radius).cosines
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        patch.setattr(neighbours, "ROWS", block)
        values = neighbours.most_similar(query, [key], count, radius).cosines
        whole = neighbours.most_similar(query, [key], count, None).cosines
    torch.testing.assert_close(values.sort(1)[0], wanted.sort(1)[0], atol=1e-6, rtol=0)
    everywhere = (query.reshape(-1, 16) @ key.reshape(-1, 16).T).topk(count)[0]
    torch.testing.assert_close(whole.sort(1, descending=True)[0], everywhere, atol=1e-6, rtol=0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.permutations([1, 2, 3, 4]))
def test_permuted_objects_permute_the_indices(seed: int, order: list[int]) -> None:
    feats, random = features(seed, 4, 8, 9), np.random.default_rng(seed)
    first, late = random.integers(0, 3, (32, 36)), random.integers(0, 5, (32, 36))
    renamed = np.array([0, *order])
    size, few = (32, 36), {"context": 2, "radius": 4, "top_k": 3}
    masks = {0: first, 2: late}
    plain, sure = propagate(feats, first_planes(masks), size, **few)
    other, also = propagate(
        feats, first_planes({t: renamed[mask] for t, mask in masks.items()}), size, **few
    )
    torch.testing.assert_close(sure, also, atol=1e-6, rtol=0)
    # Where two indices are equally likely, the lower one is taken.
    same = torch.from_numpy(renamed)[plain.long()] == other
    assert same.float().mean() > 0.98


def test_planes_are_compared_a_few_at_a_time() -> None:
    planes = torch.rand(21, 5, 7, generator=torch.Generator().manual_seed(0))
    planes[20] = planes[3]
    confidence, indices = propagation._likeliest(planes, (11, 13))
    full = F.interpolate(planes[None], (11, 13), mode="bilinear", align_corners=True)[0]
    assert torch.equal(confidence, full.amax(0))
    assert torch.equal(indices.long(), full.argmax(0))


def test_more_objects_than_the_reference_has() -> None:
    mask = np.arange(20).reshape(4, 5).repeat(16, 0).repeat(16, 1)
    indices, _ = propagate(features(3, 3, 8, 10), first_planes({0: mask}), mask.shape)
    assert (indices[-1].numpy() == mask).mean() > 0.6
    assert indices.max() == 19


def test_later_masks_add_what_is_new_and_change_nothing_else() -> None:
    first, late = np.zeros((16, 16), int), np.zeros((16, 16), int)
    first[:8, :8] = 1
    late[:8, 8:], late[8:, 8:], late[0, 0] = 2, 1, 255
    planes = first_planes({3: late, 0: first})
    assert [int(planes[t].sum()) for t in (0, 3)] == [256, 64]
    assert (planes[3][2].numpy() == (late == 2)).all()
    assert first_planes({0: first, 1: first}).keys() == {0}


def test_nothing_given_is_background() -> None:
    indices, confidence = propagate(features(0, 3, 4, 5), {}, (32, 40))
    assert indices.shape == confidence.shape == (3, 32, 40)
    assert not indices.any()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {9: torch.zeros(2, 32, 40)},
            "a mask is given for frame 9, and the clip has frames 0 to 2",
        ),
        ({0: torch.zeros(2, 30, 40)}, r"the mask of frame 0 is \(2, 30, 40\)"),
        ({0: torch.zeros(300, 32, 40)}, "the masks have 299 objects; give at most 254"),
    ],
)
def test_masks_that_do_not_fit_are_one_sentence(given: dict[int, Tensor], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        propagate(features(0, 3, 4, 5), given, (32, 40))


def test_frames_of_two_sizes_are_one_sentence() -> None:
    memory = Memory(1, PropagationConfig())
    memory.advance(torch.ones(4, 5, 6), None)
    with pytest.raises(InputError, match="frame 1 has features"):
        memory.advance(torch.ones(4, 5, 7), None)


@pytest.mark.parametrize("value", [{"context": 0}, {"radius": 0}, {"top_k": 0}, {"temperature": 0}])
def test_settings_that_mean_nothing_are_one_sentence(value: dict[str, int]) -> None:
    with pytest.raises(InputError, match="use at least one frame"):
        PropagationConfig(**value)
