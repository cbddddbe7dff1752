"""Images per second of a training step of stage 1, ours beside the way the reference computes it.

    python benchmarks/motion.py [--networks litemono monodepthv2] [--sizes 192x320 320x480]
        [--batches 1 3] [--phase fine_tune] [--repeat 5] [--float32] [--baseline | --compile]

The baseline is a mode of the same code: disparity of all three frames although the losses read one, the
convolutions of the motion decoders one by one, structural similarity by average pooling, the ground plane by
a loop over the batch and its tries, single precision, gradients for modules that a phase does not train, and
every loss term read on the host at every step. Both modes run in turn in one process, so that whatever else the machine does meets both. `--baseline`
runs that mode alone, e.g. for a profiler. The last column is the ratio of the multiplications in convolutions
and matrix products: what could be gained at most if both ran at the speed of the machine's arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moduv import geometry
from moduv.engine import distributed
from moduv.geometry import photometric
from moduv.motion import fields, losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.networks.motion_fields import MotionFieldDecoder
from moduv.motion.phases import PHASES, MotionConfig

CONFIG = MotionConfig()


def pooled_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural dissimilarity with an average pooling for each of the five moments."""
    first, second = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (first, second))
    mean_1, mean_2 = F.avg_pool2d(first, 3, 1), F.avg_pool2d(second, 3, 1)
    variance_1 = F.avg_pool2d(first**2, 3, 1) - mean_1**2
    variance_2 = F.avg_pool2d(second**2, 3, 1) - mean_2**2
    covariance = F.avg_pool2d(first * second, 3, 1) - mean_1 * mean_2
    c1, c2 = photometric.SSIM_C1, photometric.SSIM_C2
    above = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    below = (mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2)
    return ((1 - above / below) / 2).clamp(0, 1)


@torch.no_grad()
def looped_plane(
    points: Tensor,
    generator: torch.Generator | None = None,
    *,
    samples: int = 5,
    tries: int = 100,
    tolerance: float = 0.005,
) -> Tensor:
    """The ground plane, one image and one try after the other."""
    planes = []
    for cloud in points:
        x, y, z = cloud
        known = torch.stack([x, z, torch.ones_like(x)], 1)
        best, most = torch.zeros(3, device=points.device), -1
        for _ in range(tries):
            chosen = torch.randint(len(x), (samples,), generator=generator, device=points.device)
            plane = torch.linalg.lstsq(known[chosen], y[chosen, None]).solution[:, 0]
            inliers = int(((known @ plane - y).abs() < tolerance).sum())
            if inliers > most:
                best, most = plane, inliers
        planes.append(best)
    return torch.stack(planes)


def layered_refinement(decoder: MotionFieldDecoder, level: int, inputs: Tensor) -> Tensor:
    """What a level adds to a motion field, layer by layer."""
    first, second, reduce = decoder.layers(level)
    once = first(inputs)
    added: Tensor = reduce(torch.cat([once, second(once)], 1))
    return added


@contextmanager
def reference_parts() -> Iterator[None]:
    """Replace the parts that the baseline computes in another way."""
    with (
        patch.object(photometric, "ssim", pooled_ssim),
        patch.object(geometry, "ransac_plane", looped_plane),
        patch.object(MotionFieldDecoder, "refinement", layered_refinement),
        patch.object(fields, "_gradients", lambda phase, module: nullcontext()),
    ):
        yield


