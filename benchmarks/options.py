"""What each option of the detector's recipe is worth: one round of a finished run, seed by seed.

    bash scripts/quickstart.sh
    python benchmarks/options.py --run save/street --data data/street [--round final]
        [--options plain paste] [--seeds 0 1 2]

Everything but the option is as in the preset `street`: labels, network, length. "plain" does not paste. The final round is trained
on L2, Moving2Mobile on L0, where what stands still is unlabelled background. Trainings are kept under
`--out` and not repeated. Prints mean and standard deviation over the seeds on the held-out frames.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from moduv.detector.weights import load_detector
from moduv.engine.config import load_preset
from moduv.engine.files import read_json, write_json
from moduv.evaluation.detection import evaluate
from moduv.frames.splits import read_split
from moduv.instances.coco import select_images
from moduv.rounds.recipe import RoundConfig, train_round

METRICS = ("box/AP50", "box/AP", "mask/AP50", "box/recall_small", "box/recall_static")


LABELS = {"final": "L2", "moving2mobile": "L0"}
"""What a round is trained on."""


def recipes(round_name: str) -> dict[str, RoundConfig]:
    """A round's recipe with one option at a time."""
    recipe = load_preset(RoundConfig, "street", round_name)
    plain = replace(recipe, augmentation=replace(recipe.augmentation, paste=0.0))
    return {"plain": plain, "paste": recipe}


def measure(recipe: RoundConfig, labels: Path, data: Path, out: Path) -> dict[str, float]:
    """Train a detector on labels, unless it is there, and measure it on held-out frames."""
    train_round(data, data / "splits/train_files.txt", labels, out, recipe)
    return measure_detector(out, data)


def measure_detector(folder: Path, data: Path) -> dict[str, float]:
    """The metrics of a trained detector on held-out frames, kept beside it."""
    if (folder / "metrics.json").is_file():
        return read_json(folder / "metrics.json")
    frames = read_split(data / "splits/val_files.txt")
    names = [frame.image_path(data).relative_to(data).as_posix() for frame in frames]
    truth = select_images(data / "annotations/val.json", names)
    numbers = {image["file_name"]: image["id"] for image in truth["images"]}
    results = []
    found = load_detector(folder).stream([data / name for name in names], batch_size=8)
    for (_, predictions), name in zip(found, names, strict=True):
        results += predictions.to_instances().to_coco(numbers[name])
    metrics = evaluate(truth, results, areas="street")
    write_json(folder / "metrics.json", metrics)
    return metrics


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--out", type=Path, default=Path("save/options"))
    parser.add_argument("--round", choices=list(LABELS), default="final")
    known = list(recipes("final"))
    parser.add_argument("--options", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name in options.options:
            recipe = recipes(options.round)[name]
            recipe = replace(recipe, loop=replace(recipe.loop, seed=seed))
            labels = options.run / f"{LABELS[options.round]}_pseudo_labels"
            out = options.out / options.round / f"{name}_{seed}"
            metrics = measure(recipe, labels, options.data, out)
            table.setdefault(name, []).append(metrics)
    print_means("option", table)


def print_means(what: str, table: dict[str, list[dict[str, float]]]) -> None:
    """Mean and standard deviation over the rows of each name."""
    print(f"| {what} | " + " | ".join(METRICS) + " |")
    print("|---|" + "---|" * len(METRICS))
    for name, rows in table.items():
        values = [[row[metric] for row in rows] for metric in METRICS]
        cells = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in values]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
