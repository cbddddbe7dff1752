"""Small weights, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

import torch

from moduv.engine import checkpoint


def weights(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(path, {"weight": torch.full((3,), value)})
    return path


def content(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
