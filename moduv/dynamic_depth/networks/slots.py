"""Slot attention: a frame's flow and depth explained by a background and four objects (Locatello et al. 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

SIDE, COARSE = 128, 8
"""Sides in pixels of the input and of what the decoder starts from."""
SLOTS, WIDTH, HIDDEN, ROUNDS = 5, 64, 128, 3
"""Number of slots, of which the first is the background; widths of slots and hidden layers; iterations."""
CHANNELS = 4
"""Red, green and blue of the flow's colours in [-1, 1], and depth."""
EPSILON = 1e-8


class Slots(NamedTuple):
    """What the slots say about a batch."""

    reconstruction: Tensor
    """(B, 4, 128, 128): the parts, weighed by their masks."""
    parts: Tensor
    """(B, 5, 4, 128, 128): the frame as each slot reconstructs it."""
    masks: Tensor
    """(B, 5, 1, 128, 128), with a sum of 1 over the slots."""
    slots: Tensor
    """(B, 5, 64)."""
    presence: Tensor
    """(B, 4) in (0, 1): the probability that a slot holds an object."""


class PositionEmbedding(nn.Module):
    """Distances to the four borders, as features."""

    grid: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.dense = nn.Linear(4, WIDTH)
        line = torch.linspace(0, 1, side)
        near = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
        self.register_buffer("grid", torch.cat([near, 1 - near], -1)[None])

    def forward(self, x: Tensor) -> Tensor:
        """Add the embedding to features (B, 64, side, side)."""
        return x + rearrange(self.dense(self.grid), "1 h w c -> 1 c h w")


class SlotAttention(nn.Module):
    """Slots compete for the pixels, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.slots_bg_mu, self.slots_bg_log_sigma, self.slots_mu, self.slots_log_sigma = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, WIDTH))) for _ in range(4)
        )
        self.norm_inputs, self.norm_slots, self.norm_mlp = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.project_q, self.project_k, self.project_v = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)
        )
        self.gru = nn.GRUCell(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Features (B, N, 64) and the normal noise (B, 5, 64) of the initial slots to slots (B, 5, 64)."""
        inputs = self.norm_inputs(pixels)
        keys, values = self.project_k(inputs), self.project_v(inputs)
        background = self.slots_bg_mu + self.slots_bg_log_sigma.exp() * noise[:, :1]
        objects = self.slots_mu + self.slots_log_sigma.exp() * noise[:, 1:]
        slots = torch.cat([background, objects], 1)
        for _ in range(ROUNDS):
            queries = self.project_q(self.norm_slots(slots))
            attention = (keys @ queries.mT * WIDTH**-0.5).softmax(-1) + EPSILON  # (B, N, 5)
            attention = attention / attention.sum(1, keepdim=True)
            updates = attention.mT @ values
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots


class SlotAttentionNet(nn.Module):
    """Encoder, slot attention, a decoder for every slot, and the presence of an object in it."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (CHANNELS, WIDTH, WIDTH, WIDTH)
        self.encoder = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(n, WIDTH, 5, padding=2), nn.LeakyReLU()) for n in inputs)
        )
        self.encoder_pos_embedding = PositionEmbedding(SIDE)
        self.encoder_out_layer = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.slot_attention = SlotAttention()
        objects = (SLOTS - 1) * WIDTH
        self.z_residual = nn.Sequential(
            *(nn.Linear(objects, SLOTS * WIDTH // 2), nn.LeakyReLU()),
            *(nn.Linear(SLOTS * WIDTH // 2, objects), nn.LeakyReLU()),
        )
        self.z_predictor = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, 1), nn.Sigmoid()
        )
        self.decoder_pos_embedding = PositionEmbedding(COARSE)
        self.decoder = nn.Sequential(*(_doubled() for _ in range(4)), _last())

    def forward(self, frames: Tensor, noise: Tensor, *, by_presence: bool = False) -> Slots:
        """Explain frames by slots.

        Args:
            frames: (B, 4, 128, 128), colours of the flow in [-1, 1] and depth.
            noise: (B, 5, 64), normal, of the initial slots.
            by_presence: weight the objects' masks m by their presence z, (z m)² / Σ z m; the rest is background.
        """
        features = self.encoder_pos_embedding(self.encoder(frames))
        pixels = self.encoder_out_layer(rearrange(features, "b c h w -> b (h w) c"))
        slots = self.slot_attention(pixels, noise)
        objects = slots[:, 1:]
        presence = self.z_predictor(objects + self.z_residual(objects.flatten(1)).view_as(objects))
        start = repeat(slots, "b s c -> (b s) c h w", h=COARSE, w=COARSE)
        decoded = self.decoder(self.decoder_pos_embedding(start))
        decoded = rearrange(decoded, "(b s) c h w -> b s c h w", s=SLOTS)
        colours, depth, logits = decoded.split((3, 1, 1), 2)
        parts = torch.cat([_stretched(colours), F.relu(depth)], 2)
        masks = logits.softmax(1)
        if by_presence:
            present = presence[..., None, None] * masks[:, 1:]
            present = present.square() / (present.sum(1, keepdim=True) + 1e-10)
            masks = torch.cat([1 - present.sum(1, keepdim=True), present], 1)
        return Slots((parts * masks).sum(1), parts, masks, slots, presence[..., 0])


def _doubled() -> nn.Sequential:
    """A transposed convolution that doubles the size."""
    return nn.Sequential(
        nn.ConvTranspose2d(WIDTH, WIDTH, 5, 2, padding=2, output_padding=1), nn.LeakyReLU()
    )


def _last() -> nn.Sequential:
    """The last layers, to the channels of a frame and a mask."""
    return nn.Sequential(
        nn.ConvTranspose2d(WIDTH, WIDTH, 5, padding=2),
        nn.LeakyReLU(),
        nn.ConvTranspose2d(WIDTH, CHANNELS + 1, 3, padding=1),
    )


def _stretched(colours: Tensor) -> Tensor:
    """Scale each slot's colours (B, S, 3, H, W) linearly to [-1, 1]."""
    low = colours.amin((2, 3, 4), keepdim=True)
    high = colours.amax((2, 3, 4), keepdim=True)
    return 2 * (colours - low) / (high - low + 1e-7) - 1
