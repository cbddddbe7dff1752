"""Lite-Mono-8M (Zhang et al. 2023): a small convolutional encoder with cross-covariance attention."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from moduv.depth.networks.monodepth import ConvELU, ReflectedConv
from moduv.depth.networks.resnet import normalise

CHANNELS = (64, 128, 224)
DILATIONS = ((1, 2, 3), (1, 2, 3), (1, 2, 3, 1, 2, 3, 2, 4, 6))
EXPANSION = 6
HEADS = 8
LAYER_SCALE = 1e-6


class DropPath(nn.Module):
    """Leave out the residual branch of whole samples in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(
            1 - self.rate
        )
        return x * kept / (1 - self.rate)


class BatchNormGELU(nn.Module):
    """Batch normalisation and GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.bn(x))


class Conv(nn.Module):
    """Convolution without bias, where wanted with normalisation and GELU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, 3, stride, dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn_gelu = BatchNormGELU(outputs) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_gelu(self.conv(x))


class Bottleneck(nn.Module):
    """What both blocks end with: expand, GELU, contract, scale, add."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, EXPANSION * channels)
        self.pwconv2 = nn.Linear(EXPANSION * channels, channels)
        self.gamma = nn.Parameter(LAYER_SCALE * torch.ones(channels))
        self.drop_path = DropPath(drop_path)

    def expand(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the residual branch (B, C, H, W)."""
        branch = self.gamma * self.pwconv2(F.gelu(self.pwconv1(x)))
        return rearrange(branch, "b h w c -> b c h w")


class DilatedBlock(Bottleneck):
    """Consecutive dilated convolutions, one dilation a block (section 3.2). `norm` exists unused."""

    def __init__(self, channels: int, dilation: int, drop_path: float) -> None:
        super().__init__(channels, drop_path)
        self.ddwconv = Conv(channels, channels, dilation=dilation, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = rearrange(self.bn1(self.ddwconv(x)), "b c h w -> b h w c")
        return x + self.drop_path(self.expand(branch))


class CrossCovarianceAttention(nn.Module):
    """Attention between channels instead of positions (El-Nouby et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) to the same shape."""
        query, key, value = rearrange(self.qkv(tokens), "b n (k h c) -> k b h c n", k=3, h=HEADS)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        attention = (query @ key.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj(rearrange(attention @ value, "b h c n -> b n (h c)"))


class FourierPosition(nn.Module):
    """Sines and cosines of the position, projected to the channels (Carion et al. 2020)."""

    def __init__(self, channels: int, *, hidden: int = 32, temperature: float = 10000) -> None:
        super().__init__()
        self.hidden, self.temperature = hidden, temperature
        self.token_projection = nn.Conv2d(2 * hidden, channels, 1)

    def forward(self, like: Tensor) -> Tensor:
        """The encoding (1, C, H, W) for a feature map."""
        height, width = like.shape[-2:]
        y = repeat(self._waves(height, like.device), "c h -> c h w", w=width)
        x = repeat(self._waves(width, like.device), "c w -> c h w", h=height)
        return self.token_projection(torch.cat([y, x])[None])

    def _waves(self, length: int, device: torch.device) -> Tensor:
        """(hidden, length): sine and cosine in turn at falling frequencies."""
        position = 2 * math.pi * torch.arange(1, length + 1, device=device) / (length + 1e-6)
        exponent = torch.arange(0, self.hidden, 2, device=device) / self.hidden
        phase = position / self.temperature ** exponent[:, None]
        return rearrange([phase.sin(), phase.cos()], "wave c length -> (c wave) length")


class LocalGlobalBlock(Bottleneck):
    """Local-global features interaction: cross-covariance attention and a bottleneck (section 3.2)."""

    def __init__(self, channels: int, drop_path: float, *, position: bool) -> None:
        super().__init__(channels, drop_path)
        self.pos_embd = FourierPosition(channels) if position else None
        self.norm_xca = nn.LayerNorm(channels, eps=1e-6)
        self.gamma_xca = nn.Parameter(LAYER_SCALE * torch.ones(channels))
        self.xca = CrossCovarianceAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c")
        if self.pos_embd is not None:
            tokens = tokens + rearrange(self.pos_embd(x), "b c h w -> b (h w) c")
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        branch = rearrange(self.norm(tokens), "b (h w) c -> b h w c", h=x.shape[-2])
        return x + self.drop_path(self.expand(branch))


class LiteMonoEncoder(nn.Module):
    """Features at 1/4, 1/8 and 1/16 of an image's size.

    Before every downsampling, what entered and left the stage and a pooled copy of the image are
    concatenated.
    """

    def __init__(self, *, drop_path: float = 0.4) -> None:
        super().__init__()
        first = CHANNELS[0]
        stem = nn.Sequential(
            Conv(3, first, stride=2, activate=True),
            Conv(first, first, activate=True),
            Conv(first, first, activate=True),
        )
        self.downsample_layers = nn.ModuleList([stem])
        self.stem2 = nn.Sequential(Conv(first + 3, first, stride=2))
        for inputs, outputs in itertools.pairwise(CHANNELS):
            self.downsample_layers.append(nn.Sequential(Conv(2 * inputs + 3, outputs, stride=2)))
        count = sum(len(dilations) + 1 for dilations in DILATIONS)
        rates = iter(torch.linspace(0, drop_path, count).tolist())
        self.stages = nn.ModuleList()
        for index, (channels, dilations) in enumerate(zip(CHANNELS, DILATIONS, strict=True)):
            blocks: list[nn.Module] = [DilatedBlock(channels, d, next(rates)) for d in dilations]
            blocks.append(LocalGlobalBlock(channels, next(rates), position=index == 0))
            self.stages.append(nn.Sequential(*blocks))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] to three feature maps, finest first."""
        pooled = [_halve(normalise(images))]
        for _ in range(2):
            pooled.append(_halve(pooled[-1]))
        x = self.downsample_layers[0](normalise(images))
        x = self.stem2(torch.cat([x, pooled[0]], 1))
        features = [self.stages[0](x)]
        for down, stage, copy in zip(
            self.downsample_layers[1:], self.stages[1:], pooled[1:], strict=True
        ):
            x = down(torch.cat([x, features[-1], copy], 1))
            features.append(stage(x))
        return features


def _halve(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 3, 2, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class LiteMonoDecoder(nn.Module):
    """Disparity at scales 0 to 2: bilinear upsampling, one skip connection a level."""

    def __init__(self) -> None:
        super().__init__()
        widths = [channels // 2 for channels in CHANNELS]
        layers: list[nn.Module] = []
        inputs = CHANNELS[-1]
        for level in reversed(range(3)):
            skip = CHANNELS[level - 1] if level > 0 else 0
            layers += [ConvELU(inputs, widths[level]), ConvELU(widths[level] + skip, widths[level])]
            inputs = widths[level]
        layers += [ReflectedConv(width, 1) for width in widths]
        self.decoder = nn.ModuleList(layers)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Three features, finest first, to disparities (B, 1, H / 2^s, W / 2^s) in (0, 1), scale 0 first."""
        x = features[-1]
        disparities = []
        for step, level in enumerate(reversed(range(3))):
            x = _double(self.decoder[2 * step](x))
            if level > 0:
                x = torch.cat([x, features[level - 1]], 1)
            x = self.decoder[2 * step + 1](x)
            disparities.append(_double(self.decoder[6 + level](x)).sigmoid())
        return disparities[::-1]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
