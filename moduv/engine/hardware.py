"""What the machine can do, and which preset suits it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from moduv import __version__
from moduv.engine.errors import InputError
from moduv.engine.parallel import cores

PAPER_MEMORY = 10.0
"""GiB of GPU memory that the published networks train in, one frame at 1280 x 1920 at a time."""


@dataclass(frozen=True)
class Gpu:
    """One accelerator."""

    name: str
    memory: float
    """GiB."""
    bf16: bool


def gpus() -> list[Gpu]:
    """The CUDA devices in sight."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(Gpu(properties.name, memory, properties.major >= 8))
    return found


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises InputError for other names and for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (index.isdigit() or name == "cuda")):
        raise InputError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices; choose cpu or auto, "
            "and see what moduv doctor says."
        )
    return torch.device(name)


def half_type(device: torch.device) -> torch.dtype:
    """The 16-bit floating point type that suits a GPU. Raises InputError for a CPU."""
    if device.type != "cuda":
        raise InputError(
            f"half precision needs a CUDA device, and this is {device.type!r}; leave out half."
        )
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def memory() -> float | None:
    """GiB of main memory that this process may use; None where the system does not tell."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    told = limit.read_text().strip() if limit.is_file() else ""
    return min(pages * size, int(told) if told.isdigit() else pages * size) / 2**30


def propose_preset() -> tuple[str, str]:
    """The preset that suits the machine, and why."""
    found = gpus()
    if not found:
        return "street", f"no GPU found, {cores()} processors; small networks, minutes not days"
    best = max(found, key=lambda gpu: gpu.memory)
    if best.memory < PAPER_MEMORY:
        return (
            "street",
            f"{best.name} has {best.memory:.0f} GiB, and the published networks need {PAPER_MEMORY:.0f}",
        )
    return "paper", f"{best.name} with {best.memory:.0f} GiB; the published networks and values"


def environment() -> dict[str, str]:
    """Versions and hardware, for reports."""
    import cv2
    import numpy
    import torchvision

    size = memory()
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "moduv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(cores()),
        "memory": "unknown" if size is None else f"{size:.0f} GiB",
        "accelerator": accelerator,
    }


def _processor() -> str:
    """Name of the processor, if known."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown"
