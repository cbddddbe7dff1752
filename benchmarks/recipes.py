"""Two presets of the rounds beside each other, from L0 to the final detector, seed by seed.

    bash scripts/quickstart.sh
    python benchmarks/recipes.py --run save/street --data data/street [--presets street mine.yaml]

All start from the run's L0. Trainings and labels are kept under `--out` and not repeated. Prints mean and
standard deviation over the seeds on the held-out frames; the moving2mobile round is the same for all presets
that do not change it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from options import METRICS, measure_detector, print_means

from moduv.engine.config import load_preset
from moduv.rounds.large2small import AggregatedLabelsConfig, aggregated_labels
from moduv.rounds.moving2mobile import MobileLabelsConfig, mobile_labels
from moduv.rounds.recipe import RoundConfig, train_round


def chain(preset: str, seed: int, run: Path, data: Path, out: Path) -> dict[str, float]:
    """All rounds of a preset; the metrics of the final detector."""
    split = data / "splits/train_files.txt"

    def train(section: str, labels: Path) -> Path:
        recipe = load_preset(RoundConfig, preset, section)
        folder = out / f"{section}_{seed}"
        seeded = replace(recipe, loop=replace(recipe.loop, seed=seed))
        train_round(data, split, labels, folder, seeded)
        return folder

    mobile = train("moving2mobile", run / "L0_pseudo_labels")
    first, second = out / f"L1_{seed}", out / f"L2_{seed}"
    mobile_labels(
        data, split, mobile, first, load_preset(MobileLabelsConfig, preset, "mobile_labels")
    )
    merging = load_preset(AggregatedLabelsConfig, preset, "aggregated_labels")
    large, small = train("large", first), train("small", first)
    aggregated_labels(data, split, large, second, merging, small, mobile)
    return measure_detector(train("final", second), data)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--out", type=Path, default=Path("save/recipes"))
    parser.add_argument("--presets", nargs="+", default=["street"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {preset: [] for preset in options.presets}
    for seed in options.seeds:
        for preset, rows in table.items():
            rows.append(chain(preset, seed, options.run, options.data, options.out / preset))
            print(preset, seed, {metric: round(rows[-1][metric], 3) for metric in METRICS})
    print_means("preset", table)


if __name__ == "__main__":
    main()
