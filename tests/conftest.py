"""Shared fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and real samples beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"the golden vectors and real samples are not at ../{folder.name}")
    return folder


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street world of two clips of six frames each to train on and to look at; eight triplets each."""
    from moduv.street.dataset import StreetConfig, render_dataset

    root = tmp_path_factory.mktemp("street")
    render_dataset(root, StreetConfig(train_clips=2, val_clips=2, frames_per_clip=6, workers=1))
    return root


@pytest.fixture(scope="session")
def trained(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 trained on the street for one step a phase."""
    from motion_world import config

    from moduv.runs.watch import train_stage1

    out = tmp_path_factory.mktemp("trained") / "motion"
    train_stage1(street, street / "splits/train_files.txt", out, config(1))
    return out
