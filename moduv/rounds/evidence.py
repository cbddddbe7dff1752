"""L0 from measured flow, over the files of a run: frames, and depth and poses of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from moduv.engine import distributed
from moduv.engine.config import build, to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, read_npz, write_json
from moduv.engine.log import progress, say
from moduv.engine.parallel import process_map
from moduv.frames.clip import FrameRef
from moduv.frames.flow import FlowMethod, InverseSearch, round_trip_error
from moduv.frames.images import read_image, resize_image
from moduv.frames.layouts import time_steps
from moduv.frames.splits import evenly
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, write_labels
from moduv.labels.evidence.ego import EgoFlow, ego_flow, refine_pose
from moduv.labels.evidence.estimation import Residuals, estimate_noise, residuals
from moduv.labels.evidence.fusion import Neighbour, over_frames, over_superpixels
from moduv.labels.evidence.noise import FIRST_GUESS, Noise
from moduv.labels.evidence.objects import moving_objects, photometric_gain
from moduv.labels.evidence.statistic import Measured, Statistic, motion_statistic
from moduv.labels.initial import InitialConfig
from moduv.motion.raft import load_raft

OFFSETS = (-1, 1, -2, 2)
"""Neighbours that flow is measured to, where they exist."""
CHUNK = 24
"""Consecutive frames that a process takes at once; flow across their ends is measured twice."""
NOISE = "noise.json"
"""The estimated errors, beside the labels that were made with them."""
ESTIMATIONS = 2
"""Rounds of refining poses with the errors known so far and estimating errors with those poses."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Camera:
    """What stage 1 says about a frame."""

    depth: np.ndarray
    """(H, W) float32."""
    inv_K: np.ndarray
    """(4, 4)."""
    poses: np.ndarray
    """(2, 4, 4) float64: from the frame's camera to that of the frame before and after."""

    @property
    def K(self) -> np.ndarray:
        """(4, 4), intrinsics in pixels."""
        return np.linalg.inv(self.inv_K.astype(np.float64))


@dataclass(frozen=True)
class Observation:
    """What flow from a frame to its neighbours says, with refined poses."""

    measured: tuple[Measured, ...]
    ego: tuple[EgoFlow, ...]
    statistic: Statistic


