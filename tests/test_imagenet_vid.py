"""ImageNet-VID's videos become small frames, its annotations ground truth at their size."""

from __future__ import annotations

from pathlib import Path

import pytest
import raw_samples as raw
import truth_samples as truth

from moduv.commands.cli import main
from moduv.datasets.imagenet_vid import (
    NAMES,
    VidConfig,
    VidTruth,
    convert_imagenet_vid,
    prepare_imagenet_vid,
)
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.evaluation.localisation import measure_localisation
from moduv.frames.images import fitted_size, read_image
from moduv.frames.splits import read_split
from moduv.naming.training.clips import ClipConfig, VideoClips
from moduv.naming.vocabulary import Vocabulary

CONFIG = VidConfig(size=32, workers=1)


def test_videos_and_folders_become_frames_and_lists(tmp_path: Path) -> None:
    source, out = raw.write_imagenet_vid(tmp_path / "raw"), tmp_path / "out"
    prepare_imagenet_vid(source, out, CONFIG)
    for part, segment in (("train", raw.VID_TRAIN), ("val", raw.VID_VAL)):
        frames = read_split(out / f"splits/{part}_files.txt")
        assert [(f.segment, f.index) for f in frames] == [(segment, n) for n in range(raw.FRAMES)]
        for frame in frames:
            assert read_image(frame.image_path(out)).shape == (32, 48, 3)
    assert not (out / "splits/test_files.txt").exists()
    clips = VideoClips(out, read_split(out / "splits/train_files.txt"), ClipConfig(2, (1,), 32))
    assert clips[0, 0].shape == (1, 3, 2, 32, 48)


def test_what_is_finished_is_kept_and_what_is_new_is_added(tmp_path: Path) -> None:
    source, out = raw.write_imagenet_vid(tmp_path / "raw"), tmp_path / "out"
    prepare_imagenet_vid(source, out, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    folder = source / "Data/VID" / raw.VID_VAL
    other = folder.with_name("ILSVRC2015_val_00000001")
    folder.rename(other)
    prepare_imagenet_vid(source, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    segments = {frame.segment for frame in read_split(out / "splits/val_files.txt")}
    assert segments == {raw.VID_VAL, f"val/{other.name}"}


def test_boxes_are_those_of_the_prepared_frames(tmp_path: Path) -> None:
    source, out = truth.write_imagenet_vid(tmp_path / "raw"), tmp_path / "truth.json"
    convert_imagenet_vid(source, out, VidTruth(size=32))
    content = read_json(out)
    assert [image["file_name"] for image in content["images"]] == [
        f"{raw.VID_VAL}/{n:06d}.jpg" for n in range(raw.FRAMES)
    ]
    # Frames of 64 x 96 become 32 x 48.
    expected = [
        ({"car": "car", "person": "monkey"}[thing.kind], [side / 2 for side in thing.box])
        for _, thing in truth.objects()
    ]
    assert [(a["name"], a["bbox"]) for a in content["annotations"]] == expected
    images = [
        {"id": image["id"] + 7, "file_name": image["file_name"]} for image in content["images"]
    ]
    found = [{**a, "image_id": a["image_id"] + 7, "score": 0.9} for a in content["annotations"]]
    write_json(tmp_path / "found.json", {"images": images, "annotations": found})
    measured = measure_localisation(out, tmp_path / "found.json")
    assert measured["corrected/AP50"] == measured["published/CorLoc"] == 1
    convert_imagenet_vid(source, out, VidTruth(size=0))
    assert read_json(out)["annotations"][0]["bbox"] == truth.objects()[0][1].box


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    options = ["--source", str(tmp_path), "--out", str(tmp_path / "out")]
    for verb in ("prepare", "truth"):
        with pytest.raises(SystemExit) as error:
            main([verb, "imagenet-vid", *options])
        assert error.value.code == 2
    (tmp_path / "Data/VID").mkdir(parents=True)
    with pytest.raises(InputError, match="has neither frames"):
        prepare_imagenet_vid(tmp_path, tmp_path / "out", CONFIG)
    source = truth.write_imagenet_vid(tmp_path / "raw")
    broken = source / f"Annotations/VID/{raw.VID_VAL}/000001.xml"
    whole = broken.read_text()
    for text in (
        "<annotation>",
        whole.replace("n02958343", "n0"),
        whole.replace("<xmin>4", "<xmin>a"),
    ):
        broken.write_text(text)
        with pytest.raises(InputError, match=r"000001\.xml: is no annotation"):
            convert_imagenet_vid(source, tmp_path / "truth.json", VidTruth())
    source = raw.write_imagenet_vid(tmp_path / "frames")
    folder = source / "Data/VID" / raw.VID_VAL
    (folder / "000000.JPEG").rename(folder / "first.JPEG")
    with pytest.raises(InputError, match=r"first\.JPEG: is named by no number"):
        prepare_imagenet_vid(source, tmp_path / "out", CONFIG)


def test_the_shorter_side_is_fixed_and_the_other_a_multiple() -> None:
    assert fitted_size(720, 1280, 224, 16) == (224, 400)
    assert fitted_size(500, 375, 224, 16) == (304, 224)


def test_kinds_and_vocabulary_are_the_published_ones(shared: Path) -> None:
    words = Vocabulary.load("imagenet_vid")
    content = read_json(shared / "golden/naming/post_prompts.json")
    prompts = [words.templates[0].format(name.name) for name in words.names]
    assert prompts == content["prompts"][1:]
    assert [name.name for name in words.names if name.kind != "stuff"] == list(NAMES.values())
    foreground = [n for n, name in enumerate(words.names, 1) if name.kind != "stuff"]
    assert foreground == content["foreground"]
