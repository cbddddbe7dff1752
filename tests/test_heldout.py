"""Held-out frames: detections and labels are written frame by frame, and a killed run goes on."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, predict, write_detectors, write_world

import moduv.rounds.labelling as labelling
from moduv.detector.weights import load_detector
from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import write_split
from moduv.instances.instances import Instances, Predictions
from moduv.instances.store import read_labels
from moduv.rounds.large2small import AggregatedLabelsConfig, aggregated_labels
from moduv.rounds.moving2mobile import MobileLabelsConfig, mobile_labels
from moduv.runs.heldout import HeldOut
from moduv.runs.measure import label_sets

MERGE = AggregatedLabelsConfig(large_score=0.05, small_score=0.05)
PICK = MobileLabelsConfig(score_threshold=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained detectors and the world's frames."""
    root = tmp_path_factory.mktemp("run")
    write_detectors(root, "large", "small")
    write_world(root, 12)
    return root


def held_out(run: Path, out: Path, count: int = 6) -> HeldOut:
    frames = [FrameRef("train/clip_0000", index) for index in range(count)]
    images = [{"id": 10 + index} for index in range(count)]
    return HeldOut(run / "frames", frames, images, out, batch_size=2)


def contents(folder: Path) -> dict[str, Any]:
    return {p.relative_to(folder).as_posix(): read_json(p) for p in folder.rglob("*.json")}


def detect_all(held: HeldOut, run: Path) -> None:
    held.detect([run / "large"], "L1", PICK.select)
    held.detect([run / "large", run / "small"], "L2", MERGE.select)


def test_detections_and_labels_are_those_of_all_frames_at_once(run: Path, tmp_path: Path) -> None:
    held = held_out(run, tmp_path)
    detect_all(held, run)
    found = {
        name: [one for _, one in predict(load_detector(run / name), held.frames, held.data)]
        for name in ("large", "small")
    }
    merged = held.labels("L2")
    pairs = zip(found["large"], found["small"], strict=True)
    for labels, frame, pair in zip(merged, held.frames, pairs, strict=True):
        expected = MERGE.select(read_image(frame.image_path(held.data)), *pair)
        assert labels.to_json()["masks"] == expected.to_json()["masks"]
        np.testing.assert_allclose(labels.boxes, expected.boxes, atol=1e-2)
    # In the widest gap between scores, whose last bits depend on the batch.
    scores = torch.cat([one.scores for one in found["small"]]).sort().values
    widest = int(scores.diff().argmax())
    threshold = float(scores[widest : widest + 2].mean())
    confident = [one.above(threshold) for one in held.found("small")]
    assert 0 < sum(map(len, confident)) < sum(map(len, found["small"]))
    for labels, one in zip(confident, found["small"], strict=True):
        expected = one.to_instances(threshold)
        assert labels.size == expected.size == (HEIGHT, WIDTH)
        assert labels.masks == expected.masks
        np.testing.assert_allclose(labels.boxes, expected.boxes, atol=1e-2)


def test_a_killed_run_goes_on_and_ends_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect_all(held_out(run, tmp_path / "whole"), run)
    killed = held_out(run, tmp_path / "killed")
    killed.detect([run / "large"], "L1", PICK.select)
    merged = iter(range(3))

    def interrupted(image: np.ndarray, large: Predictions, small: Predictions) -> Instances:
        if next(merged, None) is None:
            raise KeyboardInterrupt
        return MERGE.select(image, large, small)

    with pytest.raises(KeyboardInterrupt):
        killed.detect([run / "large", run / "small"], "L2", interrupted)
    assert not killed.detections("small").exists()
    loaded = loads(monkeypatch)
    detect_all(killed, run)
    assert loaded == ["large", "small"]  # L1 was whole and is not made again
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    detect_all(killed, run)
    assert len(loaded) == 2


