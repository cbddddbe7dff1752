"""Depth on what moves: what pseudo-depth is worth on the street world, and how fast and small its parts are.

    bash scripts/quickstart.sh
    python benchmarks/depth.py street --run save/street --data data/street [--rows none road …] [--seeds 0 1 2]
    python benchmarks/depth.py warp
    python benchmarks/depth.py steps

`street` trains the stage 1 of a finished run on, as in the preset `street`, and prints abs_rel of all, static and moving
pixels of the held-out frames under one scale an image:

    before   stage 1 as it is
    none     trained on as long, moving pixels left out, without pseudo-depth
    below    with pseudo-depth from the pixels just below each object
    road     with pseudo-depth from the plane of the road where each object stands, as in the preset
    free     the same, and static pixels are not held where they are
    large    as `road`, with objects from half a percent of the image on
    all      as `road`, for all objects, also parked ones: an image does not tell them from those that move
    aligned  with pseudo-depth from the alignment that parked objects teach
    true     with the true masks and depths of what moves, in the scale of stage 1: the ceiling

Trainings are kept under `--out` and not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.alignment import AlignmentConfig, alignment_losses, train_alignment
from moduv.dynamic_depth.mining import make_pseudo_depth
from moduv.dynamic_depth.networks.alignment import DepthScaleAlignment
from moduv.dynamic_depth.objects import ObjectsConfig, find_objects
from moduv.dynamic_depth.pixelwise.model import PixelwiseNetworks, pixelwise_terms
from moduv.dynamic_depth.pseudo import PseudoDepth, object_depth, write_pseudo_depth
from moduv.dynamic_depth.scales import ScaleConfig
from moduv.engine.config import load_preset
from moduv.engine.files import read_json, read_npz, write_json
from moduv.evaluation.depth_regions import PROTOCOLS, evaluate_depths
from moduv.frames.splits import read_split
from moduv.motion.predict import MotionPredictionConfig, predict_motion
from moduv.rounds.dynamic_depth import DepthTrainingConfig, train_depth
from moduv.runs.chains import folder

ROWS = ("none", "below", "road", "free", "large", "all", "aligned", "true")
METRICS = ("abs_rel_all", "abs_rel_static", "abs_rel_dynamic", "object_scale_error")


def true_pseudo_depth(split: Path, outputs: Path, truth: Path, out: Path) -> None:
    """Pseudo-depth of the true moving objects at their true depth, in the scale of stage 1."""
    count = 0
    for frame in read_split(split):
        depth = read_npz(frame.file(outputs, ".npz"), ("depth",))["depth"].astype(np.float32)
        known = read_npz(frame.file(truth, ".npz"), ("depth", "instances", "ids", "moving"))
        scaled = known["depth"].astype(np.float32) * np.median(depth) / np.median(known["depth"])
        masks = [known["instances"] == i for i in known["ids"][known["moving"].astype(bool)]]
        objects = [
            object_depth(depth, mask, float(np.median(scaled[mask])), flat=True)
            for mask in masks
            if mask.sum() >= 12
        ]
        count += len(objects)
        write_pseudo_depth(frame.file(out, ".npz"), PseudoDepth(depth.shape, tuple(objects)))
    known = {"stage": "depth pseudo", "config": {}, "inputs": {"truth": "true"}}
    write_json(out / "manifest.json", {**known, "results": {"objects": count}})


def prepare(pseudo: str, outputs: Path, out: Path, given: argparse.Namespace) -> None:
    """Make the pseudo-depth of a row where it is missing, from the depth of motion outputs."""
    split = given.data / "splits/train_files.txt"
    if pseudo == "true":
        if not (out / "manifest.json").is_file():
            true_pseudo_depth(split, outputs, given.data / "truth", out)
        return
    found = load_preset(ObjectsConfig, "street", "depth_objects")
    if pseudo == "large":
        found = replace(found, smallest=0.005)
    kind = pseudo if pseudo in {"large", "all"} else "moving"
    labels, objects = folder(given.run, "L2"), given.out / f"objects_{kind}"
    moved = labels if pseudo == "all" else folder(given.run, "L0")
    find_objects(split, labels, moved, objects, found)
    scales = load_preset(ScaleConfig, "street", "pseudo_depth")
    scales = replace(scales, plane=pseudo != "below")
    if pseudo == "aligned":
        alignment = given.out / "alignment"
        config = load_preset(AlignmentConfig, "street", "depth_alignment")
        train_alignment(given.data, split, outputs, objects, alignment, config)
        make_pseudo_depth(split, outputs, objects, out, scales, alignment, given.data)
    else:
        make_pseudo_depth(split, outputs, objects, out, scales)


def predicted(weights: Path, split: str, out: Path, given: argparse.Namespace) -> Path:
    """Depth of a split by some weights."""
    files = given.data / f"splits/{split}_files.txt"
    predict_motion(given.data, files, weights, out, MotionPredictionConfig(16, half=True))
    return out


def measure(weights: Path, given: argparse.Namespace) -> dict[str, float]:
    """Errors of held-out frames by region, kept beside the weights' predictions."""
    out = predicted(weights, "val", given.out / f"val_{weights.name}", given)
    if not (out / "metrics.json").is_file():
        frames = read_split(given.data / "splits/val_files.txt")
        metrics = evaluate_depths(out, given.data / "truth", frames, PROTOCOLS["street"])
        write_json(out / "metrics.json", metrics, indent=1)
    return read_json(out / "metrics.json")


