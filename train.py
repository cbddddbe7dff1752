"""Train the detector of one round with the options of the original's train.py.

python train.py -n waymo --round_name R1_M2M --epochs 3 --anno_dir save/waymo/L0_pseudo_labels \
    --train_files data/waymo/splits/train_files.txt --data_dir data/waymo

`moduv round …` does the same with presets and more to set; the numbered scripts chain the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from moduv.commands.cli import with_exit_codes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-n", "--name", default="example", help="name of the run below --save_dir")
    add("--round_name", default="R1", help="name of the round below the run")
    add("--preset", default="paper", help="preset whose final round gives what has no option here")
    add("--train_files", type=Path, required=True, help="split file")
    add("--data_dir", type=Path, default=Path("data/waymo"), help="folder of the frames")
    add("--save_dir", type=Path, default=Path("save"), help="folder of all runs")
    add("--anno_dir", type=Path, required=True, help="label root")
    add("--epochs", type=int, default=20)
    add("--epoch_size", type=int, default=8000, help="frames an epoch; 0: the whole split")
    add("--batch_size", type=int, default=1)
    add("--grad_agg", type=int, default=1, help="batches averaged into one step")
    add("--learning_rate", type=float, default=1e-4)
    add("--scheduler_step_size", type=int, default=10, help="epochs between halvings of the rate")
    add("--flip_aug_rate", type=float, default=0.5)
    add("--sjitter_rate", type=float, default=1.0)
    add("--sjitter_min", type=float, default=0.5)
    add("--sjitter_max", type=float, default=1.0)
    add("--backbone_weights", choices=["moco"], default="moco", help="start of the ResNet-50")
    add("--backbone_path", default="ckpts/moco_v2_800ep_pretrain.pth.tar", help="its file")
    add("--num_workers", type=int, default=2)
    add("--seed", type=int, default=0)
    return parser.parse_args()


def train(options: argparse.Namespace) -> None:
    """Translate the options into a recipe and train."""
    from moduv.detector.transforms import AugmentationConfig
    from moduv.engine.config import at_least, load_preset
    from moduv.frames.splits import read_split
    from moduv.rounds.recipe import RoundConfig, train_round

    at_least(1, options, "epochs", "batch_size", "grad_agg", "scheduler_step_size")
    at_least(0, options, "epoch_size")
    base = load_preset(RoundConfig, options.preset, "final")
    frames = options.epoch_size or len(read_split(options.train_files))
    steps_per_epoch = max(1, frames // (options.batch_size * options.grad_agg))
    loop = dataclasses.replace(
        base.loop,
        steps=options.epochs * steps_per_epoch,
        batch_size=options.batch_size,
        accumulate=options.grad_agg,
        learning_rate=options.learning_rate,
        halve_every=options.scheduler_step_size * steps_per_epoch,
        workers=options.num_workers,
        seed=options.seed,
    )
    augmentation = AugmentationConfig(
        flip=options.flip_aug_rate,
        jitter=options.sjitter_rate,
        jitter_min=options.sjitter_min,
        jitter_max=options.sjitter_max,
    )
    start = options.backbone_path if base.detector == "paper" else None
    config = dataclasses.replace(base, loop=loop, augmentation=augmentation, backbone_weights=start)
    out = options.save_dir / options.name / options.round_name
    train_round(options.data_dir, options.train_files, options.anno_dir, out, config)


if __name__ == "__main__":
    parsed = parse()
    with_exit_codes(lambda: train(parsed), resumes=True)
