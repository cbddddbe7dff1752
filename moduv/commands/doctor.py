"""Check the installation and the machine, and propose a preset."""

from __future__ import annotations

import importlib
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from moduv import __version__
from moduv.engine.errors import InputError
from moduv.engine.log import say

MODULES = {
    "open_clip_torch": "open_clip",
    "opencv-python-headless": "cv2",
    "scikit-image": "skimage",
    "docstring-parser": "docstring_parser",
    "PyYAML": "yaml",
    "Jinja2": "jinja2",
    "pillow": "PIL",
    "protobuf": "google.protobuf",
}
"""Modules whose name is not that of their package."""
OPTIONAL = {
    "export": "exporting detectors",
    "naming": "names by CLIP models",
    "video": "reading and writing video files",
    "waymo": "preparing Waymo Open v2 (parquet)",
    "supervision": "objects as supervision.Detections",
    "notebook": "running demo.ipynb",
}
"""The optional parts and what they are for."""
LEAST_DISK = 1.0
"""GiB below which nothing can be run."""
DRIVER = Path("/proc/driver/nvidia/version")
INSTALL = "run pip install -e . in the repository again"


class Problem(str):
    """A sentence about a required part that is broken."""


def doctor(ckpts: Path = Path("ckpts")) -> None:
    """Check the installation and the machine, and propose a preset.

    Args:
        ckpts: folder of the official checkpoints.

    Raises:
        InputError: when something that is needed is missing or broken.
    """
    topics: dict[str, Callable[[], Iterator[str]]] = {
        "python": _python,
        "packages": _packages,
        "operators": _operators,
        "processors": _processors,
        "GPUs": _gpus,
        "disk": _disk,
        "optional": _optional,
        "checkpoints": lambda: _checkpoints(ckpts),
        "preset": lambda: _preset(ckpts),
    }
    problems = []
    for topic, look in topics.items():
        for number, finding in enumerate(_findings(look)):
            broken = isinstance(finding, Problem)
            say(f"{'' if number else topic:<12} {'PROBLEM: ' if broken else ''}{finding}")
            problems += [finding] if broken else []
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)


def _findings(look: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Yield the findings of a check. Without torch some checks cannot run; the packages report that once."""
    try:
        yield from look()
    except (ImportError, OSError, RuntimeError) as error:
        yield f"not looked at ({_reason(error)})"


def _python() -> Iterator[str]:
    yield f"{platform.python_version()} on {platform.system()} {platform.machine()}, moduv {__version__}"


def required_packages(extra: str = "") -> list[str]:
    """The packages that every installation, or an optional part, needs."""
    found = []
    for line in metadata.requires("moduv") or []:
        requirement, _, condition = line.partition(";")
        part = re.search(r"""extra == ['"](\w+)""", condition)
        if (part[1] if part else "") == extra:
            found.append(re.split(r"[^A-Za-z0-9_-]", requirement, maxsplit=1)[0])
    return found


def _packages() -> Iterator[str]:
    versions = []
    for package in required_packages():
        try:
            importlib.import_module(MODULES.get(package, package))
        except (ImportError, OSError, RuntimeError) as error:
            yield Problem(f"{package} cannot be imported ({_reason(error)}); {INSTALL}.")
            continue
        versions.append(f"{package} {_version(package)}")
    for start in range(0, len(versions), 5):
        yield ", ".join(versions[start : start + 5])


def _operators() -> Iterator[str]:
    """torchvision's compiled part fails when it was built for another torch, and not before it is used."""
    import torch

    pair = f"torch {torch.__version__} and torchvision {_version('torchvision')}"
    try:
        from torchvision.ops import nms

        for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
            boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], device=device)
            kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
            if kept.tolist() != [0, 2]:
                yield Problem(f"{pair} give wrong results on {device}; {INSTALL}.")
    except (ImportError, OSError, RuntimeError, NotImplementedError, AttributeError) as error:
        yield Problem(f"{pair} do not work together ({_reason(error)}); {INSTALL}.")
        return
    yield f"{pair} work together"


def _processors() -> Iterator[str]:
    from moduv.engine import hardware

    memory = hardware.memory()
    yield f"{hardware.cores()}" + (f", {memory:.0f} GiB of memory" if memory else "")


def _gpus() -> Iterator[str]:
    import torch

    from moduv.engine import hardware

    found = hardware.gpus()
    for gpu in found:
        bf16 = "with" if gpu.bf16 else "without"
        yield f"{gpu.name}, {gpu.memory:.0f} GiB, {bf16} bfloat16"
    if found:
        return
    yield "none that torch can use"
    if DRIVER.is_file():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "processors only"
        yield (
            f"an NVIDIA driver is here, and torch is built for {built}; pytorch.org/get-started says which "
            "build suits the driver"
        )


def _disk() -> Iterator[str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield f"{free:.0f} GiB free in this folder"
    if free < LEAST_DISK:
        yield Problem(f"{Path.cwd()}: {free:.1f} GiB are free; make room or work elsewhere.")


def _optional() -> Iterator[str]:
    for part, purpose in OPTIONAL.items():
        found = []
        for package in required_packages(part):
            try:
                importlib.import_module(MODULES.get(package, package))
            except (ImportError, OSError) as error:
                yield f"{package} is missing ({_reason(error)}): {purpose}; pip install -e '.[{part}]'"
                break
            found.append(f"{package} {_version(package)}")
        else:
            yield f"{', '.join(found)}: {purpose}"


def _checkpoints(folder: Path) -> Iterator[str]:
    from moduv.commands.checkpoints import CATALOGUE, is_here, state

    here = [item for item in CATALOGUE if is_here(item, folder)]
    for item in here:
        yield f"{item.name}: {state(item, folder)}, {item.what}"
    if not here:
        yield f"no official ones in {folder}; moduv checkpoints list says which there are"


def _preset(folder: Path) -> Iterator[str]:
    from moduv.commands.checkpoints import choose, is_here
    from moduv.engine.hardware import propose_preset

    name, reason = propose_preset()
    yield f"{name}: {reason}"
    missing = [item.name for item in choose(["paper"]) if not is_here(item, folder)]
    if name == "paper" and missing:
        yield f"it starts from {', '.join(missing)}, not in {folder}; moduv checkpoints fetch"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