def trained(name: str, seed: int, given: argparse.Namespace) -> Path:
    """The weights of a row, trained where they are missing."""
    source, out = {"none": "road", "free": "road"}.get(name, name), given.out / f"{name}_{seed}"
    split = given.data / "splits/train_files.txt"
    start, outputs = folder(given.run, "motion"), folder(given.run, "motion_outputs")
    pseudo = given.out / f"pseudo_{source}"
    prepare(source, outputs, pseudo, given)
    config = load_preset(DepthTrainingConfig, "street", "depth")
    changed = replace(
        config,
        loop=replace(config.loop, seed=seed),
        weight=0.0 if name == "none" else config.weight,
        hold=0.0 if name == "free" else config.hold,
    )
    train_depth(given.data, split, start, pseudo, out, changed)
    return out


def street(given: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    given.out = given.out or given.run / "depth_benchmark"
    print(f"{'':<10}" + "".join(f"{name:>22}" for name in METRICS))
    show("before", [measure(folder(given.run, "motion"), given)])
    for name in given.rows:
        show(name, [measure(trained(name, seed, given), given) for seed in given.seeds])


def show(row: str, found: list[dict[str, float]]) -> None:
    """Print mean and standard deviation over the seeds."""
    cells = ([metrics[name] for metrics in found] for name in METRICS)
    print(
        f"{row:<10}" + "".join(f"{np.mean(c):>13.4f} ± {np.std(c):.4f}" for c in cells), flush=True
    )


def looped_depth(depth: Tensor, K: Tensor, pose: Tensor, upsample: int = 3) -> Tensor:
    """The depth of a forward warp as by a loop over the batch with a sparse coalesce: sort, unique, reduce."""
    height, width = depth.shape[-2:]
    warped = []
    for image, camera, motion in zip(depth.split(1), K.split(1), pose.split(1), strict=True):
        fine = camera.clone()
        fine[:, :2] *= upsample
        points = geometry.back_project(F.interpolate(image, scale_factor=upsample), fine.inverse())
        points = geometry.transform(motion, points)
        x, y = geometry.homogeneous_coordinates(points, camera).flatten(2)[0].trunc().long()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (points[0, 2].flatten() > 0)
        places, nearness = (y * width + x)[inside], 1 / points[0, 2].flatten()[inside]
        order = places.argsort()
        unique, inverse = places[order].unique_consecutive(return_inverse=True)
        nearest = torch.zeros(len(unique)).scatter_reduce(0, inverse, nearness[order], "amax")
        sparse = torch.sparse_coo_tensor(
            unique[None], nearest, (height * width,), check_invariants=False
        )
        found = sparse.coalesce().to_dense().view(1, 1, height, width)
        warped.append(torch.where(found > 0, 1 / found, 0.0))
    return torch.cat(warped)


def looped(image: Tensor, depth: Tensor, K: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """The same with colours, image by image."""
    warped = looped_depth(depth, K, pose)
    seen = warped > 0
    places = geometry.back_project(torch.where(seen, warped, 1.0), K.inverse())
    origins = geometry.transform(geometry.inverse_pose(pose), places)
    colours = [
        geometry.warp(i, c)
        for i, c in zip(
            image.split(1), geometry.homogeneous_coordinates(origins, K).split(1), strict=True
        )
    ]
    return torch.cat(colours) * seen, warped


def road_batch(batch: int, height: int = 192, width: int = 512) -> tuple[Tensor, ...]:
    """Images, depths of a road with boxes on it, cameras and a step of 0.8 ahead."""
    source = torch.Generator().manual_seed(0)
    rows = torch.arange(height)[:, None].expand(height, width)
    depth = (400 / (rows - 0.4 * height).clamp(min=5)).repeat(batch, 1, 1, 1)
    for image in depth[:, 0]:
        for _ in range(6):
            top, left = (int(x) for x in torch.randint(60, 140, (2,), generator=source))
            image[top : top + 40, 3 * left : 3 * left + 60] = image[min(top + 41, height - 1), 0]
    K = torch.eye(4).repeat(batch, 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = 0.6 * width
    K[:, 0, 2], K[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
    pose = torch.eye(4).repeat(batch, 1, 1)
    pose[:, 2, 3] = -0.8
    return torch.rand(batch, 3, height, width, generator=source), depth, K, pose


def warp(given: argparse.Namespace) -> None:
    """Print processor time of a forward warp of a batch of 12 at 192 x 512, in seconds: fastest and median of some runs."""
    torch.set_num_threads(1)
    batch = road_batch(12)
    difference = (looped(*batch)[1] - geometry.forward_warp(*batch)[1]).abs()
    print(
        f"pixels whose depth differs by more than a ten thousandth: {(difference > 1e-2).float().mean():.5f}"
    )
    taken = []
    for name, work in (("loop, coalesce", looped), ("forward_warp", geometry.forward_warp)):
        seconds = []
        for _ in range(given.runs):
            start = time.process_time()
            work(*batch)
            seconds.append(time.process_time() - start)
        taken.append(seconds)
        print(f"{name:<16} {min(seconds):.3f} {statistics.median(seconds):.3f}")
    fastest, medians = ([f(each) for each in taken] for f in (min, statistics.median))
    print(f"{'times as fast':<16} {fastest[0] / fastest[1]:.1f} {medians[0] / medians[1]:.1f}")


def steps(given: argparse.Namespace) -> None:
    """Print images a second of training steps at 192 x 512: alignment of 4 objects, and stage 1 with all its networks."""
    torch.set_num_threads(1)
    images, depth, K, _ = road_batch(4)
    mask = (depth < 20).float()
    batch = {
        "image": images,
        "mask": mask,
        "road": depth * (1 - mask),
        "shape": mask,
        "depth": depth,
    }
    net = DepthScaleAlignment()
    triplets = {"augmented": images[:1, None].expand(-1, 3, -1, -1, -1).contiguous(), "K": K[:1]}
    model = PixelwiseNetworks()

    def alignment() -> Tensor:
        return alignment_losses(net, batch)["loss"]

    def stage1() -> Tensor:
        return pixelwise_terms(model, triplets, residual=True, sparse=True)[0]["loss"]

    for name, work, module, count in (
        ("alignment", alignment, net, len(images)),
        ("stage 1", stage1, model, 1),
    ):
        optimizer = torch.optim.Adam(module.parameters(), 1e-4)
        seconds = []
        for _ in range(given.runs):
            start = time.process_time()
            optimizer.zero_grad()
            work().backward()
            optimizer.step()
            seconds.append(time.process_time() - start)
        print(f"{name:<16} {count / min(seconds):.2f} images a second of processor time")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = parser.add_subparsers(required=True)
    table = kinds.add_parser("street")
    for name in ("run", "data"):
        table.add_argument(f"--{name}", type=Path, required=True)
    table.add_argument("--out", type=Path, help="by default depth_benchmark in the run")
    table.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    table.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    table.set_defaults(function=street)
    for name, function in (("warp", warp), ("steps", steps)):
        times = kinds.add_parser(name)
        times.add_argument("--runs", type=int, default=5)
        times.set_defaults(function=function)
    given = parser.parse_args()
    given.function(given)


if __name__ == "__main__":
    main()
