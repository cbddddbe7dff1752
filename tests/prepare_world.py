"""How each raw form is written and prepared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import raw_samples as raw

from moduv.datasets.kitti import prepare_kitti
from moduv.datasets.nuscenes.prepare import prepare_nuscenes
from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.waymo.prepare import prepare_waymo

CONFIG = PrepareConfig(height=32, width=64, workers=1)


def nuscenes(source: Path, out: Path, config: PrepareConfig) -> None:
    prepare_nuscenes(source, out, config, version="v1.0-mini")


FORMS: dict[str, tuple[Callable[[Path], Path], Callable[..., None], str]] = {
    "kitti": (raw.write_kitti, prepare_kitti, "2011_09_26/2011_09_26_drive_0009_sync/image_02"),
    "nuscenes": (raw.write_nuscenes, nuscenes, "scenes/scene-0001"),
    "waymo v1": (raw.write_waymo_records, prepare_waymo, "train/segment-123"),
    "waymo v2": (raw.write_waymo_tables, prepare_waymo, "train/segment-123"),
}
