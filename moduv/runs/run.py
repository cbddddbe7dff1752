"""From a folder of clips to a detector: every stage one after the other, with a diagnosis."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from moduv.datasets.clips import (
    UNREADABLE,
    ImportConfig,
    clip_sizes,
    gather_clips,
    import_sources,
    name_clips,
)
from moduv.engine import distributed
from moduv.engine.config import load_preset, read_preset
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.hardware import propose_preset
from moduv.engine.log import prefixed_bars, progress, read_log, say
from moduv.engine.pipeline import Place, Step, perform
from moduv.engine.stages import OtherSettings, read_counts, read_manifest
from moduv.frames.clip import with_neighbours
from moduv.frames.images import read_image
from moduv.frames.listing import say_left_out
from moduv.frames.splits import hold_out, read_split, write_split
from moduv.frames.video import count_frames
from moduv.instances.exported import export_labels
from moduv.labels.initial import InitialConfig
from moduv.motion.train import MotionTrainingConfig
from moduv.rounds.moving2mobile import MobileLabelsConfig
from moduv.rounds.recipe import RoundConfig
from moduv.runs.catalogue import COMMANDS
from moduv.runs.chains import (
    DETECTIONS,
    DETECTORS,
    EVALUATION,
    FINAL,
    FRAMES,
    ROUNDS,
    chain_of,
    folder,
    stage_folders,
)
from moduv.runs.diagnosis import (
    DiagnosisLimits,
    inspect_frames,
    inspect_motion,
    label_problems,
    problems,
)
from moduv.runs.measure import read_metrics, with_motion

Config = TypeVar("Config")
AUTO = "auto"
STARTED = "run.json"
"""Says which preset a run was started with."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of a whole run."""

    max_width: int = 1920
    """Frames that are wider are shrunk, pixels."""
    score: float = 0.5
    """Detections above it are counted."""
    limits: DiagnosisLimits = field(default_factory=DiagnosisLimits)


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
    """Train a detector of mobile objects on clips without labels; the same command continues an interrupted run.

    Args:
        sources: video files, and folders of videos or of folders of frames.
        out: receives the frames, `motion`, label sets, rounds, `detections.json`, `evaluation` and
            `report.html`.
        preset: `paper` for GPUs, `street` for laptops, a YAML file, or `auto`: by the hardware.
        field_of_view: horizontal, in degrees, of cameras without `cam.json`.
        every: take every n-th frame; 0: as many as it takes to see motion.
        learn_focal: learn the focal length of such cameras with depth, from that guess on; clips with
            turns tell it.
        dry_run: list the steps with their sizes, and stop.
        insist: go on with clips in which nothing is likely to be learned.

    Raises:
        InputError: for clips that do not decode or in which nothing can be learned, missing initial
            weights, and a run of other settings in `out`.
    """
    preset, why = _preset(preset, out)
    say(f"preset {preset}: {why}")
    lacking = "".join(
        f"{path}: no such initial weights, from which preset {preset!r} starts; run 'bash "
        "scripts/0_download_ckpts.sh', or choose --preset street."
        for path in missing_weights(preset)[:1]
    )
    config = load_preset(RunConfig, preset, "run")
    run = Run(sources, out, preset, field_of_view, every, learn_focal, insist, config)
    if dry_run:
        run.show_plan()
        say(lacking or "nothing is missing; leave out --dry-run to start")
        return
    if lacking:
        raise InputError(lacking)
    name_clips(sources, out)  # raises InputError for missing ones before anything is written
    if distributed.is_main():
        write_json(out / STARTED, {"preset": preset})
    distributed.barrier()
    parts = run.parts()
    try:
        for number, (title, work) in enumerate(parts.items(), 1):
            step = f"[{number}/{len(parts)}]"
            say(f"{step} {title}")
            with prefixed_bars(step):
                result = work()
            say(f"{step} {title}: {result}")
    except OtherSettings as error:
        raise InputError(
            f"{out}: the run was begun with {error.difference}; move {out} away to begin again, or choose "
            "another folder."
        ) from None


