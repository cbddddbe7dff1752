"""Naming: vocabularies, views, thresholds, groups, and what becomes of the files."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_world import write_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from naming_world import COLOURS, ColourEncoder, direction, draw

from moduv.commands import name as command
from moduv.commands.cli import main
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.video_writer import write_video
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels
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


# Files


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`moduv name` with the encoder of colours."""
    monkeypatch.setattr(command, "load_encoder", lambda spec, device: ColourEncoder())
    words = tmp_path / "words.yaml"
    words.write_text("names: {red: , green: , yellow: , grey: {kind: stuff}}")

    def run(source: Path, images: Path, out: Path, *options: str) -> Any:
        fixed = ["--images", str(images), "--vocabulary", str(words), "--encoder", "open_clip:x:y"]
        main(["name", str(source), *fixed, "--out", str(out), *options])
        return read_json(out / source.name) if source.is_file() else None

    return run


KEYS = ("name", "name_score", "name_margin", "name_group")


def without_names(content: Any) -> Any:
    entries = content if isinstance(content, list) else content["annotations"]
    plain = [{k: v for k, v in entry.items() if k not in KEYS} for entry in entries]
    if isinstance(content, list):
        return plain
    return {k: v for k, v in content.items() if k != "naming"} | {"annotations": plain}


def write_demo(folder: Path) -> dict[str, Any]:
    """What the demo leaves of an image and of a video, in which an object changes its colour once."""
    still, masks = draw([("red", 5, 5), ("blue", 30, 30), ("grey", 55, 5)])
    write_image(folder / "still.png", still)
    images = [{"id": 1, "file_name": "still.png", "height": 60, "width": 80}]
    entries = [*Instances(masks, [rle_box(m) for m in masks], [0.9, 0.8, 0.7], (60, 80)).to_coco(1)]
    entries[2]["score"] = 0.3
    pictures = [draw([("green" if n != 2 else "yellow", 10 + 2 * n, 10)]) for n in range(5)]
    write_video(
        folder / "clip.mp4", [(0.1 * n, p) for n, (p, _) in enumerate(pictures)], Fraction(10)
    )
    for n, (_, found) in enumerate(pictures):
        entry = {"file_name": f"clip.mp4#{n:06d}", "video_id": 1, "frame_index": n, "time": 0.1 * n}
        images.append({"id": n + 2, **entry, "height": 60, "width": 80})
        one = Instances(found, [rle_box(m) for m in found], [0.95], (60, 80)).to_coco(n + 2)[0]
        entries.append({**one, "track_id": 3})
    entries = [{"id": n, **entry} for n, entry in enumerate(entries, 1)]
    videos = [{"id": 1, "name": "clip.mp4", "width": 80, "height": 60}]
    categories = [{"id": 1, "name": "object"}]
    content = {"videos": videos, "images": images, "annotations": entries, "categories": categories}
    write_json(folder / "detections.json", content)
    return content


def rle_box(mask: rle.Rle) -> list[float]:
    return rle.corners([rle.box(mask)])[0].tolist()


def test_the_demo_file_gets_names_and_keeps_everything_else(named: Any, tmp_path: Path) -> None:
    content = write_demo(tmp_path / "in")
    found = named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "out")
    assert without_names(found) == content
    names = [entry.get("name") for entry in found["annotations"]]
    assert names == ["red", None, None, *["green"] * 5]
    assert found["annotations"][1]["name_group"] == "group_01"
    assert not set(KEYS) & found["annotations"][2].keys()  # below the score
    assert len(found["naming"]["vocabulary_sha256"]) == 64
    assert found["naming"]["encoder"] == ColourEncoder().identity
    groups = read_json(tmp_path / "out/groups.json")["groups"]
    assert list(groups) == ["group_01"]
    assert (tmp_path / "out/groups/group_01.png").is_file()


def test_a_named_group_is_recognised_the_next_time(named: Any, tmp_path: Path) -> None:
    write_demo(tmp_path / "in")
    named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "out")
    place = f"{tmp_path / 'out/groups.json'}#group_01"
    text = (tmp_path / "words.yaml").read_text().removesuffix("}")
    (tmp_path / "words.yaml").write_text(f"{text}, robot: {{like: '{place}'}}}}")
    found = named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "again")
    assert [e.get("name") for e in found["annotations"]][:2] == ["red", "robot"]
    content = read_json(tmp_path / "out/groups.json")
    write_json(tmp_path / "out/groups.json", {**content, "encoder": {"architecture": "other"}})
    with pytest.raises(SystemExit):
        named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "other")


