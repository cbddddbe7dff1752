"""Scripts under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys


def launch(processes: int, *arguments: object) -> str:
    """Run a script in several processes; returns what they printed."""
    torchrun = [f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
