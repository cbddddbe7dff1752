"""Masks of one clip of 8 x 224 x 384 by the full-size network, CPU seconds of one thread, beside attention written out.

    python benchmarks/grouping.py

Weights are random: the time does not depend on them. `written out`: attention as a product, a softmax and a product, and
every slot's whole reconstruction, as in the authors' code. `equal` is the share of tokens in the same slot as there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from moduv.naming.slots import build_grouping
from moduv.naming.videomae import Attention


def written_out(self: Any, x: Tensor, **_: Any) -> Tensor:
    """Attention whose weights (B, heads, N, N) are kept."""
    bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
    parts = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
    q, k, v = parts.permute(2, 0, 3, 1, 4)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return self.proj((weights @ v).transpose(1, 2).flatten(2))


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU seconds, and the result."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


@torch.inference_mode()
def main() -> None:
    """Measure the three ways and print them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_grouping().eval()
    clip, noise = torch.randn(1, 3, 8, 224, 384), torch.randn(1, 15, 128)
    rows = {"here": seconds(lambda: model.alphas(clip, noise))}
    with torch.autocast("cpu", torch.bfloat16):
        rows["here, bf16"] = seconds(lambda: model.alphas(clip, noise))
    with patch.object(Attention, "forward", written_out):
        base, alphas = rows["written out"] = seconds(lambda: model(clip, noise).alphas)
    print("| way | CPU seconds | ratio | equal |\n|---|---|---|---|")
    for name, (spent, found) in rows.items():
        equal = (found.argmax(2) == alphas.argmax(2)).float().mean()
        print(f"| {name} | {spent:.1f} | {base / spent:.2f} | {equal:.4f} |")


if __name__ == "__main__":
    main()