def test_bare_results_are_named_by_the_ground_truth(named: Any, tmp_path: Path) -> None:
    content = write_demo(tmp_path / "in")
    stills = [entry for entry in content["annotations"] if entry["image_id"] == 1]
    write_json(tmp_path / "results.json", stills)
    write_json(tmp_path / "truth.json", {"images": content["images"][:1], "annotations": []})
    options = ("--truth", str(tmp_path / "truth.json"))
    found = named(tmp_path / "results.json", tmp_path / "in", tmp_path / "out", *options)
    assert without_names(found) == stills
    assert [entry.get("name") for entry in found] == ["red", None, None]
    assert "threshold" in read_json(tmp_path / "out/names.json")["naming"]


def test_label_sets_get_columns(named: Any, tmp_path: Path) -> None:
    frames = [FrameRef("a/b", n) for n in range(3)]
    for n, frame in enumerate(frames):
        image, masks = draw([("red", 5 + n, 5), ("blue", 40, 30)])
        write_image(frame.file(tmp_path / "data", ".jpg"), image)
        found = Instances(masks, [rle_box(m) for m in masks], [0.9, 0.2], (60, 80))
        write_labels(tmp_path / "L2", frame, found.with_columns(track=[4, 5]))
    (tmp_path / "split.txt").write_text("\n".join(frame.line() for frame in frames))
    options = ("--split", str(tmp_path / "split.txt"))
    named(tmp_path / "L2", tmp_path / "data", tmp_path / "out", *options)
    before, after = (
        read_labels(root, frames[1]) for root in (tmp_path / "L2", tmp_path / "out/L2")
    )
    assert after.masks == before.masks
    assert np.array_equal(after.boxes, before.boxes)
    assert after.columns["name"].tolist() == ["red", "unknown"]
    assert after.columns["track"].tolist() == [4, 5]


def test_bad_input_is_one_sentence(
    named: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = write_demo(tmp_path / "in")
    source, out = tmp_path / "in/detections.json", tmp_path / "out"

    def refused(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as left:
            named(*arguments)
        assert left.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "in/still.png").unlink()
    assert "still.png: no such image" in refused(source, tmp_path / "in", out)
    write_image(tmp_path / "in/still.png", draw([])[0])
    assert "another --out" in refused(source, tmp_path / "in", tmp_path / "in")
    late = [{**image, "file_name": "clip.mp4#000099"} for image in content["images"][-1:]]
    write_json(source, {**content, "images": [*content["images"][:-1], *late]})
    assert "has no frame 99" in refused(source, tmp_path / "in", out)
    write_json(source, content["annotations"])
    assert "--truth" in refused(source, tmp_path / "in", out)
    write_json(source, content)
    for key, value, entries in (
        ("track_id", [3], "annotations"),
        ("frame_index", "one", "images"),
        ("video_id", [1], "images"),
    ):
        broken = [{**entry, key: value} if key in entry else entry for entry in content[entries]]
        write_json(source, {**content, entries: broken})
        assert key in refused(source, tmp_path / "in", out)
    write_json(source, content)
    (tmp_path / "words.yaml").write_text(
        f"names: {{red: , odd: {{like: '{out}/groups.json#group_01'}}}}"
    )
    assert "would write other groups there" in refused(source, tmp_path / "in", out)
    (tmp_path / "words.yaml").write_text("names: {red: }")
    (tmp_path / "labels").mkdir()
    assert "--split" in refused(tmp_path / "labels", tmp_path / "in", out)
    (tmp_path / "words.yaml").write_text("names: {}")
    assert "vocabulary is empty" in refused(source, tmp_path / "in", out)
    assert not out.exists()


def test_the_demo_draws_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moduv.commands import demo

    monkeypatch.setattr(demo, "load_encoder", lambda spec, device: ColourEncoder())
    write_weights(tmp_path / "round", seed=3)
    content = write_demo(tmp_path / "in")
    (tmp_path / "in/detections.json").unlink()
    (tmp_path / "words.yaml").write_text("names: {red: , green: , grey: }")
    plain = ["demo", "--load_ckpt", str(tmp_path / "round"), "--input", str(tmp_path / "in")]
    words = ["--names", str(tmp_path / "words.yaml")]
    main([*plain, "--out", str(tmp_path / "plain")])
    main([*plain, "--out", str(tmp_path / "named"), *words, "--encoder", "open_clip:x:y"])
    found = read_json(tmp_path / "named/detections.json")
    assert without_names(found) == read_json(tmp_path / "plain/detections.json")
    assert {e.get("name") for e in found["annotations"] if e["score"] > 0.5} & {"red", "grey"}
    assert len(found["images"]) == len(content["images"])
    for name in ("still.png", "clip.mp4"):
        assert (tmp_path / "named" / name).read_bytes() != (tmp_path / "plain" / name).read_bytes()
    with pytest.raises(SystemExit):
        main([*plain, "--out", str(tmp_path / "half"), *words])
    assert "both --names and --encoder" in capsys.readouterr().err


def test_settings_out_of_range_are_refused() -> None:
    for config in (lambda: NamingConfig(views=0), lambda: NamesConfig(quantile=2)):
        with pytest.raises(InputError):
            config()
