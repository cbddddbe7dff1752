"""From a folder of clips to a detector: every stage one after the other, with a plan and a diagnosis."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from moduv.engine import distributed
from moduv.engine.config import load_preset
from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.engine.hardware import propose_preset
from moduv.engine.log import read_log, say
from moduv.engine.stages import OtherSettings, read_manifest
from moduv.evaluation.diagnosis import (
    Limits,
    inspect_frames,
    inspect_motion,
    judge_frames,
    judge_labels,
    judge_motion,
)
from moduv.frames.clip import with_neighbours
from moduv.frames.images import read_image
from moduv.frames.ingest import ImportConfig, clip_size, import_sources, name_clips
from moduv.frames.splits import hold_out, read_split, write_split
from moduv.labels.exported import export_labels
from moduv.labels.store import InitialConfig, initial_labels
from moduv.motion.predict import MotionPrediction, predict_motion
from moduv.motion.train import MotionTraining
from moduv.rounds.large2small import Large2SmallLabels, aggregated_labels
from moduv.rounds.measure import Measurement, measure_run
from moduv.rounds.moving2mobile import MobileLabels, mobile_labels
from moduv.rounds.plan import estimate, look_at_clips, missing_weights
from moduv.rounds.recipe import Recipe, train_round
from moduv.rounds.report import ReportConfig, report_run
from moduv.rounds.schedule import Part, Plan, follow, read_plan
from moduv.rounds.stage1 import train_stage1

AUTO = "auto"
Config = TypeVar("Config")


@dataclass(frozen=True)
class RunConfig:
    """What a preset says of whole runs."""

    max_width: int = 1920
    """Frames that are wider are shrunk, pixels."""
    score: float = 0.5
    """Detections above it are counted."""
    limits: Limits = field(default_factory=Limits)


def run_videos(
    sources: list[Path],
    out: Path,
    preset: str = AUTO,
    field_of_view: float = 60.0,
    every: int = 0,
    learn_focal: bool = False,
    dry_run: bool = False,
    insist: bool = False,
) -> None:
    """Train a detector of mobile objects on clips without labels; the same command continues.

    Args:
        sources: video files, and folders of videos or of folders of frames.
        out: receives the frames, `motion`, label sets, rounds, `detections.json`, `evaluation` and
            `report.html`.
        preset: `paper` for GPUs, `street` for laptops, a YAML file, or `auto`: by the hardware.
        field_of_view: horizontal, in degrees, of cameras without `cam.json`.
        every: take every n-th frame; 0: as many as it takes to see motion.
        learn_focal: learn the focal length of such cameras with depth, from that guess on; clips with
            turns tell it.
        dry_run: print the plan with time and disk space, and stop.
        insist: go on with clips in which nothing is likely to be learned.

    Raises:
        InputError: for clips that do not decode or in which nothing can be learned, missing initial
            weights, and a run of other settings in `out`.
    """
    preset, why = _preset(preset, out)
    say(f"preset {preset}: {why}")
    missing = missing_weights(preset)
    lacking = (
        f"{missing[0]}: no such initial weights, from which preset {preset!r} starts; run 'bash "
        "scripts/0_download_ckpts.sh', or choose --preset street."
        if missing
        else ""
    )
    if lacking and not dry_run:
        raise InputError(lacking)
    config = load_preset(RunConfig, preset, "run")
    plan = _plan(sources, out, preset, every, config)
    plan.show()
    if dry_run:
        say(lacking or "nothing is missing; leave out --dry-run to start")
        return
    plan.save(out)
    run = Run(sources, out, preset, field_of_view, every, learn_focal, insist, config)
    try:
        follow(run.parts(), plan, run.kept_frames)
    except OtherSettings as error:
        raise InputError(
            f"{out}: the run was begun with {error.difference}; remove {out} to begin again, or choose "
            "another folder."
        ) from None


@dataclass(frozen=True)
class Run:
    """A run's folder and settings; its methods are the steps."""

    sources: list[Path]
    out: Path
    preset: str
    field_of_view: float
    every: int
    learn_focal: bool
    insist: bool
    config: RunConfig

    def parts(self) -> list[Part]:
        """All steps in order."""
        rounds = {
            "moving2mobile": ("Moving2Mobile", "L0", "R1_M2M"),
            "large": ("Large2Small, large", "L1", "R2_L2S_large"),
            "small": ("Large2Small, small", "L1", "R2_L2S_small"),
            "final": ("final detector", "L2", "R3_Final"),
        }
        trained = {
            name: Part(name, title, lambda n=name, s=source, f=folder: self._round(n, s, f))  # type: ignore[misc]
            for name, (title, source, folder) in rounds.items()
        }
        return [
            Part("frames", "frames", self._frames),
            Part("motion", "stage 1: training", self._motion),
            Part("motion_outputs", "stage 1: masks and depth", self._outputs),
            Part("L0", "labels L0", self._initial),
            trained["moving2mobile"],
            Part("L1", "labels L1", self._mobile),
            trained["large"],
            trained["small"],
            Part("L2", "labels L2", self._aggregated),
            trained["final"],
            Part("detections", "detections", self._detections),
            Part("evaluation", "evaluation on held-out frames", self._evaluation),
            Part("report", "report", self._report),
        ]

    @property
    def data(self) -> Path:
        return self.out / "frames"

    @property
    def split(self) -> Path:
        """Frames that are trained on."""
        return self.out / "splits" / "train_files.txt"

    @property
    def held_out(self) -> Path:
        """Frames that no training has seen."""
        return self.out / "splits" / "val_files.txt"

    @property
    def everything(self) -> Path:
        return self.data / "splits" / "train_files.txt"

    def labels(self, name: str) -> Path:
        """Root of a label set."""
        return self.out / f"{name}_pseudo_labels"

    def _load(self, kind: type[Config], section: str) -> Config:
        return load_preset(kind, self.preset, section)

    def _frames(self) -> str:
        settings = replace(
            self._load(ImportConfig, "frames_import"),
            field_of_view=self.field_of_view,
            every=self.every,
            max_width=self.config.max_width,
        )
        self._import(settings)
        frames, _ = with_neighbours(read_split(self.everything), self.data)
        if distributed.is_main():
            for path, part in zip((self.split, self.held_out), hold_out(frames), strict=True):
                if not path.is_file() or read_split(path) != part:
                    write_split(path, part)
        distributed.barrier()
        figures = inspect_frames(self.data, frames, self.config.limits)
        self._object(judge_frames(figures, self.config.limits))
        return (
            f"{figures.triplets} frames with neighbours, usual flow {figures.flow:.1%} of the width"
        )

    def _import(self, settings: ImportConfig) -> None:
        """Import the frames; as long as nothing was learned from them, others take their place."""
        try:
            import_sources(self.sources, self.data, settings)
        except OtherSettings as error:
            if learned_from(self.out):
                raise
            say(f"  frames of another call are replaced: {error.difference}")
            if distributed.is_main():
                shutil.rmtree(self.data)
            distributed.barrier()
            import_sources(self.sources, self.data, settings)

    def kept_frames(self) -> int:
        """How many frames have both neighbours."""
        return len(read_split(self.everything))

    def _motion(self) -> str:
        folder = self.out / "motion"
        settings = self._load(MotionTraining, "motion")
        frame = read_image(read_split(self.split)[0].image_path(self.data))
        height, width = motion_size((settings.height, settings.width), frame.shape[:2])
        settings = replace(
            settings,
            height=height,
            width=width,
            learn_focal=settings.learn_focal or self.learn_focal,
        )
        train_stage1(self.data, self.split, folder, settings)
        return f"photometric error {_last(folder / '4_fine_tune' / 'log.jsonl', 'photometric')}"

    def _outputs(self) -> str:
        folder = self.out / "motion_outputs"
        settings = self._load(MotionPrediction, "motion_predict")
        predict_motion(self.data, self.split, self.out / "motion", folder, settings)
        frames = [f for f in read_split(self.split) if f.file(folder, ".npz").is_file()]
        threshold = self._load(InitialConfig, "initial_labels").motion_threshold
        figures = inspect_motion(folder, frames, threshold)
        self._object(judge_motion(figures, self.config.limits))
        return f"{figures.covered:.1%} of the pixels move, in {figures.masked_frames:.0%} of the frames"

    def _initial(self) -> str:
        settings = self._load(InitialConfig, "initial_labels")
        out = self.labels("L0")
        initial_labels(self.split, self.out / "motion_outputs", out, settings, self.data)
        return self._count("L0")

    def _round(self, section: str, source: str, folder: str) -> str:
        out = self.out / folder
        train_round(self.data, self.split, self.labels(source), out, self._load(Recipe, section))
        return f"loss {_last(out / 'log.jsonl', 'loss')}"

    def _mobile(self) -> str:
        settings = self._load(MobileLabels, "mobile_labels")
        mobile_labels(self.data, self.split, self.out / "R1_M2M", self.labels("L1"), settings)
        return self._count("L1")

    def _aggregated(self) -> str:
        settings = self._load(Large2SmallLabels, "aggregated_labels")
        large, small = self.out / "R2_L2S_large", self.out / "R2_L2S_small"
        aggregated_labels(self.data, self.split, large, small, self.labels("L2"), settings)
        return self._count("L2")

    def _detections(self) -> str:
        labels = self.labels("Final")
        batch = self._load(MobileLabels, "mobile_labels").batch_size
        settings = MobileLabels(score_threshold=self.config.score, batch_size=batch)
        mobile_labels(self.data, self.everything, self.out / "R3_Final", labels, settings)
        target = self.out / "detections.json"
        if distributed.is_main():
            export_labels(labels, self.everything, self.data, target)
        results = read_manifest(labels)["results"]
        if not results["instances"]:
            say(
                f"  warning: the final detector finds nothing above a score of {self.config.score:g}; the "
                "report shows how far the rounds came"
            )
        return f"{results['instances']} instances in {results['frames']} frames, in {target}"

    def _evaluation(self) -> str:
        prediction = self._load(MotionPrediction, "motion_predict")
        folder, out = self.out / "motion_val", self.out / "evaluation"
        predict_motion(self.data, self.held_out, self.out / "motion", folder, prediction)
        if distributed.is_main():
            settings = replace(self._load(Measurement, "measure"), labels_preset=self.preset)
            measure_run(self.out, self.data, self.held_out, out, settings)
        distributed.barrier()
        final = read_json(out / "metrics.json")["Final"]
        again = final["labels/consistency"]
        told = "too few to follow them" if again < 0 else f"{again:.0%} are found again in the next"
        return f"{final['labels/per_frame']:.2f} objects a frame, {told}"

    def _report(self) -> str:
        if distributed.is_main():
            settings = replace(self._load(ReportConfig, "report"), score=self.config.score)
            report_run(self.out, self.data, self.held_out, self.out, settings)
        return f"open {self.out / 'report.html'}"

    def _count(self, name: str) -> str:
        results = read_manifest(self.labels(name))["results"]
        instances, frames = int(results["instances"]), int(results["frames"])
        self._object(judge_labels(instances, frames, name, self.config.limits))
        return f"{instances} instances, {instances / max(1, frames):.2f} a frame"

    def _object(self, reasons: list[str]) -> None:
        """Stop, or go on where the user insists."""
        if not reasons:
            return
        if self.insist:
            for reason in reasons:
                say(f"  warning: {reason}")
            return
        more = "".join(f" Also, {reason}" for reason in reasons[1:])
        raise InputError(
            f"{self.out}: {reasons[0]}{more} To go on nevertheless, add --insist true."
        )


