"""VideoMAE with tubelets of a single frame (Tong et al. 2022, as used by Fan et al. 2023): one token per patch and frame.

Clips are (B, 3, T, H, W), normalised by ImageNet's mean and deviation; tokens are ordered by time, row, column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moduv.engine.errors import InputError

PATCH = 16
"""Side of a patch in pixels."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue."""
EPSILON = 1e-6


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer."""

    dim: int
    """Width of the tokens."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of attention heads."""

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads) < 1 or self.dim % self.heads:
            raise InputError(
                f"a transformer has width {self.dim}, {self.depth} blocks and {self.heads} heads; use 1 or more of "
                "each, and a width that the heads divide."
            )


ENCODER = TransformerConfig(768, 12, 12)
DECODER = TransformerConfig(384, 4, 6)


def build_pretraining(
    encoder: TransformerConfig = ENCODER, decoder: TransformerConfig = DECODER
) -> Pretraining:
    """The network of masked pre-training; 93.3 million parameters by default."""
    return Pretraining(encoder, decoder)


def normalise(clip: Tensor) -> Tensor:
    """Clips (…, 3, T, H, W) uint8 by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(v, device=clip.device)[:, None, None, None] for v in (MEAN, STD))
    return (clip.float() / 255 - mean) / std


def sine_table(frames: int, rows: int, columns: int, dim: int) -> Tensor:
    """Position embeddings (frames rows columns, dim): a third of the channels each for row and column, the rest for time."""
    third = dim // 3
    parts = [(frames, dim - 2 * third), (rows, third), (columns, third)]
    time, row, column = (_sines(length, width) for length, width in parts)
    grid = (frames, rows, columns, -1)
    places = [
        time[:, None, None].expand(grid),
        row[None, :, None].expand(grid),
        column[None, None].expand(grid),
    ]
    return torch.cat(places, -1).reshape(-1, dim)


def _sines(length: int, dim: int) -> Tensor:
    """(length, dim): sines in even and cosines in odd channels, of decreasing frequency (Vaswani et al. 2017)."""
    number = torch.arange(dim)
    rate = torch.pow(10_000.0, -2 * (number // 2).double() / dim)
    angle = torch.arange(length).double()[:, None] * rate
    return torch.where(number % 2 == 0, angle.sin(), angle.cos()).float()


def resized_table(frames: int, rows: int, columns: int, dim: int, base: int) -> Tensor:
    """Position embeddings of `base` x `base` patches, resized bicubically to rows x columns in every frame."""
    table = sine_table(frames, base, base, dim)
    if (rows, columns) == (base, base):
        return table
    maps = table.reshape(frames, base, base, dim).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, (rows, columns), mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).reshape(-1, dim)


class Attention(nn.Module):
    """Self-attention whose queries and values have biases, and keys none: they would change nothing."""

    def __init__(self, dim: int, num_heads: int, **_: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """(B, N, C) to the same."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def blocks(config: TransformerConfig) -> nn.ModuleList:
    """Blocks of timm with the attention above. Raises InputError where timm is missing."""
    try:
        from timm.models.vision_transformer import Block
    except ModuleNotFoundError:
        raise InputError(
            "VideoMAE needs the package 'timm'; install it with pip install -e '.[naming]'."
        ) from None
    norm: Any = partial(nn.LayerNorm, eps=EPSILON)
    return nn.ModuleList(
        Block(config.dim, config.heads, norm_layer=norm, attn_layer=Attention)
        for _ in range(config.depth)
    )


