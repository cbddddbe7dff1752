"""Slot attention over the tokens of a clip (Locatello et al. 2020; Fan et al. 2023, section 3.1).

Slots attend to all frames at once, so a slot is the same object throughout the clip and no tracker is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moduv.engine.errors import InputError
from moduv.naming.videomae import ENCODER, PATCH, Encoder, TransformerConfig, resized_table

EPSILON = 1e-8
CLASSES = 174
"""Classes of the encoder's head, which is part of the published files and not used."""


@dataclass(frozen=True)
class GroupingConfig:
    """Sizes of the slot network; the defaults are the published ones."""

    frames: int = 8
    """Frames of a clip."""
    base: int = 14
    """Rows and columns of patches for which positions are learned."""
    slots: int = 15
    """Number of slots."""
    dim: int = 128
    """Width of a slot."""
    iterations: int = 3
    """Iterations of slot attention."""
    slot_hidden: int = 512
    """Hidden width of the slots' perceptron."""
    decoder_hidden: int = 1024
    """Hidden width of the decoder."""
    encoder: TransformerConfig = ENCODER
    """Sizes of the frozen encoder."""

    def __post_init__(self) -> None:
        counts = {k: v for k, v in vars(self).items() if k != "encoder"}
        wrong = next((key for key, value in counts.items() if value < 1), None)
        if wrong is not None:
            raise InputError(f"{wrong} of the slots' network is {counts[wrong]}; use 1 or more.")


def build_grouping(config: GroupingConfig | None = None) -> Grouping:
    """The network that groups a clip, under the keys and, by default, with the sizes of the published files."""
    return Grouping(config or GroupingConfig())


class Residual(nn.Module):
    """A module whose input is added to its output."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.module = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return x + self.module(x)


class SlotAttention(nn.Module):
    """Iterative attention in which slots compete for tokens.

    Args:
        features: width of the tokens.
        slots: width of the slots.
        inner: width of queries, keys and values.
        hidden: width of the slots' perceptron.
        heads: attention heads; the softmax is over slots and heads together.
        iterations: number of updates of the slots.
        bias: whether queries, keys and values have biases.
    """

    def __init__(
        self,
        features: int,
        slots: int,
        inner: int,
        hidden: int,
        heads: int = 1,
        iterations: int = 3,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.iterations = heads, iterations
        self.to_q = nn.Linear(slots, inner, bias=bias)
        self.to_k = nn.Linear(features, inner, bias=bias)
        self.to_v = nn.Linear(features, inner, bias=bias)
        self.gru = nn.GRUCell(inner, slots)
        self.norm_input = nn.LayerNorm(features)
        self.norm_slots = nn.LayerNorm(slots)
        self.ff_mlp = Residual(
            nn.LayerNorm(slots), nn.Linear(slots, hidden), nn.ReLU(), nn.Linear(hidden, slots)
        )

    def forward(self, features: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Update slots by tokens.

        Args:
            features: tokens (B, N, F).
            slots: initial slots (B, K, D).

        Returns:
            The slots (B, K, D), and the attention (B, K, N) of the last iteration: the shares of each token, averaged over
            heads and not yet normalised over tokens.
        """
        x = self.norm_input(features)
        keys, values = (self._split(layer(x)) for layer in (self.to_k, self.to_v))
        attention = x.new_zeros(0)
        for _ in range(self.iterations):
            queries = self._split(self.to_q(self.norm_slots(slots)))
            attention = self._compete(queries, keys)
            weights = attention + EPSILON
            weights = weights / weights.sum(-1, keepdim=True)
            update = (weights @ values).transpose(1, 2).flatten(2)
            updated = self.gru(update.flatten(0, 1), slots.flatten(0, 1))
            slots = self.ff_mlp(updated.view_as(slots))
        return slots, attention.mean(1)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, inner) to (B, heads, N, inner / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _compete(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention (B, heads, K, N): each token is shared among all slots and heads."""
        logits = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
        shared = logits.flatten(1, 2).softmax(1)
        return shared.view_as(logits)


class Conditioning(nn.Module):
    """Initial slots: samples of a learned Gaussian."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.slots_mu = nn.Parameter(torch.empty(1, 1, dim))
        self.slots_logsigma = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.xavier_uniform_(self.slots_mu)
        nn.init.xavier_uniform_(self.slots_logsigma)

    def forward(self, noise: Tensor) -> Tensor:
        """Standard normal numbers (B, K, D) to slots."""
        return self.slots_mu + self.slots_logsigma.exp() * noise


class Projection(nn.Module):
    """Projection of the features to the width of slots, and slot attention."""

    def __init__(self, config: GroupingConfig) -> None:
        super().__init__()
        width, dim = config.encoder.dim, config.dim
        self.slot_attention = SlotAttention(
            dim, dim, dim, config.slot_hidden, iterations=config.iterations
        )
        # The published name; positions come through the features alone.
        self.positional_embedding = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)
        )
        for layer in self.positional_embedding:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)