def missing_weights(preset: str) -> list[str]:
    """Files of initial weights that a preset names and that are not there."""
    sections = [section for section in read_preset(preset).values() if isinstance(section, dict)]
    settings = [item for section in sections for item in section.items()]
    named = {str(value) for key, value in settings if key.endswith("_weights") and value}
    return sorted(name for name in named if not Path(name).is_file())


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

    def parts(self) -> dict[str, Callable[[], str]]:
        """All steps in order, by their titles; each returns what it found in words."""
        special = {"motion": self._motion, "motion_outputs": self._outputs}
        titles = {step.title for step in ROUNDS}
        rounds = {
            step.title: partial(special.get(step.name, self._step), step)
            for step in chain_of(self.preset)
            if step.title in titles
        }
        return {
            "Frames": self._frames,
            **rounds,
            "Detections": self._detections,
            "Evaluation": self._evaluation,
            "Report": self._report,
        }

    def show_plan(self) -> None:
        """Print every step with its size, and how long the finished ones took.

        Raises InputError when a source is missing or no clip decodes.
        """
        clips, left_out = gather_clips(self.sources, self.out)
        sizes, broken = clip_sizes(clips)
        width, height = next(iter(sizes.values()))
        widest = self.config.max_width or width
        if width > widest:
            width, height = widest, round(height * widest / width)
        counting = progress(clips.values(), desc="count", total=len(clips), unit="clip")
        frames = sum(count_frames(clip) for clip in counting) // max(1, self.every)
        say(f"  {len(clips)} clips, up to {frames} frames of {width} x {height} pixels")
        folders = stage_folders(self.out)
        for title in self.parts():
            manifest = read_manifest(folders[title]) if title in folders else {}
            done = f"finished in {manifest.get('seconds', 0):.0f} s" if manifest else ""
            say(f"  {title:<20} {self._size(title, frames):<14} {done}".rstrip())
        say_left_out(left_out + Counter({UNREADABLE: len(broken)}))

    def _size(self, title: str, frames: int) -> str:
        """How much work a step is."""
        if title == "Report":
            return ""
        if title == ROUNDS[0].title:
            loops = list(self._load(MotionTrainingConfig, "motion").loops.values())
        elif title in DETECTORS:
            loops = [self._load(RoundConfig, DETECTORS[title].name).loop]
        else:
            return f"{frames} frames"
        return f"{sum(loop.steps for loop in loops)} steps"

    @property
    def place(self) -> Place:
        """Frames, splits and folders of this run."""
        splits = {on: self.out / f"splits/{on}_files.txt" for on in ("train", "val")}
        return Place(self.out, self.out / FRAMES, splits, report=self.out)

    @property
    def data(self) -> Path:
        return self.place.data

    @property
    def split(self) -> Path:
        """Frames that are trained on."""
        return self.place.splits["train"]

    @property
    def everything(self) -> Path:
        return self.data / "splits" / "train_files.txt"

    def _perform(self, step: Step, **changes: Any) -> Path:
        """Run a step of the chain; returns its folder."""
        chain, entry = chain_of(self.preset), COMMANDS[step.command]
        perform(step, chain, self.place, entry, self.preset, **changes)
        return folder(self.out, step.name)

    @property
    def limits(self) -> DiagnosisLimits:
        """Of the diagnosis. Measured flow shows what moves before a standing camera without any depth."""
        if self._load(InitialConfig, "initial_labels").evidence == "flow":
            return replace(self.config.limits, moving_pairs=0.0, relief=0.0)
        return self.config.limits

    def _load(self, kind: type[Config], section: str) -> Config:
        return load_preset(kind, self.preset, section)

    def _frames(self) -> str:
        settings = replace(
            self._load(ImportConfig, "frames_import"),
            field_of_view=self.field_of_view,
            every=self.every,
            max_width=self.config.max_width,
            one_aspect=True,
        )
        self._import(settings)
        frames, _ = with_neighbours(read_split(self.everything), self.data)
        if distributed.is_main():
            for path, part in zip(self.place.splits.values(), hold_out(frames), strict=True):
                if not path.is_file() or read_split(path) != part:
                    write_split(path, part)
        distributed.barrier()
        figures = inspect_frames(self.data, frames, self.limits)
        self._refuse_unless_insisted(problems(figures, self.limits))
        return (
            f"{figures.triplets} frames with neighbours, usual flow {figures.flow:.1%} of the width"
        )

    def _import(self, settings: ImportConfig) -> None:
        """Import the frames; as long as nothing was learned from them, others take their place."""
        try:
            import_sources(self.sources, self.data, settings, self.out)
        except OtherSettings as error:
            if learned_from(self.out):
                raise
            say(f"  frames of another call are replaced: {error.difference}")
            if distributed.is_main():
                shutil.rmtree(self.data)
            distributed.barrier()
            import_sources(self.sources, self.data, settings, self.out)

    def _motion(self, step: Step) -> str:
        settings = self._load(MotionTrainingConfig, "motion")
        frame = read_image(read_split(self.split)[0].image_path(self.data))
        height, width = motion_size((settings.height, settings.width), frame.shape[:2])
        learn = settings.learn_focal or self.learn_focal
        out = self._perform(step, height=height, width=width, learn_focal=learn)
        return f"photometric error {_last(out / settings.phases[-1].folder, 'photometric')}"

    def _outputs(self, step: Step) -> str:
        out = self._perform(step)
        threshold = self._load(InitialConfig, "initial_labels").motion_threshold
        figures = inspect_motion(out, with_motion(out, self.split), threshold)
        self._refuse_unless_insisted(problems(figures, self.limits))
        if figures.covered is None or figures.masked_frames is None:
            return f"depth, {figures.relief:.0%} between its quartiles in the usual frame"
        return f"{figures.covered:.1%} of the pixels move, in {figures.masked_frames:.0%} of the frames"

    def _step(self, step: Step) -> str:
        """Train a detector or make a label set."""
        out = self._perform(step)
        if step.title in DETECTORS:
            return f"loss {_last(out, 'loss')}"
        instances, frames = read_counts(out, "instances", "frames")
        self._refuse_unless_insisted(
            label_problems(instances, frames, step.title, self.config.limits)
        )
        return f"{instances} instances, {instances / max(1, frames):.2f} a frame"

    def _detections(self) -> str:
        labels, final = self.out / DETECTIONS, folder(self.out, "final")
        batch = self._load(MobileLabelsConfig, "mobile_labels").batch_size
        settings = MobileLabelsConfig(score_threshold=self.config.score, batch_size=batch)
        given = {"data": self.data, "split": self.everything, "detector": final, "out": labels}
        COMMANDS["labels mobile"].call({**given, "config": settings})
        target = self.out / "detections.json"
        if distributed.is_main():
            export_labels(labels, self.everything, self.data, target)
        instances, frames = read_counts(labels, "instances", "frames")
        if not instances:
            say(
                f"  warning: the final detector finds nothing above a score of {self.config.score:g}; the "
                "report shows how far the rounds came"
            )
        return f"{instances} instances in {frames} frames, in {target}"

    def _evaluation(self) -> str:
        motion, evaluation, _ = EVALUATION
        self._perform(motion)
        self._perform(evaluation)
        final = read_metrics(folder(self.out, "evaluation"))[FINAL]
        again = final["labels/consistency"]
        found = (
            "too few to follow them" if again < 0 else f"{again:.0%} are found again in the next"
        )
        return f"{final['labels/per_frame']:.2f} objects a frame, {found}"

    def _report(self) -> str:
        if distributed.is_main():
            self._perform(EVALUATION[2], score=self.config.score)
        return f"open {self.out / 'report.html'}"

    def _refuse_unless_insisted(self, reasons: list[str]) -> None:
        """Raise InputError with the reasons, or only warn if the user insists."""
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
    """Height and width of stage 1's input: about the preset's area at about the frames' aspect ratio.

    Both are multiples of 32, which the networks' pyramids ask for.
    """
    sides = range(64, 2048 + 1, 32)
    area, aspect = preset[0] * preset[1], frame[1] / frame[0]

    def misfit(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        off = abs(math.log(width / height / aspect))
        # Labels that are off by more than the detector's `ASPECT_TOLERANCE` would be refused.
        return max(off, 0.07), off + 0.3 * abs(math.log(height * width / area))

    near = [(h, w) for h in sides for w in sides if area / 2 < h * w < 2 * area]
    return min(near, key=misfit, default=preset)


def learned_from(out: Path) -> bool:
    """Whether a run has begun to train."""
    return folder(out, "motion").is_dir()


def _preset(wanted: str, out: Path) -> tuple[str, str]:
    """Choose the preset and say why; a continued run keeps its own."""
    started = out / STARTED
    before = wanted
    if learned_from(out) and started.is_file():
        before = str(read_json(started).get("preset", wanted))
    if AUTO not in (wanted, before) and before != wanted:
        raise InputError(
            f"{out}: the run was started with preset {before!r}; move {out} away to begin again with "
            f"{wanted!r}, or choose another folder."
        )
    if wanted != AUTO:
        return wanted, "as asked for"
    return (before, "as before") if before != AUTO else propose_preset()


def _last(run: Path, term: str) -> str:
    entries = [entry for entry in read_log(run / "log.jsonl") if term in entry]
    return f"{entries[-1][term]:.3f}" if entries else "unknown"