class Training:
    """A network with its optimiser and one batch; `step` trains on it once."""

    def __init__(
        self,
        network: str,
        size: tuple[int, int],
        batch: int,
        phase: str,
        mode: str,
        *,
        float32: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.baseline, self.phase = mode == "baseline", PHASES[phase]
        self.device = distributed.device()
        self.model = DynamoDepth(network).to(self.device).train()
        if not self.baseline and self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.baseline:
            self.phase.freeze(self.model)
        trained = [
            parameter
            for name, parameter in self.model.named_parameters()
            if name.split(".")[0] in self.phase.trains and parameter.requires_grad
        ]
        self.optimizer = torch.optim.Adam(trained, 1e-4, fused=not self.baseline)
        self.batch = random_batch(*size, batch, self.device)
        self.losses: Any = losses.compute_losses
        if mode == "compile":
            self.losses = torch.compile(losses.compute_losses)
        self.bf16 = not self.baseline and not float32 and has_fast_bf16(self.device)

    def step(self) -> dict[str, Tensor]:
        """One training step; returns its loss terms."""
        self.optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.baseline:
                with reference_parts():
                    for neighbour in (0, 2):
                        self.model.disparity(self.batch["images"][:, neighbour])
                    terms = self.losses(self.model, self.batch, self.phase, 1.0, CONFIG, generator)
            else:
                terms = self.losses(self.model, self.batch, self.phase, 1.0, CONFIG, generator)
        terms["loss"].backward()
        self.optimizer.step()
        if self.baseline:
            for value in terms.values():
                value.item()
        return terms


def random_batch(height: int, width: int, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Smooth random triplets that shift from frame to frame, with a 50 degree camera."""
    noise = torch.rand(batch, 3, height // 8, width // 8 + 2)
    wide = F.interpolate(noise, (height, width + 16), mode="bicubic").clamp(0, 1)
    images = torch.stack([wide[..., shift : shift + width] for shift in (4, 8, 12)], 1)
    K = torch.eye(4).repeat(batch, 1, 1)
    K[:, 0, 0], K[:, 1, 1] = 1.07 * width, 1.6 * height
    K[:, 0, 2], K[:, 1, 2] = width / 2, height / 2
    values = {"images": images, "K": K, "inv_K": torch.inverse(K)}
    return {key: value.to(device) for key, value in values.items()}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether half precision is worth its conversions on this machine."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported())


def arithmetic(training: Training) -> float:
    """Floating-point operations of the convolutions and matrix products of one step."""
    with FlopCounterMode(display=False) as counter:
        training.step()
    return float(counter.get_total_flops())


def seconds_of(training: Training) -> float:
    """Wall time of one step, with everything the device had to do for it."""
    start = time.perf_counter()
    training.step()
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print a table of images per second and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", default=["litemono", "monodepthv2"])
    parser.add_argument("--sizes", nargs="+", default=["192x320", "320x480"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--phase", choices=list(PHASES), default="fine_tune")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="ours, too, in single precision")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--baseline", action="store_true", help="only the baseline")
    alone.add_argument("--compile", action="store_true", help="ours through torch.compile")
    options = parser.parse_args()
    ours = "compile" if options.compile else "ours"
    modes = ["baseline"] if options.baseline else [ours, "baseline"]
    print(
        f"| {options.phase} | batch | "
        + " | ".join(f"{m}, images/s" for m in modes)
        + " | ratio | arithmetic |"
    )
    print("|---|---|" + "---|" * (len(modes) + 2))
    for network, size, batch in product(options.networks, options.sizes, options.batches):
        height, width = (int(side) for side in size.split("x"))
        case = network, (height, width), batch, options.phase
        runs = {mode: Training(*case, mode, float32=options.float32) for mode in modes}
        times: dict[str, list[float]] = {mode: [] for mode in modes}
        # The first step allocates and compiles, so it is not timed.
        operations = {mode: arithmetic(training) for mode, training in runs.items()}
        for _ in range(options.repeat):
            for mode, training in runs.items():
                times[mode].append(seconds_of(training))
        rates = [batch / statistics.median(times[mode]) for mode in modes]
        ratio = f"{rates[0] / rates[-1]:.2f}" if len(modes) > 1 else ""
        work = f"{operations[modes[-1]] / operations[modes[0]]:.2f}"
        cells = " | ".join(f"{rate:.2f}" for rate in rates)
        print(
            f"| {network}, {height} x {width} | {batch} | {cells} | {ratio} | {work} |", flush=True
        )


if __name__ == "__main__":
    main()
