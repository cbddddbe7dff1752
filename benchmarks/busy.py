"""Trainings and label stages on a CPU that is idle, and on one where two other programs keep two cores busy.

    python benchmarks/busy.py [--steps 100] [--quick]

Renders a small street world, then runs stage 1 (`disp_init`) and a round as the command line does, once
for each way of using the cores, and prints steps a second between two lines of the log.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from moduv.engine.log import read_log

ALONE = {"WORLD_SIZE": "1", "RANK": "0"}
WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "threads that spin": {**ALONE, "GOMP_SPINCOUNT": "300000"},
    "threads, 10000 spins": {**ALONE, "GOMP_SPINCOUNT": "10000"},
    "threads, 1000 spins": {**ALONE, "GOMP_SPINCOUNT": "1000"},
    "threads that sleep": {**ALONE, "GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environment of each way; `default` is what users get, `ALONE` keeps a command to one process."""
WARM_UP = 20
"""Steps that are not timed."""
MODULE = "moduv.commands.cli"


def moduv(*words: object) -> list[str]:
    return [sys.executable, "-m", MODULE, *map(str, words)]


def training(kind: str, world: Path, out: Path, steps: int) -> tuple[list[str], Path]:
    """The words of a training's command and the log that it writes."""
    common = ["--preset", "street", "--data", world, "--split", world / "splits/train_files.txt"]
    if kind == "disp_init":
        loop, log = "--config.loops.disp_init", out / "1_disp_init/log.jsonl"
        words = ["motion", "train", *common]
    else:
        loop, log = "--config.loop", out / "log.jsonl"
        words = ["round", "final", *common, "--labels", world / "labels"]
    options = {"steps": steps + WARM_UP + 10, "log_every": 10, "save_every": 10000, "warmup": 0}
    changes = [f"{loop}.{name}={value}" for name, value in options.items()]
    return [str(word) for word in (*words, *changes, "--out", out)], log


def rate(kind: str, way: str, world: Path, steps: int) -> float:
    """Steps a second of a training, from its first warm step on."""
    out = world / "run"
    words, log = training(kind, world, out, steps)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}
    times: dict[int, float] = {}
    with subprocess.Popen(
        moduv(*words), env={**clean, **WAYS[way]}, stdout=subprocess.DEVNULL
    ) as child:
        while WARM_UP + steps not in times:
            if child.poll() is not None:
                raise SystemExit(f"{kind}, {way}: the training ended with code {child.returncode}")
            for line in read_log(log):
                times.setdefault(int(line["step"]), time.monotonic())
            time.sleep(0.02)
        child.terminate()
    shutil.rmtree(out)
    return steps / (times[WARM_UP + steps] - times[WARM_UP])


@contextlib.contextmanager
def other_programs(count: int) -> Iterator[None]:
    """Keep `count` single-threaded programs busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def prepare(world: Path, clips: int) -> None:
    """Render a street world and write its ground truth as labels."""
    sizes = [f"--config.train_clips={clips}", "--config.val_clips=1"]
    split = world / "splits/train_files.txt"
    truth = ["--split", split, "--annotations", world / "annotations/train.json"]
    for words in (
        ("street", "render", "--preset", "street", "--root", world, *sizes),
        ("labels", "true", "--preset", "street", *truth, "--out", world / "labels"),
    ):
        subprocess.run(moduv(*words), check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="timed steps, a multiple of 10")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--quick", action="store_true", help="a few steps, to try the script")
    given = parser.parse_args()
    steps, clips = (10, 4) if given.quick else (given.steps, 30)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        prepare(world, clips)
        print("| training | way | idle | beside two programs | times slower |")
        print("|---|---|---|---|---|")
        for kind in ("disp_init", "final"):
            for way in given.ways:
                idle = rate(kind, way, world, steps)
                with other_programs(2):
                    # A training that starves is not waited for.
                    busy = rate(kind, way, world, max(10, steps // 3 // 10 * 10))
                print(
                    f"| {kind} | {way} | {idle:.2f} | {busy:.2f} | {idle / busy:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
