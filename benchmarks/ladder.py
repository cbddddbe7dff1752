"""The oracle ladder: what each stage of a finished run loses, by putting ground truth in its place.

    bash scripts/quickstart.sh
    python benchmarks/ladder.py --run save/street --data data/street [--preset street] [--seeds 0 1 2]

The upper rows train the final round on L2 after some of it was made true; the lower rows train all rounds
on an L0 of all moving objects, which no depth, flow or clustering could beat. The gap between two rows is
what better outlines, fewer wrong labels, fewer missing objects or a better L0 would gain. Truth measures
here, and nothing that is trained is used elsewhere. Trainings are kept under `--out` and not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from options import measure_detector

from moduv.engine.config import load_preset
from moduv.engine.files import read_json
from moduv.engine.pipeline import Place, perform
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.coco import coco_instances, group_by_image, select_images
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, read_labels, write_labels
from moduv.rounds.recipe import RoundConfig, train_round
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import FINAL, UPPER_BOUND, chain_of, folder

ROUNDS = ("moving2mobile", "L1", "large", "small", "L2", "final")
COLUMNS = ("box/AP50", "mask/AP50", "box/recall_small", "box/recall_large", "box/recall_static")
Oracle = Callable[[Instances, Instances], Instances]
"""Labels of a frame and its true objects -> better labels."""


def matches(labels: Instances, truth: Instances) -> list[tuple[int, int]]:
    """Pairs of a label and the true object that it finds: IoU of masks at least 0.5, the best first."""
    iou = labels.iou(truth) if len(labels) and len(truth) else np.zeros((0, 0))
    pairs = []
    while iou.size and iou.max() >= 0.5:
        label, thing = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((int(label), int(thing)))
        iou[label], iou[:, thing] = 0, 0
    return pairs


def exact(labels: Instances, truth: Instances) -> Instances:
    """True masks and boxes for the labels that find an object; the others stay."""
    pairs = matches(labels, truth)
    found = [label for label, _ in pairs]
    others = [n for n in range(len(labels)) if n not in found]
    return Instances.concatenate([labels[others], truth[[thing for _, thing in pairs]]])


def without_wrong(labels: Instances, truth: Instances) -> Instances:
    """The labels that find an object."""
    return labels[sorted(label for label, _ in matches(labels, truth))]


def exact_without_wrong(labels: Instances, truth: Instances) -> Instances:
    """The objects that the labels find."""
    return truth[sorted(thing for _, thing in matches(labels, truth))]


def with_missing(labels: Instances, truth: Instances) -> Instances:
    """The labels and the objects that they miss."""
    found = {thing for _, thing in matches(labels, truth)}
    missing = [n for n in range(len(truth)) if n not in found]
    return Instances.concatenate([labels, truth[missing]])


L2_ORACLES: dict[str, Oracle] = {
    "L2, outlines of its objects exact": exact,
    "L2 without its wrong labels": without_wrong,
    "L2, exact and without wrong ones": exact_without_wrong,
    "L2 and all objects that it misses": with_missing,
}


def true_objects(data: Path, frames: list[FrameRef], *, moving: bool) -> dict[FrameRef, Instances]:
    """The true objects of frames, all or those that move, with score 1."""
    names = [f"{frame.segment}/{frame.index:06d}.jpg" for frame in frames]
    content = select_images(data / "annotations/train.json", names)
    wanted = (
        entry
        for entry in content["annotations"]
        if not entry.get("ignore") and (entry.get("moving") == 1 or not moving)
    )
    grouped = group_by_image(wanted)
    found = {}
    for frame, image in zip(frames, content["images"], strict=True):
        objects = coco_instances(grouped.get(image["id"], []), (image["height"], image["width"]))
        ones = np.ones(len(objects), np.float32)
        found[frame] = Instances(objects.masks, objects.boxes, ones, objects.size)
    return found


def train_on(
    oracle: Oracle, run: Path, data: Path, preset: str, seed: int, out: Path
) -> dict[str, float]:
    """Train the final round on what an oracle makes of a run's L2; metrics on the held-out frames."""
    split = data / "splits/train_files.txt"
    frames = read_split(split)
    truth = true_objects(data, frames, moving=False)
    for frame in frames:
        if not is_labelled(out / "labels", frame):
            labels = read_labels(folder(run, "L2"), frame)
            plain = Instances(labels.masks, labels.boxes, labels.scores, truth[frame].size)
            write_labels(out / "labels", frame, oracle(plain, truth[frame]))
    recipe = load_preset(RoundConfig, preset, "final")
    recipe = replace(recipe, loop=replace(recipe.loop, seed=seed))
    train_round(data, split, out / "labels", out / f"final_{seed}", recipe)
    return measure_detector(out / f"final_{seed}", data)


def rounds_on_true_motion(data: Path, preset: str, out: Path) -> dict[str, dict[str, float]]:
    """All rounds on an L0 of every moving object; metrics of each detector by its title."""
    splits = {on: data / f"splits/{on}_files.txt" for on in ("train", "val")}
    frames = read_split(splits["train"])
    for frame, objects in true_objects(data, frames, moving=True).items():
        if not is_labelled(folder(out, "L0"), frame):
            write_labels(folder(out, "L0"), frame, replace(objects, scores=None))
    chain, place = chain_of(preset), Place(out, data, splits)
    metrics = {}
    for step in chain:
        if step.name in ROUNDS:
            perform(step, chain, place, COMMANDS[step.command], preset)
        if step.name in ROUNDS and step.command.startswith("round "):
            metrics[step.title] = measure_detector(folder(out, step.name), data)
    return metrics


def row_of(name: str, rows: list[dict[str, float]], bound: float) -> str:
    """A row of the table: means over seeds, and the ratio to the supervised upper bound."""
    means = [float(np.mean([row[column] for row in rows])) for column in COLUMNS]
    cells = [f"{means[0]:.3f}", f"{means[0] / bound:.2f}", *(f"{mean:.3f}" for mean in means[1:])]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--preset", default="street")
    parser.add_argument("--out", type=Path, default=Path("save/ladder"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    measured = read_json(folder(options.run, "evaluation") / "metrics.json")
    bound = measured[UPPER_BOUND]["box/AP50"]
    table = {"nothing": [measured[FINAL]]}
    for name, oracle in L2_ORACLES.items():
        where = options.out / oracle.__name__
        table[name] = [
            train_on(oracle, options.run, options.data, options.preset, seed, where)
            for seed in options.seeds
        ]
    rounds = rounds_on_true_motion(options.data, options.preset, options.out / "true_motion")
    table |= {f"L0, all that moves: {name}": [row] for name, row in rounds.items()}
    table["everything"] = [measured[UPPER_BOUND]]
    print("| what is replaced by truth | AP50 | ratio | mask AP50 | small | large | static |")
    print("|---|" + "---|" * (1 + len(COLUMNS)))
    for name, rows in table.items():
        print(row_of(name, rows, bound))


if __name__ == "__main__":
    main()