class PatchEmbedding(nn.Module):
    """Patches of one frame as vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, (1, PATCH, PATCH), (1, PATCH, PATCH))

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) to tokens (B, T h w, C)."""
        return self.proj(clip).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """The transformer of a clip."""

    def __init__(self, config: TransformerConfig = ENCODER, classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.dim)
        self.blocks = blocks(config)
        self.norm = nn.LayerNorm(config.dim, eps=EPSILON)
        if classes:
            # Of a fine-tuned model; grouping has its weights and no use for them.
            self.head = nn.Linear(config.dim, classes)

    def forward(self, clip: Tensor, table: Tensor, visible: Tensor | None = None) -> Tensor:
        """Raw output of the last block, without the last norm.

        Args:
            clip: (B, 3, T, H, W).
            table: (N, C), positions.
            visible: (B, N) bool, as many in each clip; only these tokens exist. None: all.

        Returns (B, N or visible, C).
        """
        x = self.patch_embed(clip) + table.to(clip)
        if visible is not None:
            x = x[visible].reshape(len(x), -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return x


class Decoder(nn.Module):
    """The shallow transformer that paints what was hidden."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.blocks = blocks(config)
        self.norm = nn.LayerNorm(config.dim, eps=EPSILON)
        self.head = nn.Linear(config.dim, 3 * PATCH * PATCH)

    def forward(self, x: Tensor, hidden: int) -> Tensor:
        """(B, N, C) to the pixels (B, hidden, 768) of the last `hidden` tokens."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -hidden:]))


class Pretraining(nn.Module):
    """Encoder of the visible tokens, decoder of the hidden ones; keys as in the published files."""

    def __init__(self, encoder: TransformerConfig, decoder: TransformerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.encoder_to_decoder = nn.Linear(encoder.dim, decoder.dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder = Decoder(decoder)
        self.apply(initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def encode(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Encode the visible tokens, (B, visible, C) after the last norm.

        Args:
            clip: (B, 3, T, H, W).
            mask: (B, h w) bool, the masked patches, which are the same in all frames.
        """
        grid = _grid(clip)
        table = sine_table(*grid, self.encoder.config.dim)
        return self.encoder.norm(self.encoder(clip, table, ~_tube(mask, grid[0])))

    def forward(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Predictions (B, hidden, 768) of the masked patches, in the order of tokens; arguments as of `encode`."""
        hidden = _tube(mask, clip.shape[2])
        seen = self.encoder_to_decoder(self.encode(clip, mask))
        table = sine_table(*_grid(clip), seen.shape[-1]).to(seen).expand(len(clip), -1, -1)
        places = [
            table[choice].reshape(len(clip), -1, seen.shape[-1]) for choice in (~hidden, hidden)
        ]
        full = torch.cat([seen + places[0], self.mask_token + places[1]], 1)
        return self.decoder(full, places[1].shape[1])


def _grid(clip: Tensor) -> tuple[int, int, int]:
    """Frames, rows and columns of tokens. Raises InputError for sides that patches do not fill."""
    frames, height, width = clip.shape[2:]
    if height % PATCH or width % PATCH:
        raise InputError(
            f"a clip is of {height} x {width} pixels; resize it to multiples of {PATCH}."
        )
    return frames, height // PATCH, width // PATCH


def _tube(mask: Tensor, frames: int) -> Tensor:
    """(B, n) of one frame to (B, T n): the same patches in all frames."""
    return mask.bool().repeat(1, frames)


def initialise(module: nn.Module) -> None:
    """Initialise linear layers: uniform weights (Glorot and Bengio 2010), zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def tube_mask(patches: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw the masked patches of a frame, (patches,) bool: `share` of them, rounded down."""
    hidden = math.floor(share * patches)
    order = torch.rand(patches, generator=generator, device=generator.device).argsort()
    return order < hidden


def pixel_targets(clip: Tensor) -> Tensor:
    """The targets of the prediction: patches (B, N, 768) of pixels in [0, 1], standardised per patch.

    Each channel of a patch has mean 0 and deviation 1. Channels are interleaved, pixel by pixel.
    """
    mean, std = (torch.tensor(v).to(clip)[:, None, None, None] for v in (MEAN, STD))
    frames, rows, columns = _grid(clip)
    cut = (clip * std + mean).unflatten(4, (columns, PATCH)).unflatten(3, (rows, PATCH))
    patches = cut.permute(0, 2, 3, 5, 4, 6, 1).reshape(len(clip), frames * rows * columns, -1, 3)
    centred = patches - patches.mean(2, keepdim=True)
    scale = patches.var(2, keepdim=True, unbiased=True).sqrt() + EPSILON
    return (centred / scale).flatten(2)


def reconstruction_loss(prediction: Tensor, clip: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the masked patches.

    Args:
        prediction: (B, hidden, 768).
        clip: (B, 3, T, H, W).
        mask: (B, h w) bool, the masked patches.
    """
    targets = pixel_targets(clip)
    hidden = targets[_tube(mask, clip.shape[2])].reshape(prediction.shape)
    return F.mse_loss(prediction, hidden)
