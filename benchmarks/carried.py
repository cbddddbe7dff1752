"""What labels carried to neighbouring frames are worth: their recall and precision, and what a round makes of them.

    bash scripts/quickstart.sh
    python benchmarks/carried.py labels --run save/street --data data/street [--follow save/correspondence_street]
    python benchmarks/carried.py rounds --run save/street --data data/street [--follow …] [--seeds 0 1 2]

`labels` carries a run's L0 to the first and last frames of its clips, which stage 1 cannot label, and measures it
there, on the frames that had labels, and on all of them. `rounds` trains Moving2Mobile on L0 and on the carried
sets, seed by seed, and measures the detectors on held-out frames. Sets and trainings are kept under `--out`. Truth
measures only.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from options import measure_detector, print_means

from moduv.engine.config import load_preset
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.coco import select_images
from moduv.instances.store import SUFFIX, read_labels
from moduv.rounds.carried import CarriedConfig, propagate_labels
from moduv.rounds.recipe import RoundConfig, train_round
from moduv.runs.chains import folder

METRICS = {
    "moving": "box/recall_moving",
    "small": "box/recall_moving_small",
    "medium": "box/recall_moving_medium",
    "large": "box/recall_moving_large",
    "precision": "box/precision_at_score",
}


def label_sets(given: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """The sets of carried labels by the way that they were carried."""
    ways = {"flow": None} | ({"features": given.follow} if given.follow else {})
    config = load_preset(CarriedConfig, "street", "carried")
    for name, weights in ways.items():
        split, out = given.data / "splits/train_files.txt", given.out / f"L0_{name}"
        propagate_labels(folder(given.run, "L0"), split, given.data, out, config, weights)
        yield name, out


def measure_labels(root: Path, frames: list[FrameRef], data: Path) -> dict[str, float]:
    """The metrics of a label set on some frames; those without labels count as empty."""
    names = [frame.image_path(data).relative_to(data).as_posix() for frame in frames]
    truth = select_images(data / "annotations/train.json", names)
    results = []
    for frame, image in zip(frames, truth["images"], strict=True):
        if frame.file(root, SUFFIX).is_file():
            size = (image["height"], image["width"])
            results += read_labels(root, frame).to_coco(image["id"], size)
    return evaluate(truth, results, areas="street", score_threshold=0.0)


def labels(given: argparse.Namespace) -> None:
    known = read_split(given.data / "splits/train_files.txt")
    clips = {frame.segment: frame for frame in known}
    counted = {s: itertools.count(0) for s in clips}
    frames = [
        FrameRef(segment, index)
        for segment, indices in counted.items()
        for index in itertools.takewhile(
            lambda i, s=segment: FrameRef(s, i).image_path(given.data).is_file(), indices
        )
    ]
    others = sorted(set(frames) - set(known))
    print("| labels | frames | labels in them | " + " | ".join(METRICS) + " |")
    print("|---|---|---|" + "---|" * len(METRICS))
    for name, root in [("L0", folder(given.run, "L0")), *label_sets(given)]:
        for what, chosen in {"with L0": known, "without": others, "all": frames}.items():
            found = measure_labels(root, chosen, given.data)
            cells = [f"{found[key]:.3f}" for key in METRICS.values()]
            print(f"| {name} | {what} | {found['count/predictions']:.0f} | {' | '.join(cells)} |")


def rounds(given: argparse.Namespace) -> None:
    recipe = load_preset(RoundConfig, "street", "moving2mobile")
    split = given.data / "splits/train_files.txt"
    sets = {"L0": (folder(given.run, "L0"), split)}
    sets |= {name: (root, root) for name, root in label_sets(given)}
    table: dict[str, list[dict[str, float]]] = {}
    for seed in given.seeds:
        seeded = replace(recipe, loop=replace(recipe.loop, seed=seed))
        for name, (root, frames) in sets.items():
            out = given.out / f"R1_{name}_{seed}"
            train_round(given.data, frames, root, out, seeded)
            table.setdefault(name, []).append(measure_detector(out, given.data))
            print(name, seed, round(table[name][-1]["box/AP50"], 4), flush=True)
    print_means("trained on", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=["labels", "rounds"])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--out", type=Path, default=Path("save/carried"))
    parser.add_argument("--follow", type=Path, help="a correspondence network")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    {"labels": labels, "rounds": rounds}[given.what](given)


if __name__ == "__main__":
    main()
