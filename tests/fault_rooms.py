"""Commands of the later rooms for the fault injector: measured flow, correspondence, names, depth on what moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SHORT = (
    "--config.loop.steps",
    "3",
    "--config.loop.batch_size",
    "2",
    "--config.loop.save_every",
    "1",
)
CLIPS = (
    *("--config.clips.frames", "2", "--config.clips.steps", "[1]", "--config.clips.size", "32"),
    *("--config.loop.warmup", "1"),
)
ONE = ("--config.workers", "1")


def room_commands(root: Path) -> dict[str, list[Any]]:
    """Every command of those rooms, below a root with a finished chain; makes what they need."""
    street, run, rooms = root / "street", root / "run", root / "rooms"
    split = street / "splits/train_files.txt"
    if not rooms.is_dir():
        _write_inputs(rooms)
    frames = ["--data", street, "--split", split]
    labels = ["--labels", run / "true_labels", *frames]
    motion = ["--motion", run / "motion_outputs"]
    names = ["--vocabulary", "street", "--encoder", f"open_clip:{rooms / 'clip'}"]
    truth = street / "annotations/train.json"
    return {
        "labels initial, measured flow": [
            *("labels", "initial", "--preset", "street", *frames, *motion, *ONE),
        ],
        "street sequences": ["street", "sequences", "--root", street],
        "correspondence train": [
            *(
                "correspondence",
                "train",
                "--preset",
                "street",
                "--data",
                street,
                *_correspondence(),
            ),
        ],
        "correspondence propagate": [
            *("correspondence", "propagate", "--data", rooms / "sequences"),
            *("--weights", rooms / "correspondence.pth"),
        ],
        "labels track": ["labels", "track", *labels],
        "follow": [
            *("follow", rooms / "sequences/JPEGImages/bear"),
            *("--mask", rooms / "sequences/Annotations/bear/00000.png"),
            *("--weights", rooms / "correspondence.pth"),
        ],
        "name": ["name", truth, "--images", street, *names],
        "name train": ["name", "train", "--annotations", truth, "--images", street, *SHORT],
        "name pretrain": ["name", "pretrain", "--preset", "street", *frames, *SHORT, *CLIPS],
        "name locate": [
            *("name", "locate", "--slots", rooms / "slots.pth", "--patches", rooms / "patches.pth"),
            *(*frames, *names, "--cfg", rooms / "locate.json"),
        ],
        "depth objects": [
            *("depth", "objects", "--preset", "street", *labels[:2], *frames[2:]),
            *("--moved", run / "true_labels"),
        ],
        "prepare cityscapes": ["prepare", "cityscapes", "--source", rooms / "cityscapes", *ONE],
    }


def _correspondence() -> list[str]:
    """A network that is trained at once, on the short clips of the tests' street world."""
    config = {
        "clips.frames": 3,
        "clips.gap": 1,
        "clips.views.smallest": "[48, 56]",
        "clips.views.crop": 32,
        "network.width": 8,
        "schedule.epochs": 1,
        "schedule.batch_size": 1,
        "schedule.save_every": 1,
        "validate_every": 0,
    }
    return [word for name, value in config.items() for word in (f"--config.{name}", str(value))]


def _write_inputs(rooms: Path) -> None:
    """Untrained networks, a sequence with its first mask, and a snippet of Cityscapes."""
    import raw_samples
    from test_correspondence_predict import write_set
    from test_naming_training import locate_config

    from moduv.correspondence.network import CorrespondenceNet
    from moduv.correspondence.weights import Checkpoint, NetworkConfig, write_checkpoint
    from moduv.engine import checkpoint
    from moduv.engine.config import to_dict
    from moduv.engine.files import write_json
    from moduv.naming.encoders import CONFIG
    from moduv.naming.patch_clip import build_patch_clip
    from moduv.naming.slots import build_grouping
    from moduv.naming.training.encoder import TINY

    torch.manual_seed(0)
    rooms.mkdir()
    network = NetworkConfig(width=8, stride=4)
    state = CorrespondenceNet(network).state_dict()
    write_checkpoint(rooms / "correspondence.pth", Checkpoint(state, network, "res3"))
    write_set(rooms / "sequences", "JPEGImages", "Annotations")
    config = locate_config()
    write_json(rooms / "locate.json", {"config": to_dict(config)})
    grouping, patches = build_grouping(config.network), build_patch_clip(config.tower)
    for name, model in (("slots", grouping), ("patches", patches), ("clip/weights", TINY.build())):
        checkpoint.save_weights(rooms / f"{name}.pth", model.state_dict())
    write_json(rooms / "clip" / CONFIG, {"model_cfg": TINY.model})
    raw_samples.write_cityscapes(rooms / "cityscapes")
