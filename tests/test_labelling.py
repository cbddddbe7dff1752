"""L1 and L2 of a split: only what can become a label is looked at, and the labels are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_world import predict, write_detectors, write_world

from moduv.detector.predictor import View
from moduv.detector.weights import load_detector
from moduv.engine import hardware
from moduv.engine.config import load_preset
from moduv.engine.cores import run_on_cores
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.frames.images import read_image
from moduv.frames.splits import write_split
from moduv.instances.instances import Instances, Predictions
from moduv.instances.store import read_labels, statistics
from moduv.labels.predicted import fuse
from moduv.rounds.labelling import label_frames
from moduv.rounds.large2small import AggregatedLabelsConfig, aggregated_labels
from moduv.rounds.moving2mobile import MobileLabelsConfig, mobile_labels


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_detectors(root, "large", "small")
    write_split(root / "split.txt", write_world(root, 5))
    return root


def everything(world: Path, name: str) -> list[Predictions]:
    """All that a detector says, down to its own threshold."""
    found = predict(
        load_detector(world / name), write_world(world, 5), world / "frames", batch_size=4
    )
    return [predictions for _, predictions in found]


def middle_score(found: list[Predictions]) -> float:
    return float(torch.cat([one.scores for one in found]).median())


def assert_equal(found: Instances, expected: Instances) -> None:
    assert found.to_json()["masks"] == expected.to_json()["masks"]
    assert found.scores is not None
    assert expected.scores is not None
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_labels_are_those_of_all_detections(world: Path, tmp_path: Path) -> None:
    large, small = (everything(world, name) for name in ("large", "small"))
    scores = middle_score(large), middle_score(small)
    merge = AggregatedLabelsConfig(
        large_score=scores[0], small_score=scores[1], self_filter=10.0, cross_filter=1.1
    )
    pick = MobileLabelsConfig(score_threshold=scores[0], nested=0.5)
    data, split = world / "frames", world / "split.txt"
    aggregated_labels(data, split, world / "large", tmp_path / "L2", merge, world / "small")
    mobile_labels(data, split, world / "large", tmp_path / "L1", pick)
    frames = write_world(world, 5)
    for frame, first, second in zip(frames, large, small, strict=True):
        image = read_image(frame.image_path(data))
        assert_equal(read_labels(tmp_path / "L2", frame), merge.select(image, first, second))
        assert_equal(read_labels(tmp_path / "L1", frame), pick.select(image, first))
    assert statistics(tmp_path / "L2", frames)["instances"] > 0
    assert 0 < statistics(tmp_path / "L1", frames)["instances"] < sum(map(len, large))


def test_what_cannot_become_a_label_is_not_pasted_and_finished_files_are_kept(
    world: Path, tmp_path: Path
) -> None:
    scores = [middle_score(everything(world, name)) for name in ("large", "small")]
    seen: list[tuple[float, float]] = []

    def select(*given: Any) -> Instances:
        seen.append(tuple(float(found.scores.min()) for found in given[1:]))  # type: ignore[arg-type]
        large, small = scores
        return AggregatedLabelsConfig(large_score=large, small_score=small).select(*given)

    detectors = list(zip([world / "large", world / "small"], scores, strict=True))
    arguments = ("L2", world / "frames", world / "split.txt", detectors, tmp_path, select)
    label_frames(*arguments, batch_size=2, workers=1)
    assert len(seen) == 5
    assert all(least > score for pair in seen for least, score in zip(pair, scores, strict=True))
    (tmp_path / "train/clip_0000/000003.json").unlink()
    label_frames(*arguments, batch_size=2, workers=1)
    assert len(seen) == 6


@pytest.mark.parametrize("left", [0, 1, 4])
def test_what_was_interrupted_ends_with_the_same_bytes(
    world: Path, tmp_path: Path, left: int
) -> None:
    pick = MobileLabelsConfig(score_threshold=middle_score(everything(world, "large")))
    pick = replace(pick, batch_size=3)
    given = world / "frames", world / "split.txt", world / "large", tmp_path, pick
    mobile_labels(*given)
    whole = {path: path.read_bytes() for path in sorted(tmp_path.rglob("0*.json"))}
    (tmp_path / "manifest.json").rename(tmp_path / ".manifest.json")
    for number, path in enumerate(whole):
        if number != left:
            path.unlink()
    mobile_labels(*given)
    assert {path: path.read_bytes() for path in whole} == whole


def test_labels_of_several_views_are_those_of_their_mean(world: Path, tmp_path: Path) -> None:
    pick = MobileLabelsConfig(
        score_threshold=0.4, flip=True, scales=(1.5,), fit_boxes=True, nested=0.3
    )
    mobile_labels(world / "frames", world / "split.txt", world / "large", tmp_path, pick)
    detector, frames = load_detector(world / "large"), write_world(world, 5)
    root = world / "frames"
    shown = [detector, detector.seeing(View(flip=True)), detector.seeing(View(scale=1.5))]
    views = [list(predict(each, frames, root, batch_size=4)) for each in shown]
    count = 0
    for number, frame in enumerate(frames):
        image = read_image(frame.image_path(root))
        expected = pick.select(image, fuse([view[number][1] for view in views]))
        assert_equal(read_labels(tmp_path, frame), expected)
        count += len(expected)
    assert count > 0


def test_without_a_small_detector_l2_is_what_the_large_one_finds(
    world: Path, tmp_path: Path
) -> None:
    score = middle_score(everything(world, "large"))
    alone = AggregatedLabelsConfig(large_score=score, small_score=None, nested=0.5)
    pick = MobileLabelsConfig(score_threshold=score, nested=0.5)
    data, split = world / "frames", world / "split.txt"
    aggregated_labels(data, split, world / "large", tmp_path / "L2", alone)
    mobile_labels(data, split, world / "large", tmp_path / "L1", pick)
    for frame in write_world(world, 5):
        assert_equal(read_labels(tmp_path / "L2", frame), read_labels(tmp_path / "L1", frame))


def test_a_threshold_that_is_not_set_is_chosen_once_for_all_processes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = MobileLabelsConfig(score_threshold=None, flip=True, nested=0.5, batch_size=2)
    given = {"data": world / "frames", "split": world / "split.txt", "detector": world / "large"}
    mobile_labels(**given, out=tmp_path / "one", config=pick)
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "memory", lambda: 8.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    path = "moduv.rounds.moving2mobile:mobile_labels"
    run_on_cores(path, {**given, "out": tmp_path / "two", "config": pick})
    one, two = (
        read_json(tmp_path / name / "manifest.json")["results"]["thresholds"]["score_threshold"]
        for name in ("one", "two")
    )
    # The last digit depends on the number of threads.
    assert one == pytest.approx(two, abs=0.002)
    assert 0 <= one < 1
    for frame in write_world(world, 5):
        scores = read_labels(tmp_path / "one", frame).scores
        assert scores is None or (scores > one).all()


def test_one_view_chooses_no_threshold(world: Path, tmp_path: Path) -> None:
    pick = MobileLabelsConfig(score_threshold=None)
    with pytest.raises(InputError, match="'score_threshold' is not set, and one view"):
        mobile_labels(world / "frames", world / "split.txt", world / "large", tmp_path, pick)
    assert not any(tmp_path.iterdir())


def test_a_round_is_judged_by_the_one_before(world: Path, tmp_path: Path) -> None:
    """A judge that finds the same keeps everything, and is no input where the threshold is set."""
    data, split = world / "frames", world / "split.txt"
    pick = AggregatedLabelsConfig(large_score=None, batch_size=2)
    large = world / "large"
    aggregated_labels(data, split, large, tmp_path / "judged", pick, judge=large)
    judged = read_json(tmp_path / "judged/manifest.json")
    assert judged["results"]["thresholds"] == {"large_score": 0.0}
    assert len(judged["inputs"]) == 3
    given = replace(pick, large_score=0.4)
    aggregated_labels(data, split, large, tmp_path / "given", given, judge=tmp_path / "nowhere")
    assert len(read_json(tmp_path / "given/manifest.json")["inputs"]) == 2


def test_the_preset_paper_labels_as_published() -> None:
    first = load_preset(MobileLabelsConfig, "paper", "mobile_labels")
    assert first == MobileLabelsConfig(score_threshold=0.5)
    second = load_preset(AggregatedLabelsConfig, "paper", "aggregated_labels")
    assert second == AggregatedLabelsConfig(large_score=0.9, small_score=0.8)
    for settings in (first, second):
        assert not settings.views
        assert (settings.nested, settings.snap) == (1.0, False)
        assert (settings.fit_masks, settings.fit_boxes) == (False, False)