class MixtureDecoder(nn.Module):
    """Decodes every slot to all tokens, and mixes the reconstructions by alphas."""

    def __init__(self, config: GroupingConfig) -> None:
        super().__init__()
        self.base, dim, hidden = config.base, config.dim, config.decoder_hidden
        self.pos_embed = nn.Parameter(0.02 * torch.randn(config.frames, config.base**2, dim))
        self.decoder = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.encoder.dim + 1),
        )

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (T n, D) for rows x columns tokens per frame, resized bicubically."""
        maps = self.pos_embed.unflatten(1, (self.base, self.base)).permute(0, 3, 1, 2)
        if (rows, columns) != (self.base, self.base):
            maps = F.interpolate(maps, (rows, columns), mode="bicubic", align_corners=False)
        return maps.permute(0, 2, 3, 1).flatten(0, 2)

    def forward(self, slots: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Reconstructed features (B, T n, C) and alphas (B, K, T n) of slots (B, K, D)."""
        places = self.positions(rows, columns)
        painted = self.decoder(slots[:, :, None] + places)
        alphas = painted[..., -1].softmax(1)
        return (alphas[..., None] * painted[..., :-1]).sum(1), alphas

    def alphas(self, slots: Tensor, rows: int, columns: int) -> Tensor:
        """The alphas (B, K, T n) alone, cheaper than `forward`: one row of the last layer, and positions are embedded once."""
        first, *middle, last = self.decoder
        places = F.linear(self.positions(rows, columns), first.weight, first.bias)  # type: ignore[arg-type]
        inner = nn.Sequential(*middle)
        logits = [
            F.linear(inner(F.linear(slot, first.weight)[:, None] + places), last.weight[-1:])  # type: ignore[arg-type, index]
            for slot in slots.unbind(1)
        ]
        # The bias is the same for all slots, so the softmax does not depend on it.
        return torch.cat(logits, -1).transpose(1, 2).softmax(1)


@dataclass(frozen=True)
class Grouped:
    """The grouping of a clip of N = T h w tokens."""

    features: Tensor
    """(B, N, C), of the frozen encoder, before its last norm."""
    projected: Tensor
    """(B, N, D), the inputs of slot attention."""
    slots: Tensor
    """(B, K, D)."""
    attention: Tensor
    """(B, K, N)."""
    reconstruction: Tensor
    """(B, N, C)."""
    alphas: Tensor
    """(B, T, K, h w), the soft masks."""

    @property
    def loss(self) -> Tensor:
        """Mean squared error of the features."""
        return F.mse_loss(self.reconstruction, self.features)


class Grouping(nn.Module):
    """Frozen encoder, slot attention and mixture decoder."""

    def __init__(self, config: GroupingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config.encoder, CLASSES).requires_grad_(False)
        self.conditioning = Conditioning(config.dim)
        self.grouping = Projection(config)
        self.decoder = MixtureDecoder(config)

    def train(self, mode: bool = True) -> Grouping:
        """Set the mode of the trained parts; the encoder stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(
        self, clip: Tensor, noise: Tensor | None = None, slots: Tensor | None = None
    ) -> Grouped:
        """Group a clip (B, 3, T, H, W), from standard normal `noise` (B, K, D) or from initial `slots` (B, K, D)."""
        rows, columns = self._grid(clip)
        features = self.features(clip)
        projected = self.grouping.positional_embedding(features)
        start = self._start(clip, noise) if slots is None else slots
        found, attention = self.grouping.slot_attention(projected, start)
        reconstruction, alphas = self.decoder(found, rows, columns)
        return Grouped(
            features, projected, found, attention, reconstruction, self._by_frame(alphas)
        )

    @torch.no_grad()
    def features(self, clip: Tensor) -> Tensor:
        """The output (B, N, C) of the frozen encoder's last block."""
        rows, columns = self._grid(clip)
        table = resized_table(
            self.config.frames, rows, columns, self.config.encoder.dim, self.config.base
        )
        return self.model(clip, table)

    @torch.inference_mode()
    def alphas(self, clip: Tensor, noise: Tensor | None = None) -> Tensor:
        """The soft masks (B, T, K, h w) alone, cheaper than `forward`."""
        rows, columns = self._grid(clip)
        projected = self.grouping.positional_embedding(self.features(clip))
        found, _ = self.grouping.slot_attention(projected, self._start(clip, noise))
        return self._by_frame(self.decoder.alphas(found, rows, columns))

    def _start(self, clip: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            noise = torch.randn(len(clip), self.config.slots, self.config.dim, device=clip.device)
        return self.conditioning(noise)

    def _by_frame(self, alphas: Tensor) -> Tensor:
        return alphas.unflatten(2, (self.config.frames, -1)).transpose(1, 2)

    def _grid(self, clip: Tensor) -> tuple[int, int]:
        frames, height, width = clip.shape[2:]
        if frames != self.config.frames or height % PATCH or width % PATCH:
            raise InputError(
                f"a clip has {frames} frames of {height} x {width} pixels; give {self.config.frames} frames "
                f"and sides that are multiples of {PATCH}."
            )
        return height // PATCH, width // PATCH


def schedule(step: int, warmup: int = 5_000, half_life: int = 50_000) -> float:
    """The factor of the learning rate at a step: linear warm-up, and exponential decay throughout; 0 switches either off."""
    rise = min(1.0, step / warmup) if warmup else 1.0
    return rise * (0.5 ** (step / half_life) if half_life else 1.0)
