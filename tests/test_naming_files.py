"""Names written to files: the demo's detections, bare results and label sets."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_world import write_weights
from naming_world import ColourEncoder, draw

from moduv.commands import name as command
from moduv.commands.cli import main
from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.video import read_clip
from moduv.frames.video_writer import write_video
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels


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


def test_tracks_of_a_folder_of_frames_get_names(named: Any, tmp_path: Path) -> None:
    content = write_demo(tmp_path / "in")
    film = tmp_path / "in/clip.mp4"
    for number, (_, image) in enumerate(read_clip(film)):
        write_image(tmp_path / f"in/clip/{number}.png", image)
    film.unlink()
    images = [
        {**one, "file_name": one["file_name"].replace(".mp4", "")} for one in content["images"]
    ]
    write_json(tmp_path / "in/detections.json", {**content, "images": images})
    found = named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "out")
    assert [entry.get("name") for entry in found["annotations"]][3:] == ["green"] * 5


def test_a_named_group_is_recognised_the_next_time(named: Any, tmp_path: Path) -> None:
    write_demo(tmp_path / "in")
    named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "out")
    place = f"{tmp_path / 'out/groups.json'}#group_01"
    text = (tmp_path / "words.yaml").read_text().removesuffix("}")
    (tmp_path / "words.yaml").write_text(f"{text}, robot: {{like: '{place}'}}}}")
    found = named(tmp_path / "in/detections.json", tmp_path / "in", tmp_path / "again")
    assert [e.get("name") for e in found["annotations"]][:2] == ["red", "robot"]
    content = read_json(tmp_path / "out/groups.json")
    group = content["groups"]["group_01"]
    cut = {"group_01": {**group, "vector": group["vector"][:-1]}}
    for changes in ({"encoder": {"architecture": "other"}}, {"groups": cut}):
        write_json(tmp_path / "out/groups.json", {**content, **changes})
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

    assert f"give {source}" in refused(source.parent, tmp_path / "in", out)
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
        ("frame_index", float("inf"), "images"),
        ("video_id", [1], "images"),
    ):
        broken = [{**entry, key: value} if key in entry else entry for entry in content[entries]]
        source.write_text(json.dumps({**content, entries: broken}))
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
    # A broken file leaves the others their names.
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stopped:
        main([*plain, "--out", str(tmp_path / "rest"), *words, "--encoder", "open_clip:x:y"])
    assert stopped.value.code == 2
    assert "broken.png: the image is not readable" in capsys.readouterr().err
    assert read_json(tmp_path / "rest/detections.json")["annotations"] == found["annotations"]
    with pytest.raises(SystemExit):
        main([*plain, "--out", str(tmp_path / "half"), *words])
    assert "both --names and --encoder" in capsys.readouterr().err
