"""Label sets on disk: made whole, resumed, counted, checked, exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.instances import rle
from moduv.instances.exported import export_labels, to_coco
from moduv.instances.instances import Instances
from moduv.instances.store import (
    check,
    check_labels,
    is_labelled,
    label_statistics,
    read_labels,
    statistics,
    write_labels,
)
from moduv.labels.initial import InitialConfig
from moduv.rounds.labelling import label_motion

REAL = FrameRef("train/segment-1255991971750044803_1700_000_1720_000", 45)
FRAMES = [FrameRef("train/a", index) for index in range(3)]


def some_labels(*scores: float) -> Instances:
    masks = []
    for left in (9, 34):
        mask = np.zeros((40, 60), bool)
        mask[14:27, left : left + 13] = True
        masks.append(rle.encode(mask))
    boxes = np.array([[9, 14, 22, 27], [34, 14, 47, 27]])
    return Instances(masks, boxes, np.array(scores) if scores else None)


def motion_output(root: Path, frame: FrameRef, **changed: np.ndarray) -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[5:25, 10:30] = 1
    arrays = {"mot_mask": mask, "depth": np.ones((40, 60), np.float32), "inv_K": np.eye(4) * 1e-6}
    write_npz(frame.file(root, ".npz"), **{**arrays, **changed})


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_split(tmp_path / "split.txt", FRAMES)
    return tmp_path / "split.txt"


def test_initial_labels_equal_the_official_file(tmp_path: Path, shared: Path) -> None:
    write_split(tmp_path / "split.txt", [REAL, FrameRef("train/none", 1)])
    source = shared / "real/dynamo_outputs"
    label_motion(tmp_path / "split.txt", source, tmp_path / "L0", InitialConfig(workers=1))
    made = json.loads(REAL.file(tmp_path / "L0", ".json").read_text())
    assert made == json.loads((shared / "golden/l0/waymo_real.json").read_text())
    results = json.loads((tmp_path / "L0/manifest.json").read_text())["results"]
    assert (results["instances"], results["without_motion_output"]) == (6, 1)


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "L0"
    for frame in FRAMES:
        motion_output(tmp_path / "motion", frame)
    write_labels(out, FRAMES[0], Instances([], np.zeros((0, 4))))
    half = FRAMES[1].file(out, ".json")
    half.write_text('{"masks": [{"si')
    assert [is_labelled(out, frame) for frame in FRAMES] == [True, False, False]
    label_motion(split, tmp_path / "motion", out, InitialConfig(workers=2))
    # What was whole is kept, what was half written is made again.
    assert [len(read_labels(out, frame)) for frame in FRAMES] == [0, 1, 1]
    assert "2 instances in 3 frames" in capsys.readouterr().out
    assert check(out, FRAMES) == []


@pytest.mark.parametrize("key", ["mot_mask", "depth"])
def test_a_broken_motion_output_is_named_and_stops_no_other(
    tmp_path: Path, split: Path, key: str
) -> None:
    motion, out = tmp_path / "motion", tmp_path / "L0"
    motion_output(motion, FRAMES[0], **{key: np.full((40, 60), np.nan)})
    FRAMES[1].file(motion, ".npz").write_bytes(b"PK half an archive")
    motion_output(motion, FRAMES[2])
    message = rf"000000\.npz: '{key}' holds numbers .*\(2 motion outputs are broken\)"
    with pytest.raises(InputError, match=message):
        label_motion(split, motion, out, InitialConfig(workers=1))
    assert [is_labelled(out, frame) for frame in FRAMES] == [False, False, True]
    assert not (out / "manifest.json").exists()
    for frame in FRAMES[:2]:
        motion_output(motion, frame)
    label_motion(split, motion, out, InitialConfig(workers=1))
    assert statistics(out, FRAMES)["instances"] == 3


def test_outputs_without_a_mask_are_refused_as_its_evidence(tmp_path: Path, split: Path) -> None:
    for frame in FRAMES:
        arrays = {"depth": np.ones((40, 60), np.float32), "inv_K": np.eye(4) * 1e-6}
        write_npz(frame.file(tmp_path / "motion", ".npz"), **arrays)
    with pytest.raises(InputError, match=r"without a mask .*; set the evidence to flow"):
        label_motion(split, tmp_path / "motion", tmp_path / "L0", InitialConfig())


def test_split_without_motion_output_is_refused(tmp_path: Path, split: Path) -> None:
    with pytest.raises(InputError, match="run the motion stage first"):
        label_motion(split, tmp_path / "motion", tmp_path / "L0", InitialConfig())


def test_label_sets_are_counted_and_checked(
    tmp_path: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "L1"
    write_labels(root, FRAMES[0], some_labels(0.5, 0.75))
    for frame in FRAMES[1:]:
        write_labels(root, frame, Instances([], np.zeros((0, 4)), np.zeros(0)))
    numbers = statistics(root, FRAMES)
    assert (numbers["frames"], numbers["instances"], numbers["empty_frames"]) == (3, 2, 2)
    assert numbers["root_area_quantiles"] == [13.0] * 5
    assert numbers["mean_score"] == 0.625
    label_statistics(root, split)
    check_labels(root, split)
    told = capsys.readouterr().out
    assert "empty_frames           2" in told
    assert "root of area, pixels   smallest 13.0, lower quartile 13.0, median 13.0, upper" in told
    assert "all 3 label files are whole" in told
    write_labels(root, FrameRef("images/train/a", 1), some_labels(0.5, 0.75))
    FRAMES[2].file(root, ".json").write_text("{}")
    with pytest.raises(InputError, match="1 of 3 label files are missing or broken"):
        check_labels(root, split)
    told = capsys.readouterr().out
    assert "000002.json: lacks the list 'masks'" in told
    assert re.search(
        r"1 label files are of frames that .*split.txt lacks, as .*/images/train/a", told
    )
    FRAMES[2].file(root, ".json").unlink()
    label_statistics(root, split)
    assert "1 of 3 frames have no labels, left out" in capsys.readouterr().out


def test_a_label_set_evaluated_against_itself_is_perfect(tmp_path: Path, split: Path) -> None:
    for frame in FRAMES:
        write_labels(tmp_path / "L0", frame, some_labels())
        write_image(frame.image_path(tmp_path / "data"), np.zeros((80, 120, 3), np.uint8))
    export_labels(tmp_path / "L0", split, tmp_path / "data", tmp_path / "L0.json")
    content = json.loads((tmp_path / "L0.json").read_text())
    assert content["images"][2]["file_name"] == "train/a/000002.jpg"
    assert (content["images"][2]["height"], content["images"][2]["width"]) == (80, 120)
    assert content["annotations"][0]["bbox"] == [18, 28, 26, 26]
    assert content["annotations"][0]["area"] == 26 * 26
    for predictions in (content, content["annotations"], tmp_path / "L0.json"):
        metrics = evaluate(content, predictions)
        assert metrics["box/AP"] == pytest.approx(1)
        assert metrics["mask/AP"] == pytest.approx(1)


def test_exported_scores_and_sizes(tmp_path: Path) -> None:
    write_labels(tmp_path, FRAMES[0], some_labels(0.5, 0.75))
    write_labels(tmp_path, FRAMES[1], Instances([], np.zeros((0, 4)), np.zeros(0)))
    write_labels(tmp_path, FRAMES[2], some_labels())
    own = to_coco(tmp_path, FRAMES)
    assert [entry["score"] for entry in own["annotations"]] == [0.5, 0.75, 1, 1]
    assert [entry["image_id"] for entry in own["annotations"]] == [1, 1, 3, 3]
    assert own["annotations"][0]["segmentation"] == some_labels().masks[0]
    sizes = {FRAMES[0]: (40, 60), FRAMES[1]: (80, 120), FRAMES[2]: (120, 180)}
    scaled = to_coco(tmp_path, FRAMES, sizes)
    assert [image["height"] for image in scaled["images"]] == [40, 80, 120]
    assert scaled["annotations"][2]["bbox"] == [27, 42, 39, 39]
    assert to_coco(tmp_path, FRAMES, (80, 120))["annotations"][0]["bbox"] == [18, 28, 26, 26]
