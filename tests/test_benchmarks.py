"""What the benchmarks compare computes the same."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from moduv.detector.config import PAPER
from moduv.frames.clip import with_neighbours
from moduv.frames.splits import read_split
from moduv.geometry import photometric
from moduv.instances.coco import group_by_image, select_truth
from moduv.instances.instances import Instances
from moduv.instances.tracks import Tracker
from moduv.motion.networks.motion_fields import FRAMES, MotionFieldDecoder

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def motion() -> ModuleType:
    return load("motion")


@pytest.fixture(scope="module")
def detector() -> ModuleType:
    return load("detector")


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    return load("scale")


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return load("ladder")
    finally:
        sys.path.pop(0)


def boxed(*places: tuple[int, int, int, int], score: float = 0.5) -> Instances:
    masks = np.zeros((len(places), 40, 60), bool)
    for mask, (left, top, right, bottom) in zip(masks, places, strict=True):
        mask[top:bottom, left:right] = True
    return Instances.from_dense(masks, scores=np.full(len(places), score))


def test_each_rung_of_the_ladder_makes_one_thing_true(ladder: ModuleType) -> None:
    near, wrong = (11, 10, 21, 20), (40, 5, 50, 15)
    found, missed = (10, 10, 20, 20), (30, 25, 40, 35)
    labels, truth = boxed(near, wrong), boxed(found, missed, score=1.0)
    places = {
        oracle.__name__: [tuple(int(edge) for edge in box) for box in oracle(labels, truth).boxes]
        for oracle in ladder.L2_ORACLES.values()
    }
    assert places == {
        "exact": [wrong, found],
        "without_wrong": [near],
        "exact_without_wrong": [found],
        "with_missing": [near, wrong, missed],
    }


@pytest.mark.parametrize("phase", ["disp_init", "mask_init", "fine_tune"])
def test_both_modes_of_a_training_step_have_the_same_losses(motion: ModuleType, phase: str) -> None:
    terms = {
        mode: motion.Training("monodepthv2", (64, 96), 1, phase, mode).step()
        for mode in ("ours", "baseline")
    }
    assert terms["ours"].keys() == terms["baseline"].keys()
    # Ours runs in half precision where the machine is fast at it.
    precision = 0.05 if motion.has_fast_bf16(torch.device("cpu")) else 1e-3
    for name, value in terms["ours"].items():
        if name not in {"loss", "above_ground"}:  # the ground is found by other random draws
            torch.testing.assert_close(value, terms["baseline"][name], rtol=precision, atol=1e-6)


def test_the_looped_ground_plane_is_the_same_plane(motion: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(2, 1, 400, generator=generator)
    points = torch.stack([x, 0.1 * x - 0.05 * z + 0.4, z], 1)  # (1, 3, 400)
    plane = motion.looped_plane(points, generator)
    torch.testing.assert_close(plane, torch.tensor([[0.1, -0.05, 0.4]]), atol=1e-3, rtol=0)


def test_both_ways_to_a_sample_have_the_same_objects(detector: ModuleType, tmp_path: Path) -> None:
    refs = detector.write_frames(tmp_path, (128, 192), 2)
    places = (tmp_path / "frames", refs, tmp_path / "labels", detector.AugmentationConfig())
    frames, dense = (kind(*places) for kind in (detector.LabelledFrames, detector.DenseFrames))
    for seed in range(6):
        (image, target), (same_image, same) = frames[(seed % 2, seed)], dense[(seed % 2, seed)]
        assert torch.equal(target["boxes"], same["boxes"])
        masks, same_masks = target["masks"].dense().bool(), same["masks"].bool()
        overlap = (masks & same_masks).sum((1, 2)) / (masks | same_masks).sum((1, 2))
        assert overlap.mean() > 0.8  # of small discs, whose nearest pixels are rounded otherwise
        assert (image / 255 - same_image).abs().mean() < 0.05


def test_both_modes_of_a_detector_step_have_the_same_losses(
    detector: ModuleType, tmp_path: Path
) -> None:
    refs = detector.write_frames(tmp_path, (128, 192), 1)
    frames = detector.LabelledFrames(
        tmp_path / "frames", refs, tmp_path / "labels", detector.AugmentationConfig()
    )
    config = replace(PAPER, min_size=96, max_size=144, proposals_train=200, box_hidden=64)
    terms = {
        mode: detector.Training(config, [frames[(0, 0)]], mode).step()
        for mode in ("ours", "baseline")
    }
    assert terms["ours"].keys() == terms["baseline"].keys()
    for name, value in terms["ours"].items():
        torch.testing.assert_close(value, terms["baseline"][name], rtol=1e-3, atol=1e-5)


def test_the_detector_benchmark_prints_its_table(
    detector: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["detector.py", "--quick"])
    threads = torch.get_num_threads()
    detector.main()
    torch.set_num_threads(threads)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows][:3] == [
        "sample, flip",
        "sample, flip, jitter 0.5 to 1",
        "step, street, float32, batch 2 / 1",
    ]
    assert all(float(row[column]) > 0 for row in rows for column in (1, 2, 3))


@pytest.mark.parametrize("outputs", [1, 3])
def test_multiplied_kernels_are_the_layers_of_the_motion_decoder(
    motion: ModuleType, outputs: int
) -> None:
    torch.manual_seed(0)
    decoder = MotionFieldDecoder((8, 40), outputs).double()
    for level, width in enumerate((40, 8, 3 * FRAMES)):
        inputs = torch.randn(2, outputs + width, 7, 5, dtype=torch.float64, requires_grad=True)
        results = []
        for added in (
            decoder.refinement(level, inputs),
            motion.layered_refinement(decoder, level, inputs),
        ):
            wanted = [inputs, *(p for layer in decoder.layers(level) for p in layer.parameters())]
            results.append([added, *torch.autograd.grad(added.square().sum(), wanted)])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 7)])
def test_structural_similarity_has_the_gradient_of_the_pooled_one(
    motion: ModuleType, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 2, 3, *size, dtype=torch.float64).requires_grad_()
    results = []
    for ssim in (photometric.ssim, motion.pooled_ssim):
        value = ssim(first, second)
        results.append([value, *torch.autograd.grad(value.square().sum(), (first, second))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_scale_benchmark_repeats_one_clip_with_its_truth(
    scale: ModuleType, tmp_path: Path
) -> None:
    clip = scale.render_clip(tmp_path / "clip")
    data = scale.repeat_clip(clip, 25, tmp_path / "data")
    frames = read_split(data / "split.txt")
    assert len(set(frames)) == 25
    assert with_neighbours(frames, data) == (frames, 0)
    truth = select_truth(data / "annotations.json", data, frames)
    objects = group_by_image(truth["annotations"])
    first, second = (objects[truth["images"][n]["id"]] for n in (0, 20))
    assert [entry["bbox"] for entry in first] == [entry["bbox"] for entry in second]
    assert frames[0].image_path(data).samefile(frames[20].image_path(data))


@pytest.mark.slow
def test_the_scale_benchmark_prints_its_table(
    scale: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py", "--frames", "8", "16"])
    scale.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[-5:]]
    stages = ["motion predict", "labels initial", "labels mobile", "labels aggregated", "measure"]
    assert [row[0].strip() for row in rows] == stages
    assert all(float(memory) > 0 for row in rows for memory in row[3].split("/"))


def test_both_ways_to_carry_masks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("correspondence")
    for name, value in {"CHANNELS": 16, "CELLS": (9, 13), "CONTEXT": 3, "RADIUS": 4}.items():
        monkeypatch.setattr(benchmark, name, value)
    for frames in (3, 5):
        benchmark.propagate_ours(tmp_path / "planes.npy", frames)
        plain = benchmark.propagate_plainly(tmp_path / "planes.npy", frames)
        # Features are rounded to 16 bits, and a temperature divides cosines.
        assert plain["difference"] < 2e-4
        assert plain["other indices"] <= 1


def test_trackers_are_compared_without_what_truth_ignores() -> None:
    benchmark = load("tracks")
    masks = np.zeros((3, 8, 24), bool)
    for index in range(3):
        masks[index, 2:6, 8 * index : 8 * index + 6] = True
    true, found = Instances.from_dense(masks[:2]), Instances.from_dense(masks)
    kept = benchmark.without_ignored(true, np.array([False, True]), found)
    assert (kept.decode() == masks[[0, 2]]).all()  # what is of no truth counts as wrong
    image, tracks = np.zeros((8, 24, 3), np.uint8), np.array([7])
    frames = [(image, true[[0]].with_columns(track=tracks), kept)] * 3
    told = benchmark.sequence(frames, Tracker())
    assert [ids.tolist() for ids in told["gt_ids"]] == [[0]] * 3
    assert [ids.tolist() for ids in told["tracker_ids"]] == [[0, 1]] * 3
    assert (told["num_gt_dets"], told["num_tracker_dets"], told["num_tracker_ids"]) == (3, 6, 2)
    assert told["similarity_scores"][0].tolist() == [[1.0, 0.0]]
