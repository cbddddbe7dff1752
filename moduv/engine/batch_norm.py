"""Batch normalisation over the batches of all processes on CPUs, for which torch has none."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv.engine import distributed


class SharedBatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d` of the batches of all ranks together; they must be of one size."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed.world_size() > 1):
            return super().forward(input)
        # Statistics of half precision would be too coarse.
        given = input.to(self.weight.dtype)
        output, mean, variance = _Normalise.apply(given, self.weight, self.bias, self.eps)
        count = distributed.world_size() * input.numel() / input.shape[1]
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
        return output.to(input.dtype)


class _Normalise(torch.autograd.Function):
    """Normalised input, and mean and variance (C,) over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Many times faster on CPUs than `torch.var_mean`.
        own = torch.stack(torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0))  # (2, C)
        means, variances = torch.stack(distributed.gather(own), 1)  # (ranks, C) each
        mean = means.mean(0)
        # Within the ranks and between them; the difference of squares would lose digits.
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradients[0]
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse, True, 0.0, [False, True, True]
        )
        sums = torch.stack(distributed.gather(torch.stack([to_bias, to_weight]))).sum(0)  # (2, C)
        means = sums / (distributed.world_size() * x.numel() / x.shape[1])
        # d output / d x = weight inverse (1 - mean over pixels - normalised x · mean of its product)
        scale = weight * inverse
        slope = -scale * inverse * means[1]
        offset = -scale * means[0] - slope * mean
        to_x = torch.addcmul(_channels(offset), gradient, _channels(scale))
        return to_x.addcmul_(x, _channels(slope)), to_weight, to_bias, None


def _channels(values: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1)."""
    return values[None, :, None, None]


def share_batch_norm(module: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` inside a module; parameters and statistics stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum or 0.0)
            shared.load_state_dict(child.state_dict())
            shared.requires_grad_(child.weight.requires_grad)
            setattr(module, name, shared.to(child.weight))
        else:
            share_batch_norm(child)
