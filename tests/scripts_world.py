"""The scripts, and the commands that each of them runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STAGES = {
    "1_initial_labels": ["motion train", "motion predict", "labels initial"],
    "2_moving2mobile": ["round moving2mobile", "labels mobile"],
    "3_large2small": ["round large", "labels aggregated"],
    "4_final": ["round final"],
    "5_evaluate": ["motion predict", "measure", "report"],
}
"""The numbered scripts and their commands."""
CHAIN = [command for commands in STAGES.values() for command in commands]
QUICKSTART = ["street render", *CHAIN[:-3], "labels true", "round final", *CHAIN[-3:]]
SBATCH = REPOSITORY / "scripts/slurm.sbatch"


def script(name: str, *options: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MODUV_ENVIRONMENT": "ready", **variables}
    binaries = Path(sys.executable).parent
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    command = ["bash", str(REPOSITORY / "scripts" / f"{name}.sh"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def commands(printed: str) -> list[str]:
    """The commands that a dry run prints, without their options."""
    lines = printed.splitlines()
    assert all(line.startswith("+ moduv ") for line in lines)
    return [line.removeprefix("+ moduv ").partition(" --")[0] for line in lines]