def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The detectors that are loaded from now on."""
    names: list[str] = []

    def recorded(folder: Path, device: torch.device) -> Any:
        names.append(folder.name)
        return load_detector(folder, device)

    monkeypatch.setattr(labelling, "load_detector", recorded)
    return names


def test_no_more_than_a_batch_of_detections_is_held(run: Path, tmp_path: Path) -> None:
    seen: list[weakref.ref[Predictions]] = []
    most = 0

    def select(image: np.ndarray, large: Predictions, small: Predictions) -> Instances:
        nonlocal most
        seen.extend([weakref.ref(large), weakref.ref(small)])
        most = max(most, sum(one() is not None for one in seen))
        return MERGE.select(image, large, small)

    held_out(run, tmp_path, 12).detect([run / "large", run / "small"], "L2", select)
    assert len(seen) == 24
    # Two detectors: a batch of two frames, four frames that threads label, and one that is handed on.
    assert most <= 2 * (2 + 4 + 1)


def test_empty_label_files_get_back_their_size(run: Path, tmp_path: Path) -> None:
    held = held_out(run, tmp_path, 2)
    held.detect([run / "large"], "L1", MobileLabelsConfig(score_threshold=1.0).select)
    assert [labels.size for labels in held.labels("L1")] == [(HEIGHT, WIDTH)] * 2
    assert [labels.size for labels in held.found("large")] == [(HEIGHT, WIDTH)] * 2
    assert read_labels(tmp_path / "L1", held.frames[0]).size is None


@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_held_out_labels_follow_the_settings_of_the_training_labels(
    run: Path, tmp_path: Path, threshold: float
) -> None:
    """The manifest of a label set knows how it was made; no preset is named a second time."""
    write_detectors(tmp_path, "R1_M2M")
    write_split(tmp_path / "split.txt", held_out(run, tmp_path, 4).frames)
    settings = MobileLabelsConfig(score_threshold=threshold, nested=0.4)
    made = tmp_path / "L1_pseudo_labels"
    mobile_labels(run / "frames", tmp_path / "split.txt", tmp_path / "R1_M2M", made, settings)
    held = held_out(run, tmp_path / "evaluation", 4)
    measured = label_sets(tmp_path, tmp_path / "motion_val", held)
    assert list(measured) == ["L1"]  # the others were not made
    for frame, labels in zip(held.frames, measured["L1"], strict=True):
        assert labels.masks == read_labels(made, frame).masks


def test_held_out_labels_have_the_threshold_that_was_chosen_and_the_makers_that_were_there(
    run: Path, tmp_path: Path
) -> None:
    """L2 of one detector, whose threshold no preset holds."""
    write_detectors(tmp_path, "R2_L2S_large")
    write_split(tmp_path / "split.txt", held_out(run, tmp_path, 4).frames)
    settings = AggregatedLabelsConfig(large_score=None, flip=True, nested=0.4, fit_boxes=True)
    made, maker = tmp_path / "L2_pseudo_labels", tmp_path / "R2_L2S_large"
    aggregated_labels(run / "frames", tmp_path / "split.txt", maker, made, settings)
    held = held_out(run, tmp_path / "evaluation", 4)
    measured = label_sets(tmp_path, tmp_path / "motion_val", held)
    for frame, labels in zip(held.frames, measured["L2"], strict=True):
        assert labels.masks == read_labels(made, frame).masks
    # Detections are those of the plain view.
    plain = predict(load_detector(maker), held.frames, held.data)
    for found, (_, expected) in zip(held.found("R2_L2S_large"), plain, strict=True):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)


def test_label_sets_of_other_makers_are_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_detectors(tmp_path, "R1_M2M")
    write_json(
        tmp_path / "L1_pseudo_labels/manifest.json",
        {"stage": "labels import", "config": {}, "results": {}},
    )
    held = held_out(run, tmp_path / "evaluation", 2)
    assert label_sets(tmp_path, tmp_path / "motion_val", held) == {}
    assert "L1: not measured, because 'labels import' made" in capsys.readouterr().out
