"""The report of a run says what the run found, with truth and without."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.engine.files import write_json, write_npz
from moduv.engine.stages import fingerprint
from moduv.evaluation.agreement import Agreement
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import write_split
from moduv.instances import rle
from moduv.instances.coco import select_truth
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels
from moduv.rounds.supervised import TrueLabelsConfig, true_labels
from moduv.runs.report import ReportConfig, report_run
from moduv.runs.report_pictures import around, extreme_frames, fit
from moduv.runs.tables import ratio_to_upper_bound

HEIGHT, WIDTH = 48, 80
FRAMES = [FrameRef(f"val/{clip}", index) for clip in "abc" for index in (1, 2, 3)]
CARS = [(8, 10), (30, 24), (60, 6)]
"""Corners of the objects of every frame; each is 12 x 12 and the first moves."""


def labels(corners: list[tuple[int, int]], *, scored: bool = True) -> Instances:
    masks, boxes = [], []
    for left, top in corners:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + 12, left : left + 12] = True
        masks.append(rle.encode(mask))
        boxes.append([left, top, left + 12, top + 12])
    scores = np.full(len(masks), 0.75) if scored else None
    return Instances(masks, np.array(boxes).reshape(-1, 4), scores, (HEIGHT, WIDTH))


def found_in(frame: FrameRef) -> list[tuple[int, int]]:
    """The final detector is perfect in clip a, misses one car in b, and finds but a ghost in c."""
    return {"val/a": CARS, "val/b": CARS[:2], "val/c": [(2, 36)]}[frame.segment]


def segmentation(kind: str, left: int, top: int, mask: rle.Rle) -> Any:
    corners = [left, top, left + 12, top, left + 12, top + 12, left, top + 12]
    return {"runs": mask, "polygons": [[float(v) for v in corners]], "boxes": []}[kind]


def ground_truth(kind: str) -> dict[str, Any]:
    images, annotations = [], []
    for number, frame in enumerate(FRAMES, 1):
        name = f"{frame.segment}/{frame.index:06d}.jpg"
        images.append({"id": 10 * number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for (left, top), mask in zip(CARS, labels(CARS).masks, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * number,
                    "bbox": [left, top, 12, 12],
                    "area": 144,
                    "segmentation": segmentation(kind, left, top, mask),
                    "moving": int((left, top) == CARS[0]),
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}


@dataclass(frozen=True)
class World:
    """A run that was measured, its frames and their truth."""

    run: Path
    data: Path
    split: Path
    truth: Path

    def report(self, out: Path, *, truth: bool, **values: Any) -> str:
        config = ReportConfig(**{"frames": 3, "extremes": 1, "clips": 1, "width": 80} | values)
        annotations = self.truth if truth else None
        report_run(self.run, self.data, self.split, out, config, annotations)
        return (out / "report.html").read_text()


def make_world(root: Path, *, kind: str = "runs", measured: bool = True) -> World:
    rng = np.random.default_rng(0)
    world = World(root / "run", root / "data", root / "split.txt", root / "truth.json")
    folder, truth = world.run / "evaluation", ground_truth(kind)
    write_split(world.split, FRAMES)
    write_json(world.truth, truth)
    results = []
    for image, frame in zip(truth["images"], FRAMES, strict=True):
        picture = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        write_image(frame.image_path(world.data), picture)
        arrays = {"mot_mask": np.zeros((24, 40)), "depth": np.ones((24, 40))}
        write_npz(frame.file(world.run / "motion_val", ".npz"), **arrays)
        write_labels(folder / "L0", frame, labels(CARS[:1], scored=False))
        write_labels(folder / "L1", frame, labels(CARS[:2]))
        for corner in found_in(frame):
            box = [*corner, 12, 12]
            (mask,) = labels([corner]).masks
            results.append(
                {"image_id": image["id"], "bbox": box, "score": 0.8, "segmentation": mask}
            )
    write_json(folder / "R3_Final.json", results)
    write_json(folder / "images.json", {**truth, "annotations": []})
    metrics = (
        {"Final": evaluate(truth, results)} if measured else {"L1": {"labels/consistency": 0.625}}
    )
    write_json(folder / "metrics.json", metrics)
    return world


def layers(page: str) -> set[str]:
    return set(re.findall(r'data-switch="([^"]*)"', page))


def visible_text(page: str) -> str:
    page = re.sub(r"<(script|style|pre)>.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", " ", page)


def notes(page: str) -> dict[str, list[tuple[str, str]]]:
    """Frames of the contact sheet with their notes, by group."""
    found: dict[str, list[tuple[str, str]]] = {}
    sheet = page[page.index('class="contact"') :]
    pattern = r'class="group"[^>]*>([^<]*)<|data-name="([^"]*)" data-note="([^"]*)"'
    for group, name, note in re.findall(pattern, sheet):
        if group:
            found[group] = []
        else:
            found[list(found)[-1]].append((name, note))
    return found


@pytest.mark.parametrize("kind", ["runs", "polygons", "boxes"])
def test_with_truth_the_best_and_the_worst_frames_are_shown(tmp_path: Path, kind: str) -> None:
    page = make_world(tmp_path, kind=kind).report(tmp_path / "out", truth=True)
    assert layers(page) == {"frame", "depth", "motion", "L0", "L1", "final", "truth"}
    shown = notes(page)
    assert [name[:5] for name, _ in shown["most moving and parked objects"]] == [
        "val/a",
        "val/b",
        "val/c",
    ]
    assert shown["best"] == [("val/a 1", "3 of 3 objects found, 0 false")]
    assert shown["worst"] == [("val/c 1", "0 of 3 objects found, 1 false")]
    assert "Detectors" in page
    # 6 of 9 frames have two or three of three objects: AP50 is defined, and in the table.
    assert "Final AP50" in page
    assert read_image(tmp_path / "out/overview.jpg").shape[1] > 8 * 40


def test_depth_is_shown_before_and_after_movers_have_taught_it(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    for frame in FRAMES:
        write_npz(frame.file(world.run / "depth_val", ".npz"), depth=np.full((24, 40), 2.0))
        write_npz(frame.file(world.data / "truth", ".npz"), depth=np.full((48, 80), 9.0))
    taught = {"depth after", "true depth", "error before", "error after"}
    assert taught <= layers(world.report(tmp_path / "out", truth=True))


def test_without_truth_the_rounds_are_compared(tmp_path: Path) -> None:
    page = make_world(tmp_path, measured=False).report(tmp_path / "out", truth=False)
    assert layers(page) == {"frame", "depth", "motion", "L0", "L1", "final"}
    shown = notes(page)
    agree, disagree = shown["rounds agree most"], shown["rounds agree least"]
    assert agree == [("val/b 1", "2 of 2 in L1 found again by final, 0 new")]
    assert disagree == [("val/c 1", "0 of 2 in L1 found again by final, 1 new")]
    for word in ("AP50", "recall", "precision", "Detectors", "objects found"):
        assert word not in visible_text(page)
    table = page[page.index("From round to round") :]
    rows = re.findall(r'<th scope="row">(\w+).*?</tr>', table, re.S)
    assert rows[:3] == ["L0", "L1", "final"]
    values = re.findall(r'class="number">([^<]*)<', table)
    # Labels, a frame, empty, size, score, kept, new, IoU, in time.
    assert values[:9] == ["9", "1.00", "0.000", "12.0", *"–––––"]
    assert values[9:17] == ["18", "2.00", "0.000", "12.0", "0.750", "1.000", "0.500", "1.000"]
    assert values[17:26] == [
        "0.625",
        "18",
        "2.00",
        "0.000",
        "12.0",
        "0.800",
        "0.667",
        "0.333",
        "1.000",
    ]


def test_clips_hold_every_layer_of_every_moment(tmp_path: Path) -> None:
    page = make_world(tmp_path).report(tmp_path / "out", truth=True, clip_frames=2)
    moments = re.findall(r'data-item="0" data-layer="(\w+)" data-time="(\d)"', page)
    assert len(moments) == 7 * 2
    assert {layer for layer, _ in moments} == layers(page)


def test_a_run_of_labels_only_has_a_report(tmp_path: Path) -> None:
    world = make_world(tmp_path, measured=False)
    (world.run / "evaluation/R3_Final.json").unlink()
    page = world.report(tmp_path / "out", truth=False)
    assert layers(page) == {"frame", "depth", "motion", "L0", "L1"}
    assert notes(page)["rounds agree most"] == [
        ("val/a 1", "1 of 1 in L0 found again by L1, 1 new")
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    (world.run / "evaluation/images.json").unlink()
    with pytest.raises(InputError, match=r"images.json: no such file"):
        world.report(tmp_path / "out", truth=False)
    write_split(world.split, [FrameRef("train/x", 1)])
    with pytest.raises(InputError, match=r"motion_val: has no frame of .*give the measured split"):
        world.report(tmp_path / "out", truth=True)
    (world.run / "evaluation/metrics.json").unlink()
    with pytest.raises(InputError, match="not measured yet"):
        world.report(tmp_path / "out", truth=True)
    assert not (tmp_path / "out").exists()


def test_metrics_that_were_changed_by_hand_are_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    metrics = world.run / "evaluation/metrics.json"
    results = {metrics.name: fingerprint(metrics)}
    known = {"stage": "measure", "config": {}, "inputs": {}, "results": results}
    write_json(metrics.parent / "manifest.json", known)
    world.report(tmp_path / "out", truth=False)
    for changed in (metrics.read_text().replace("0.", "1.", 1), '{"Final": 3}', "[", ""):
        metrics.write_text(changed)
        with pytest.raises(InputError, match=r"metrics.json: was changed after it was measured"):
            world.report(tmp_path / "again", truth=False)
    assert not (tmp_path / "again").exists()


def test_extreme_frames_are_of_different_clips_and_hold_something() -> None:
    verdicts = [
        *(Agreement(3, 3, 3), Agreement(1, 1, 1), Agreement(2, 2, 1)),
        *(Agreement(1, 1, 1), Agreement(0, 0), Agreement(2, 3, 1)),
        *(Agreement(4, 4, 0), Agreement(0, 1, 0), Agreement(0, 0)),
    ]
    best, worst = extreme_frames(FRAMES, verdicts, 2)
    assert [frame.line() for frame in best] == ["val/a 1", "val/b 1"]
    assert [frame.line() for frame in worst] == ["val/c 1", "val/b 3"]


def test_moments_lie_around_the_chosen_frame() -> None:
    clip = [FrameRef("val/a", index) for index in range(10)]
    assert [frame.index for frame in around(clip, clip[6], 4)] == [4, 5, 6, 7]
    assert [frame.index for frame in around(clip, clip[0], 4)] == [0, 1, 2, 3]
    assert [frame.index for frame in around(clip, clip[9], 4)] == [6, 7, 8, 9]
    assert around(clip, clip[3], 20) == clip


def test_pictures_are_neither_tiny_nor_huge() -> None:
    assert fit(np.zeros((96, 160, 3), np.uint8), 480, 960).shape == (288, 480, 3)
    assert fit(np.zeros((1280, 1920, 3), np.uint8), 480, 960).shape == (640, 960, 3)


@pytest.mark.parametrize(
    ("final", "bound", "ratio"),
    [
        ({"box/AP50": 0.4}, {"box/AP50": 0.8}, 0.5),
        ({"box/AP50": 0.1}, {"box/AP50": 0.0}, None),
        ({}, {"box/AP50": 0.5}, None),
    ],
)
def test_the_share_of_the_upper_bound_needs_both(
    final: dict[str, float], bound: dict[str, float], ratio: float | None
) -> None:
    assert ratio_to_upper_bound({"Final": final, "Supervised": bound}) == ratio


def test_truth_is_found_by_exported_names_and_by_places(tmp_path: Path) -> None:
    prepared = FrameRef("train/s", 4)
    place = prepared.image_path(tmp_path).parent / "FRONT/rgb/original/000004.png"
    write_image(place, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for name in ("train/s/000004.png", "train/s/FRONT/rgb/original/000004.jpg"):
        path = tmp_path / "truth.json"
        write_json(path, {"images": [{"id": 7, "file_name": name}], "annotations": []})
        assert select_truth(path, tmp_path, [prepared])["images"][0]["id"] == 7
    with pytest.raises(InputError, match="has no image"):
        select_truth(path, tmp_path, [FrameRef("train/s", 5)])


def test_boxes_do_not_become_labels(tmp_path: Path) -> None:
    world = make_world(tmp_path, kind="boxes")
    with pytest.raises(InputError, match="annotation with id 1 has no 'segmentation'"):
        true_labels(world.split, world.truth, tmp_path / "labels", TrueLabelsConfig())
    polygons = make_world(tmp_path / "polygons", kind="polygons")
    true_labels(polygons.split, polygons.truth, tmp_path / "polygons/labels", TrueLabelsConfig())
    made = read_labels(tmp_path / "polygons/labels", FRAMES[0])
    assert (made.decode() == labels(CARS).decode()).all()
