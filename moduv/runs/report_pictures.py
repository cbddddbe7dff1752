"""The report's pictures: the same held-out frames after every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from moduv.engine.config import build
from moduv.engine.files import read_npz
from moduv.engine.log import progress
from moduv.engine.stages import MANIFEST, read_manifest
from moduv.evaluation.agreement import Agreement
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image
from moduv.labels.initial import InitialConfig
from moduv.rounds.evidence import Clip as MeasuredClip
from moduv.rounds.evidence import with_errors_of
from moduv.runs.chains import LABEL_SETS, folder
from moduv.runs.findings import Findings, one_per_clip
from moduv.visual.drawing import draw_depth, draw_depth_error, draw_motion, enlarge
from moduv.visual.page import Clip, Frame
from moduv.visual.steps import draw_evidence, draw_sets

LARGEST = 960
"""Widest picture of a single frame; those of clips are half as wide."""


@dataclass(frozen=True)
class Pictures:
    """Draws held-out frames of a run, layer by layer."""

    run: Path
    data: Path
    findings: Findings
    width: int
    """Small frames are enlarged to at least this width."""

    @cached_property
    def initial(self) -> InitialConfig | None:
        """How L0 was made, if it was: with the errors that measured flow was expected to have."""
        step = LABEL_SETS["L0"]
        manifest = read_manifest(folder(self.run, step.name))
        if manifest.get("stage") != step.command:
            return None
        source = str(folder(self.run, step.name) / MANIFEST)
        config = build(InitialConfig, manifest["config"], source)
        return with_errors_of(config, manifest["results"], source)

    def layers(self, frame: FrameRef, largest: int = LARGEST) -> dict[str, np.ndarray]:
        """Frame, depth, motion mask, label sets, detections and truth as pictures."""
        image = fit(read_image(frame.image_path(self.data)), self.width, largest)
        path = frame.file(folder(self.run, "motion_val"), ".npz")
        output = read_npz(path, ("depth",), ("mot_mask",))
        layers = {
            "frame": image,
            "depth": fit(draw_depth(output["depth"].astype(np.float32)), self.width, largest),
        }
        layers |= {
            name: fit(picture, self.width, largest)
            for name, picture in self._taught(frame, output["depth"]).items()
        }
        if "mot_mask" in output:
            layers["motion"] = draw_motion(image, output["mot_mask"].astype(np.float32))
        elif self.initial is not None and self.initial.flow.noise is not None:
            motion = folder(self.run, "motion_val")
            clip = MeasuredClip(frame.segment, self.data, motion, self.initial.flow.noise)
            length = clip.evidence(frame.index).length
            layers["motion"] = draw_evidence(image, length, self.initial.flow)
        index = self.findings.frames.index(frame)
        sets = {name: found[index] for name, found in self.findings.layers.items()}
        return layers | draw_sets(image, sets)

    def _taught(self, frame: FrameRef, before: np.ndarray) -> dict[str, np.ndarray]:
        """Depth that moving objects have taught, where there is one, and errors before and after."""
        path = frame.file(folder(self.run, "depth_val"), ".npz")
        if not path.is_file():
            return {}
        after = read_npz(path, ("depth",))["depth"].astype(np.float32)
        layers = {"depth after": draw_depth(after)}
        truth = frame.file(self.data / "truth", ".npz")
        if truth.is_file():
            true = read_npz(truth, ("depth",))["depth"].astype(np.float32)
            layers["true depth"] = draw_depth(np.where(true > 0, true, np.inf))
            layers["error before"] = draw_depth_error(before, true)
            layers["error after"] = draw_depth_error(after, true)
        return layers

    def frames(self, telling: Sequence[FrameRef], extremes: int) -> list[Frame]:
        """Telling frames, and those that turned out best and worst, with what was found on them."""
        has_truth = self.findings.truth is not None
        title = "most moving and parked objects" if has_truth else "most labels"
        verdicts = self.findings.verdicts()
        notes = {} if verdicts is None else dict(zip(self.findings.frames, verdicts, strict=True))
        groups = {title: list(telling)}
        if verdicts is not None:
            best, worst = extreme_frames(self.findings.frames, verdicts, extremes)
            groups["best" if has_truth else "rounds agree most"] = best
            groups["worst" if has_truth else "rounds agree least"] = worst
        chosen = [(group, frame) for group, frames in groups.items() for frame in frames]
        return [
            Frame(frame.line(), self.layers(frame), self._note(notes.get(frame)), group)
            for group, frame in progress(chosen, desc="report", unit="frame")
        ]

    def clips(self, telling: Sequence[FrameRef], moments: int) -> list[Clip]:
        """The clips around some frames, `moments` frames of each at most."""
        clips = []
        for chosen in telling:
            frames = [frame for frame in self.findings.frames if frame.segment == chosen.segment]
            frames = around(frames, chosen, moments)
            bar = progress(frames, desc=f"report, {chosen.segment}", unit="frame")
            drawn = [self.layers(frame, LARGEST // 2) for frame in bar]
            clips.append(Clip(chosen.segment, {n: [d[n] for d in drawn] for n in drawn[0]}))
        return clips

    def _note(self, verdict: Agreement | None) -> str:
        if verdict is None:
            return ""
        first, second, pairs = verdict.first, verdict.second, verdict.pairs
        if self.findings.truth is not None:
            return f"{pairs} of {second} objects found, {first - pairs} false"
        last, before = list(self.findings.found)[:-3:-1]
        return f"{pairs} of {second} in {before} found again by {last}, {first - pairs} new"


def fit(picture: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Bring a picture's width between two limits, keeping its aspect ratio; the larger one wins."""
    picture = enlarge(picture, smallest)
    height, width = picture.shape[:2]
    if width <= largest:
        return picture
    return resize_image(picture, max(1, round(height * largest / width)), largest)


def around(frames: list[FrameRef], chosen: FrameRef, count: int) -> list[FrameRef]:
    """At most `count` frames that follow one another, with `chosen` in their middle if possible."""
    start = frames.index(chosen) - count // 2
    start = max(0, min(start, len(frames) - count))
    return frames[start : start + count]


def extreme_frames(
    frames: Sequence[FrameRef], verdicts: Sequence[Agreement], count: int
) -> tuple[list[FrameRef], list[FrameRef]]:
    """The best and the worst frames, one of each clip; frames where nothing is are neither.

    Of equally good ones, those with more objects come first.
    """
    known = [(f, v) for f, v in zip(frames, verdicts, strict=True) if v.first + v.second]
    good = one_per_clip([f for f, _ in known], [(v.f1, v.pairs) for _, v in known])[:count]
    rest = [(f, v) for f, v in known if f not in good]
    bad = one_per_clip([f for f, _ in rest], [(-v.f1, v.first + v.second) for _, v in rest])
    return good, bad[:count]