def motion_size(preset: tuple[int, int], frame: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of stage 1's input: about the preset's area in about the frames' aspect.

    Both are multiples of 32, which the networks' pyramids ask for.
    """
    sides = range(64, 2048 + 1, 32)
    area, aspect = preset[0] * preset[1], frame[1] / frame[0]

    def misfit(size: tuple[int, int]) -> float:
        height, width = size
        return abs(math.log(width / height / aspect)) + 0.3 * abs(math.log(height * width / area))

    near = [(h, w) for h in sides for w in sides if area / 2 < h * w < 2 * area]
    return min(near, key=misfit, default=preset)


def learned_from(out: Path) -> bool:
    """Whether a run has begun to train."""
    return (out / "motion").is_dir()


def _preset(wanted: str, out: Path) -> tuple[str, str]:
    """The preset of the run and why it is this one; a run that is continued keeps its own."""
    plan = read_plan(out) if learned_from(out) else None
    before = plan.preset if plan else wanted
    if AUTO not in (wanted, before) and before != wanted:
        raise InputError(
            f"{out}: the run was started with preset {before!r}; remove {out} to begin again with "
            f"{wanted!r}, or choose another folder."
        )
    if wanted != AUTO:
        return wanted, "as asked for"
    return (before, "as before") if before != AUTO else propose_preset()


def _plan(sources: Sequence[Path], out: Path, preset: str, every: int, config: RunConfig) -> Plan:
    """The plan of the run; that of an earlier call where it is for the same clips."""
    clips = {name: clip_size(clip) for name, clip in name_clips(sources).items()}
    earlier = read_plan(out)
    if earlier is not None and earlier.is_for(preset, clips, every):
        return earlier
    say("calibrating …")
    seen = look_at_clips(sources, every, config.max_width)
    efforts = estimate(preset, seen)
    return Plan(preset, clips, every, seen.frames, seen.height, seen.width, efforts)


def _last(log: Path, term: str) -> str:
    entries = [entry for entry in read_log(log) if term in entry]
    return f"{entries[-1][term]:.3f}" if entries else "unknown"
