"""The schedule of Dynamo-Depth (section 3.5) and everything that can be set in it.

Depth and ego-motion are learnt first as if the world stood still, then the flow that explains what is
left, then the mask that says where it moves by itself, and at last all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from moduv.depth.ground import GroundConfig
from moduv.engine.errors import InputError

DEPTH = ("depth_enc", "depth_dec")
POSE = ("pose_enc", "pose_dec")
FLOW = ("motion_enc", "motion_dec")
MASK = ("motion_mask",)
MODULES = (*DEPTH, *POSE, *FLOW, *MASK)

TERMS = (
    "photometric",
    "disparity_smoothness",
    "above_ground",
    "flow_smoothness",
    "flow_consistency",
    "mask_sparsity",
    "mask_smoothness",
)
RAMPED = ("flow_smoothness", "flow_consistency", "mask_sparsity", "mask_smoothness")


@dataclass(frozen=True)
class Phase:
    """One phase: what is trained, by which losses, and where the neighbours are sampled."""

    name: str
    trains: tuple[str, ...]
    """Modules that receive gradients; the others run without."""
    positions: str
    """`ego`: project(T P); `complete`: project(P + F); `independent`: project(T (P + independent flow))."""
    losses: tuple[str, ...]
    automask: bool = False
    """Ignore pixels that look the same in the unwarped neighbours (Monodepth2's auto-masking)."""

    @property
    def has_flow(self) -> bool:
        """Whether the motion encoder and the flow decoder run."""
        return self.positions != "ego"

    @property
    def has_mask(self) -> bool:
        """Whether the mask decoder runs."""
        return self.positions == "independent"

    @property
    def folder(self) -> str:
        """Of its training, below that of the stage."""
        return f"{[*PHASES].index(self.name) + 1}_{self.name}"

    def freeze(self, model: nn.Module) -> None:
        """Let gradients reach exactly the modules this phase trains."""
        for name in MODULES:
            getattr(model, name).requires_grad_(name in self.trains)


PHASES = {
    phase.name: phase
    for phase in (
        Phase(
            "disp_init",
            trains=(*DEPTH, *POSE),
            positions="ego",
            losses=("photometric", "disparity_smoothness"),
            automask=True,
        ),
        Phase(
            "motion_init",
            trains=FLOW,
            positions="complete",
            losses=("photometric", "flow_smoothness"),
        ),
        Phase(
            "mask_init",
            trains=(*POSE, *FLOW, *MASK),
            positions="independent",
            losses=("photometric", *RAMPED),
        ),
        Phase("fine_tune", trains=MODULES, positions="independent", losses=TERMS),
    )
}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms (Dynamo-Depth, table 6)."""

    photometric: float = 1.0
    disparity_smoothness: float = 1e-3
    above_ground: float = 0.1
    flow_smoothness: float = 1e-3
    flow_consistency: float = 5.0
    mask_sparsity: float = 0.04
    mask_smoothness: float = 0.1


@dataclass(frozen=True)
class MotionConfig:
    """Losses and geometry of stage 1. The defaults are the published ones."""

    weights: LossWeights = field(default_factory=LossWeights)
    phase_weights: dict[str, LossWeights] = field(default_factory=dict)
    """Weights of single phases, by name, instead of `weights`."""
    ground: GroundConfig = field(default_factory=GroundConfig)
    min_depth: float = 0.1
    max_depth: float = 100.0
    translation_scale: float = 1.0
    """Factor from the pose network's translation to units of depth."""
    pose_order: str = "source"
    """Order of the two frames the pose network sees: `source` first and centre last, or as in `time`."""
    loss_scales: tuple[int, ...] = ()
    """Scales the losses are computed on; empty: all the depth network predicts."""
    flow_parametrisation: str = "complete"
    """The motion network's output is the `complete` flow, or the `residual` beside the ego flow: then
    a silent network means that nothing moves by itself."""
    flow_unit: str = "length"
    """The motion network's output is a `length`, or a share of the point's `depth`."""
    motion_input: str = "raw"
    """The motion network sees the neighbours as they are (`raw`), or `warped` to the centre frame by
    depth and ego-motion, so that what still differs moves by itself."""
    photometric_pyramid: tuple[int, ...] = ()
    """Pooling factors at which the photometric error is added, so that larger displacements are within
    reach of its gradient. Without, a small world can settle on inverted depth and a backward camera."""
    consistency_disparity: float = 0.03
    """Smallest disparity at which static flow is held to the ego flow; farther, rotation prevails."""
    tie_break: float = 1e-5
    """Standard deviation of the noise against ties in auto-masking."""

    def __post_init__(self) -> None:
        allowed = {
            "pose_order": ("source", "time"),
            "flow_parametrisation": ("complete", "residual"),
            "flow_unit": ("length", "depth"),
            "motion_input": ("raw", "warped"),
        }
        for key, choices in allowed.items():
            if getattr(self, key) not in choices:
                raise InputError(
                    f"motion: {key} {getattr(self, key)!r} is unknown; choose one of {choices}."
                )
        if not 0 < self.min_depth < self.max_depth:
            raise InputError(
                f"motion: min_depth {self.min_depth} is not between 0 and max_depth "
                f"{self.max_depth}; mend the range."
            )
        for name in self.phase_weights:
            if name not in PHASES:
                raise InputError(
                    f"motion: phase_weights names {name!r}; the phases are {tuple(PHASES)}."
                )

    def weights_of(self, phase: Phase) -> LossWeights:
        """The loss weights in force in a phase."""
        return self.phase_weights.get(phase.name, self.weights)