class Clip:
    """Consecutive frames of a segment; what several of them need is computed once.

    Args:
        segment: which.
        data: folder of the frames.
        motion: folder of the motion outputs.
        noise: expected errors.
        raft: weights of RAFT, by which flow is measured; "": by dense inverse search.
    """

    def __init__(
        self, segment: str, data: Path, motion: Path, noise: Noise, raft: str = ""
    ) -> None:
        self.segment, self.data, self.motion, self.noise = segment, data, motion, noise
        self.method: FlowMethod = load_raft(Path(raft)) if raft else InverseSearch()
        self._known: dict[tuple[Any, ...], Any] = {}

    def labels(self, index: int, config: InitialConfig) -> Instances:
        """L0 of a frame."""
        camera, fused = self.camera(index), self.evidence(index)
        gain = self._gain(index, self.observation(index))
        found = moving_objects(fused, gain, camera.depth, camera.inv_K, self.noise, config)
        self._forget_before(index - 2)
        return found

    def evidence(self, index: int) -> Statistic:
        """A frame's statistic, with those of its neighbours and of its superpixels."""
        fused = self.fused(index)
        return replace(fused, length=over_superpixels(fused.length, self.image(index)))

    def camera(self, index: int) -> Camera:
        """Depth and poses of a frame. Raises InputError when its motion output is broken."""
        return self._once(lambda: self._read_camera(index), "camera", index)

    def image(self, index: int) -> np.ndarray:
        """A frame (H, W, 3) uint8 RGB at the size of its segment's depths."""
        return self._images(index)[0]

    def observation(self, index: int) -> Observation:
        """Flow to a frame's neighbours, ego flow with refined poses, and their statistic."""
        return self._once(lambda: self._observe(index), "observation", index)

    def fused(self, index: int) -> Statistic:
        """A frame's statistic, with those of the frames beside it."""
        return over_frames(self.observation(index).statistic, self._neighbours(index))

    def measured(self, index: int, other: int) -> Measured:
        """Flow from one frame to another."""
        error = round_trip_error(self._flow(index, other), self._flow(other, index))
        return Measured(self._flow(index, other), error, self._time(index, other))

    def has_output(self, index: int) -> bool:
        """Whether stage 1 says something about a frame."""
        return FrameRef(self.segment, index).file(self.motion, ".npz").is_file()

    def _observe(self, index: int) -> Observation:
        camera = self.camera(index)
        measured, ego = list[Measured](), list[EgoFlow]()
        refined: dict[int, np.ndarray] = {}
        for offset in OFFSETS:
            if abs(offset) > 1 and not self._exists(index + offset):
                continue
            found = self.measured(index, index + offset)
            guess = self._guess(index, offset, refined)
            refined[offset] = refine_pose(
                guess, found.flow, found.error, camera.depth, camera.K, self.noise
            )
            measured.append(found)
            ego.append(ego_flow(camera.depth, camera.K, refined[offset]))
        statistic = motion_statistic(measured, ego, camera.depth, self.noise)
        return Observation(tuple(measured), tuple(ego), statistic)

    def _guess(self, index: int, offset: int, refined: dict[int, np.ndarray]) -> np.ndarray:
        """Stage 1's pose to a neighbour; to the second one by way of the first."""
        side = 0 if offset < 0 else 1
        if abs(offset) == 1:
            return self.camera(index).poses[side]
        step = refined[offset // 2]
        onwards = self.has_output(index + offset // 2)
        return (self.camera(index + offset // 2).poses[side] if onwards else step) @ step

    def _neighbours(self, index: int) -> list[Neighbour]:
        """The statistics of the frames beside one, as far as stage 1 knows them, and flow to them."""
        found = []
        for offset in (-1, 1):
            if self.has_output(index + offset):
                way = self.measured(index, index + offset)
                found.append(Neighbour(self.observation(index + offset).statistic, way))
        return found

    def _gain(self, index: int, own: Observation) -> np.ndarray:
        greys = {offset: self.grey(index + offset) for offset in (-1, 0, 1)}
        pairs = [
            (greys[offset], own.measured[n].flow, own.ego[n].flow)
            for n, offset in ((0, -1), (1, 1))
        ]
        return photometric_gain(greys[0], pairs)

    def grey(self, index: int) -> np.ndarray:
        """A frame's grey levels (H, W) float32."""
        return cv2.cvtColor(self.image(index), cv2.COLOR_RGB2GRAY).astype(np.float32)

    def _flow(self, index: int, other: int) -> np.ndarray:
        def measure() -> np.ndarray:
            return self.method.measure(self._images(index)[1], self._images(other)[1])

        return self._once(measure, "flow", index, other)

    def _images(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame in colour at the size of the depths, and as flow is measured on."""

        def read() -> tuple[np.ndarray, np.ndarray]:
            size = self._size(index)
            picture = read_image(FrameRef(self.segment, index).image_path(self.data))
            return resize_image(picture, *size), self.method.prepare(picture, *size)

        return self._once(read, "images", index)

    def _size(self, index: int) -> tuple[int, int]:
        """Height and width of the depths around a frame, which may have none itself."""
        around = (index + offset for offset in (0, *OFFSETS) if self.has_output(index + offset))
        height, width = self.camera(next(around)).depth.shape
        return height, width

    def _exists(self, index: int) -> bool:
        return index >= 0 and FrameRef(self.segment, index).image_path(self.data).is_file()

    def _time(self, index: int, other: int) -> float:
        """Signed time from a frame to another, in usual intervals."""
        low, high = min(index, other), max(index, other)
        total = 0.0
        for number in range(low, high):
            known = time_steps(self.data, self.segment, max(1, number))
            total += 1.0 if known is None else known[0 if number == 0 else 1]
        return total if other > index else -total

    def _read_camera(self, index: int) -> Camera:
        path = FrameRef(self.segment, index).file(self.motion, ".npz")
        arrays = read_npz(path, ("depth", "inv_K", "pose"))
        depth = np.asarray(arrays["depth"], np.float32)
        pose, inv_K = arrays["pose"], arrays["inv_K"]
        if depth.ndim != 2 or not np.isfinite(depth).all() or not (depth > 0).all():
            raise InputError(
                f"{path}: 'depth' is no image of numbers above 0; predict the frame again."
            )
        rigid = pose.shape == (2, 4, 4) and np.isfinite(pose).all()
        usable = inv_K.shape == (4, 4) and np.isfinite(inv_K).all() and np.linalg.det(inv_K) != 0
        if not rigid or not usable:
            raise InputError(
                f"{path}: 'pose' {pose.shape} or 'inv_K' {inv_K.shape} is no finite (2, 4, 4) or (4, 4) with "
                "an inverse; predict the frame again."
            )
        return Camera(depth, inv_K, pose.astype(np.float64))

    def _once(self, compute: Callable[[], Value], *key: Any) -> Value:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def _forget_before(self, index: int) -> None:
        """Drop what no later frame needs: a frame's own and its neighbours' statistics reach back that far."""
        self._known = {
            key: value for key, value in self._known.items() if max(key[1:]) >= index - 1
        }


def label_flow_frames(
    frames: Sequence[FrameRef], motion: Path, out: Path, config: InitialConfig, data: Path
) -> None:
    """Write L0 of frames that have motion outputs, from measured flow; finished files are kept.

    Raises:
        InputError: naming a broken motion output or frame, when the other frames are labelled.
    """
    noise = config.flow.noise or expected_errors(frames, motion, out, config, data)
    todo = [frame for frame in frames if not is_labelled(out, frame)]
    jobs = [(chunk, motion, out, config, data, noise) for chunk in _chunks(todo)]
    # A network takes all cores, or the GPU, for itself.
    workers = 1 if config.flow.raft else config.workers
    finished = process_map(_label_chunk, jobs, workers)
    bar = progress(finished, desc="L0", total=len(jobs), unit="clip")
    errors = [error for found in bar for error in found]
    if errors:
        others = f" ({len(errors)} frames are broken)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{others}")


def with_errors(config: InitialConfig, noise: Noise) -> InitialConfig:
    """The configuration with known errors."""
    return replace(config, flow=replace(config.flow, noise=noise))


def with_errors_of(config: InitialConfig, results: dict[str, Any], source: str) -> InitialConfig:
    """The configuration with the errors among the results of a label stage, where it estimated some."""
    if config.evidence != "flow" or "noise" not in results:
        return config
    return with_errors(config, build(Noise, results["noise"], f"{source}: noise"))


Job = tuple[list[FrameRef], Path, Path, InitialConfig, Path, Noise]


def _label_chunk(job: Job) -> list[str]:
    """Label consecutive frames; the errors of those that are broken, which stop no other."""
    frames, motion, out, config, data, noise = job
    cv2.setNumThreads(1)  # the processes share the cores
    clip = Clip(frames[0].segment, data, motion, noise, config.flow.raft)
    errors = []
    for frame in frames:
        try:
            found = clip.labels(frame.index, config)
            found.check_aspect(read_image(frame.image_path(data)).shape, frame.file(motion, ".npz"))
            write_labels(out, frame, found)
        except InputError as error:
            errors.append(str(error))
    return errors


def _chunks(frames: Sequence[FrameRef]) -> list[list[FrameRef]]:
    """Frames of one segment each, at most CHUNK of them, in order."""
    chunks: list[list[FrameRef]] = []
    for frame in sorted(frames):
        if not chunks or chunks[-1][-1].segment != frame.segment or len(chunks[-1]) == CHUNK:
            chunks.append([])
        chunks[-1].append(frame)
    return chunks


def expected_errors(
    frames: Sequence[FrameRef], motion: Path, out: Path, config: InitialConfig, data: Path
) -> Noise:
    """The errors of the configuration, or those that a sample of the frames shows.

    They are kept in `out`, for a run that continues.
    """
    path = out / NOISE
    if config.flow.noise is None and distributed.is_main() and not path.is_file():
        sample = evenly(list(frames), config.flow.sample)
        found = estimate_from(sample, motion, data, config.workers, config.flow.raft)
        write_json(path, to_dict(found), indent=1)
    distributed.barrier()
    noise = config.flow.noise or build(Noise, read_json(path), str(path))
    values = ", ".join(f"{name} {value:.3g}" for name, value in to_dict(noise).items())
    say(f"  expected errors: {values}")
    return noise


def estimate_from(
    frames: Sequence[FrameRef], motion: Path, data: Path, workers: int = 1, raft: str = ""
) -> Noise:
    """The errors that measured flow, depth and pixels of some frames show. Raises InputError for broken ones."""
    noise = FIRST_GUESS
    for _ in range(ESTIMATIONS):
        jobs = [(frame, motion, data, noise, raft) for frame in frames]
        found = process_map(_residuals_of, jobs, 1 if raft else workers, chunk=4)
        bar = progress(found, desc="expected errors", total=len(jobs), unit="frame")
        noise = estimate_noise(Residuals.concatenate(list(bar)))
    return noise


def _residuals_of(job: tuple[FrameRef, Path, Path, Noise, str]) -> Residuals:
    """Residuals of a frame's pixels to both neighbours."""
    frame, motion, data, noise, raft = job
    cv2.setNumThreads(1)
    clip = Clip(frame.segment, data, motion, noise, raft)
    camera, parts = clip.camera(frame.index), []
    for side, offset in enumerate((-1, 1)):
        found = clip.measured(frame.index, frame.index + offset)
        pose = refine_pose(
            camera.poses[side], found.flow, found.error, camera.depth, camera.K, noise
        )
        ego = ego_flow(camera.depth, camera.K, pose)
        greys = clip.grey(frame.index), clip.grey(frame.index + offset)
        parts.append(residuals(found.flow, found.error, ego, camera.depth, *greys))
    return Residuals.concatenate(parts)
