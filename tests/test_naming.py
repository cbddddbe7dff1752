"""Naming: vocabularies, views, thresholds, groups, and what becomes of the files."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naming_world import COLOURS, ColourEncoder, direction, draw

from moduv.engine.errors import InputError
from moduv.instances import rle
from moduv.naming.describe import NamingConfig, Seen, name_objects
from moduv.naming.encoders import unit
from moduv.naming.groups import Prototype, describe_groups, group_unknown, silhouette
from moduv.naming.names import NamesConfig, calibrate, name_tracks, pool_tracks
from moduv.naming.regions import choose_views, crop_object
from moduv.naming.vocabulary import Name, Vocabulary, vocabulary_names


def vocabulary(*names: str, **kinds: str) -> Vocabulary:
    entries = [Name(name, kind=kinds.get(name, "mobile")) for name in names]
    return Vocabulary(tuple(entries), ("a photo of a {}",))


def vectors(*colours: str) -> np.ndarray:
    return np.array([direction(COLOURS[colour]) for colour in colours])


# Vocabularies


def test_a_file_says_names_synonyms_kinds_and_templates(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(
        "templates: ['a {} here']\nnames:\n  car: {also: [auto_mobile]}\n  Straßenbahn:\n  road: {kind: stuff}\n"
    )
    words = Vocabulary.load(path)
    assert [(n.name, n.words, n.kind) for n in words.names] == [
        ("car", ("car", "auto_mobile"), "mobile"),
        ("Straßenbahn", ("Straßenbahn",), "mobile"),
        ("road", ("road",), "stuff"),
    ]
    assert words.templates == ("a {} here",)
    assert words.digest == Vocabulary.load(path).digest
    path.write_text("names: {car: {also: [auto_mobile]}}")
    assert Vocabulary.load(path).digest != words.digest


def test_the_vocabularies_of_the_package_load() -> None:
    for name in vocabulary_names():
        kinds = {entry.kind for entry in Vocabulary.load(name).names}
        assert {"mobile", "stuff"} <= kinds


def test_the_vocabulary_of_the_documentation_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/naming.md").read_text()
    text = page.partition("```yml\n")[2].partition("```")[0]
    (tmp_path / "words.yaml").write_text(text)
    assert len(Vocabulary.load(tmp_path / "words.yaml").names) == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "vocabulary is empty"),
        ("names: {}", "vocabulary is empty"),
        ("names: [car]", "vocabulary is empty"),
        ("names: {car: , car: }", "'car' occurs twice"),
        ("names: {car: {also: [bus]}, bus: }", "'bus' stands for 'car' and for 'bus'"),
        ("names: {a_b: , a b: }", "'a b' stands for"),
        ("names: {car: {kind: moving}}", "kind 'moving'"),
        ("names: {car: {colour: red}}", "write a word"),
        ("names: {7: }", "write a word"),
        ("names: {'': }", "empty word"),
        ("names: {car: }\ntemplates: [a photo]", r"one \{\} each"),
        ("names: {car: }\ntemplates: ['a {} of {name}']", r"one \{\} each"),
        ("names: {car: }\ntemplates: ['a } {}']", r"one \{\} each"),
        ("names: {car: , Car: }", "'Car' stands for 'car' and for 'Car'"),
        ("names: {caf\u00e9: , cafe\u0301: }", "stands for"),
        ("names: {car: }\nkinds: 3", "unknown key 'kinds'"),
        ("names: {car: &a [x], bus: *a}", "aliases"),
        ("names: {car", "not valid YAML"),
    ],
)
def test_broken_vocabularies_are_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)


def test_a_long_vocabulary_is_read_at_once_under_any_suffix(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(20_000)]
    (tmp_path / "words.YAML").write_text("names: {" + ": , ".join(names) + ": }")
    assert len(Vocabulary.load(tmp_path / "words.YAML").names) == len(names)


def test_a_name_is_as_likely_as_its_likeliest_word_and_templates_are_averaged() -> None:
    entries = (Name("red", ("blue",)), Name("green"))
    words = Vocabulary(entries, ("{}", "a green {}")).encode(ColourEncoder())
    cosines = words.cosines(vectors("blue", "red", "green"))
    assert np.allclose(cosines.max(1), 1)
    assert cosines.argmax(1).tolist() == [0, 0, 1]


@given(st.permutations(list(COLOURS)), st.integers(1, 5))
def test_other_names_and_their_order_change_no_cosine(order: list[str], count: int) -> None:
    some, encoder = order[:count], ColourEncoder()
    seen = vectors("red", "grey")
    alone = vocabulary(*some).encode(encoder).cosines(seen)
    among = vocabulary(*order).encode(encoder).cosines(seen)
    assert np.allclose(alone, among[:, :count], atol=1e-12)
    assert len(vocabulary(some[0]).encode(encoder).names) == 1


# Views


def test_views_are_spread_whole_and_large() -> None:
    frames = list(range(12))[::-1]
    boxes = np.tile([10.0, 10, 20, 20], (12, 1))
    boxes[0] = [0, 10, 20, 20]  # frame 11 touches the edge
    areas = [10, 5, 9, 20, 3, 4, 0, 8, 7, 6, 5, 30]
    chosen = choose_views(frames, boxes, areas, [(60, 80)] * 12, limit=3)
    assert [frames[n] for n in chosen] == [0, 7, 8] or [frames[n] for n in chosen] == [0, 8, 9]
    assert choose_views(frames[:2], boxes[:2], [1, 0], [(60, 80)] * 2) == [0]
    assert choose_views([], np.zeros((0, 4)), [], []) == []


def test_a_crop_shows_the_object_and_dims_what_is_around_it() -> None:
    image, (red, _) = draw([("red", 20, 20), ("green", 32, 20)])
    crop = crop_object(image, red, (20, 20, 32, 32), 14)
    assert np.abs(crop[4:10, 4:10].astype(int) - COLOURS["red"]).max() < 6
    mean = image.reshape(-1, 3).mean(0)
    half = (np.array(COLOURS["green"]) + mean) / 2
    assert np.abs(crop[4:10, -1] - half).max() < 40
    corner = crop_object(image, red, (-12, -12, 12, 12), 14)
    assert np.abs(corner[0, 0] - mean).max() <= 1


# Names


def test_names_stuff_and_the_unknown() -> None:
    words = vocabulary("red", "green", "grey", grey="stuff").encode(ColourEncoder())
    seen = vectors("red", "grey", "blue")
    found, threshold = name_tracks([5, 6, 7], seen, words, config=NamesConfig(threshold=0.9))
    assert threshold == 0.9
    assert [(one.track, one.name, one.group) for one in found] == [
        (5, "red", None),
        (6, None, "grey"),
        (7, None, "group_01"),
    ]
    assert found[0].score == pytest.approx(1)
    cosines = sorted(words.cosines(seen)[0])
    assert found[0].margin == pytest.approx(cosines[-1] - cosines[-2])


def test_the_threshold_is_where_tracks_fit_other_names() -> None:
    words = vocabulary("red", "green", "blue").encode(ColourEncoder())
    cosines = words.cosines(vectors("red", "red", "green", "blue", "yellow"))
    kinds = ["mobile"] * 3
    others = np.sort(cosines, 1)[:, -2]
    best = cosines.argmax(1)
    expected = np.mean([np.quantile(others[best == n], 0.5) for n in range(3)])
    assert calibrate(cosines, kinds) == pytest.approx(expected)
    assert calibrate(cosines, ["stuff"] * 3) == -1
    assert calibrate(cosines[:, :1], kinds[:1]) == -1
    assert calibrate(np.zeros((0, 3)), kinds) == -1


def test_a_struck_name_becomes_unknown_and_its_prototype_names_it() -> None:
    seen = unit(vectors(*["red"] * 4, *["green"] * 4, *["blue"] * 4))
    words = vocabulary("red", "green", "yellow").encode(ColourEncoder())
    found, _ = name_tracks(range(12), seen, words)
    assert [one.name for one in found] == ["red"] * 4 + ["green"] * 4 + [None] * 4
    assert {one.group for one in found[8:]} == {"group_01"}
    like = Prototype("robot", direction(COLOURS["blue"]), 0.99)
    found, _ = name_tracks(range(12), seen, words, [like])
    assert [one.name for one in found[8:]] == ["robot"] * 4
    assert [one.name for one in found[:8]] == ["red"] * 4 + ["green"] * 4


def test_tracks_are_weighted_means_and_nothing_is_no_track() -> None:
    pooled = pool_tracks(np.eye(3), np.array([0, 0, 1]), np.array([3.0, 1, 1]))
    assert np.allclose(pooled, [unit(np.array([3.0, 1, 0])), [0, 0, 1]])
    words = vocabulary("red").encode(ColourEncoder())
    assert name_tracks([], np.zeros((0, 4)), words) == ([], -1.0)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_groups_are_found_whatever_their_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    centres = np.eye(8)[:count]
    owners = np.repeat(np.arange(count), [5 + 2 * n for n in range(count)])
    seen = unit(centres[owners] + 0.05 * rng.normal(size=(len(owners), 8)))
    order = rng.permutation(len(owners))
    groups = np.array(group_unknown(seen[order]))
    for n in range(count):
        assert set(groups[owners[order] == n]) == {f"group_{count - n:02d}"}


def test_the_silhouette_is_that_of_its_definition() -> None:
    points = np.array([0.0, 1, 10, 11, 30])
    distances = np.abs(points[:, None] - points)
    value = silhouette(distances, np.array([0, 0, 1, 1, 2]))
    parts = [1 - 1 / 10.5, 1 - 1 / 9.5, 1 - 1 / 9.5, 1 - 1 / 10.5, 0]
    assert value == pytest.approx(np.mean(parts))
    assert silhouette(distances, np.zeros(5, int)) == 0
    assert group_unknown(np.eye(3)[:1]) == ["group_01"]


def test_a_group_is_described_from_its_medoid_outwards() -> None:
    seen = unit(np.array([[1, 0.5], [1, 0.1], [1, 0.0], [0, 1]]))
    found = describe_groups(["g", "g", "g", None], seen, [7, 8, 9, 10])
    assert found["g"]["tracks"] == [8, 9, 7]
    assert found["g"]["least"] <= (seen[:3] @ np.array(found["g"]["vector"])).min()


# Objects in images


def seen_in(images: dict[str, list[tuple[str, int, int]]]) -> tuple[list[Seen], dict[str, Any]]:
    """Objects of each image by colour and place; the place among them is the track."""
    seen, pictures = [], {}
    for frame, (key, objects) in enumerate(images.items()):
        pictures[key], masks = draw(objects)
        for track, ((_, left, top), mask) in enumerate(zip(objects, masks, strict=True)):
            seen.append(Seen(key, frame, track, mask, (left, top, left + 12, top + 12)))
    return seen, pictures


def test_a_track_has_one_name_and_no_view_is_encoded_in_vain() -> None:
    objects = {str(n): [("red", 5 + n, 5), ("blue", 40, 30)] for n in range(20)}
    objects["7"] = [("blue", 5, 5), ("blue", 40, 30)]
    seen, pictures = seen_in(objects)
    asked: list[Hashable] = []

    def frames(keys: list[Hashable]) -> Iterator[tuple[Hashable, np.ndarray]]:
        for key in reversed(keys):
            asked.append(key)
            yield key, pictures[str(key)]

    encoder = ColourEncoder()
    naming = name_objects(seen, frames, vocabulary("red", "blue", "green"), encoder)
    assert [naming.names[n].name for n in (0, 1)] == ["red", "blue"]
    assert encoder.seen == 16
    assert len(asked) == len(set(asked)) <= 16
    assert naming.header["encoder"] == encoder.identity


def test_objects_without_a_pixel_have_no_name() -> None:
    empty = rle.encode(np.zeros((60, 80), bool))
    naming = name_objects(
        [Seen("a", 0, 1, empty, (0, 0, 0, 0))],
        lambda keys: [],
        vocabulary("red"),
        ColourEncoder(),
    )
    assert naming.names == {}
    assert name_objects([], lambda keys: [], vocabulary("red"), ColourEncoder()).groups == {}


# Settings


def test_settings_out_of_range_are_refused() -> None:
    for config in (lambda: NamingConfig(views=0), lambda: NamesConfig(quantile=2)):
        with pytest.raises(InputError):
            config()
