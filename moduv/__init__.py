"""Learning to detect, segment, follow and name mobile objects from unlabeled video.

    import moduv

    detector = moduv.load_detector("save/street/R3_Final")
    found = detector.predict("frame.jpg", score=0.5)
    moduv.draw("frame.jpg", found, "out.png")

Nothing below loads torch before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moduv.detector.predictor import Detector
    from moduv.detector.weights import load_detector
    from moduv.face import draw, run, run_steps, train_round
    from moduv.frames.images import read_image
    from moduv.instances.instances import Instances, Predictions
    from moduv.labels.initial import initial_labels

__version__ = "0.2.0"

_HOMES = {
    "Detector": "moduv.detector.predictor",
    "Instances": "moduv.instances.instances",
    "Predictions": "moduv.instances.instances",
    "draw": "moduv.face",
    "initial_labels": "moduv.labels.initial",
    "load_detector": "moduv.detector.weights",
    "read_image": "moduv.frames.images",
    "run": "moduv.face",
    "run_steps": "moduv.face",
    "train_round": "moduv.face",
}

__all__ = [
    "Detector",
    "Instances",
    "Predictions",
    "draw",
    "initial_labels",
    "load_detector",
    "read_image",
    "run",
    "run_steps",
    "train_round",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'moduv' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
