"""Post-processing of slots, equal to the reference's on every case, and what it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduv.engine.files import read_json
from moduv.naming.contacts import (
    Prompts,
    association,
    contacts,
    mask_logits,
    merge,
    post_process,
    token_boxes,
)

CASES = [
    *("neighbours", "apart", "all", "nothing", "leaves", "corners", "time", "chain"),
    *("background_prompt", "norms", "random"),
]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden/naming"


@pytest.fixture(scope="module")
def prompts(golden: Path) -> Prompts:
    content = read_json(golden / "post_prompts.json")
    names = [prompt.removeprefix("a photo of ") for prompt in content["foreground_prompts"]]
    vectors = np.load(golden / "post_text.npz")
    found = Prompts(vectors["all"], np.array(content["class_index"]), tuple(names))
    named = found.classes < len(names)
    assert np.array_equal(found.vectors[named], vectors["foreground"])
    assert np.flatnonzero(named & (found.classes > 0)).tolist() == content["foreground"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_the_references(name: str, golden: Path, prompts: Prompts) -> None:
    expected: dict[str, Any] = read_json(golden / "post.json")[name]
    arrays = np.load(golden / f"post_{name}.npz")
    found = post_process(
        arrays["alphas"], arrays["patch_features"], prompts, arrays["hard"].shape[1:]
    )
    assert np.array_equal(found.hard, arrays["hard"])
    assert arrays["alphas"].shape[1] == expected["slots"]
    assert len(found.kept) == expected["masks_before_merging"]
    assert len(found.merged) == expected["masks_after_merging"]
    assert found.nodes == expected["nodes"]
    assert [list(edge) for edge in found.edges] == expected["edges"]
    assert found.kept == expected["kept"]
    assert found.removed == expected["removed"]
    assert found.groups == expected["groups"]
    assert found.names == expected["names"]
    assert np.array_equal(found.merged, arrays["merged"])
    assert np.array_equal(found.boxes, arrays["boxes"])
    largest = np.abs(arrays["logits"]).max()
    assert np.allclose(found.logits, arrays["logits"], atol=1e-4 * largest)
    assert np.allclose(found.class_scores, arrays["class_scores"], atol=1e-5)
    assert np.allclose(found.name_scores, expected["name_scores"], atol=1e-5)


def test_boxes_and_logits_of_masks(golden: Path) -> None:
    boxes = np.load(golden / "boxes.npz")
    assert np.array_equal(token_boxes(boxes["masks"], patch=1), boxes["boxes"])
    text = np.load(golden / "text_matching.npz")
    patches = np.load(golden / "patch_clip_small.npz")["patch_features"].reshape(-1, 32)
    logits = mask_logits(text["masks"].astype(np.float32) @ patches, text["text"])
    assert np.allclose(logits, text["logits"], atol=1e-4 * np.abs(text["logits"]).max())


def test_a_class_is_as_likely_as_its_likeliest_prompt(golden: Path) -> None:
    content = read_json(golden / "synonyms.json")
    classes = np.zeros(len(content["logits"]), int)
    for number, prompts in enumerate(content["prompts_per_class"]):
        classes[prompts] = number
    names = tuple(map(str, range(len(content["prompts_per_class"]))))
    found = Prompts(np.zeros((3, 1)), classes, names).class_logits(np.array([content["logits"]]))
    assert np.allclose(found, [content["class_logits"]])


def test_seeds_agree_as_often_as_they_do(golden: Path) -> None:
    seeds = np.load(golden / "seeds.npz")
    assert np.allclose(association(seeds["alphas"]), seeds["association"])


@given(st.integers(0, 10_000))
def test_contacts_are_those_of_the_definition(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (2, 3, 3))
    expected = set()
    for place in np.ndindex(labels.shape):
        for other in np.ndindex(labels.shape):
            step = np.subtract(other, place)
            if ((step == 0) | (step == 1)).all() and labels[place] != labels[other]:
                expected.add(tuple(sorted((int(labels[place]), int(labels[other])))))
    assert contacts(labels) == sorted(expected)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_merging_joins_what_is_connected(pairs: list[tuple[int, int]]) -> None:
    groups = {row: {row} for row in range(8)}
    for a, b in pairs:
        joined = groups[a] | groups[b]
        for row in joined:
            groups[row] = joined
    expected = sorted({tuple(sorted(group)) for group in groups.values()})
    assert merge(range(8), pairs) == [list(group) for group in expected]
