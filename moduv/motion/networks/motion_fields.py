"""The decoder of dense motion fields (Gordon et al. 2019; Li et al. 2020), for flow and mask alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (0, 1, 2, 3)


class MotionFieldDecoder(nn.Module):
    """A field refined from one value for the whole image up to the size of the frames.

    Args:
        encoder_channels: channels of the encoder's features, finest first.
        outputs: channels of the field.
        frames: how many RGB frames are refined with at the end.
    """

    def __init__(self, encoder_channels: tuple[int, ...], outputs: int, *, frames: int = 3) -> None:
        super().__init__()
        self._residual_translation = nn.Conv2d(6, outputs, 1)
        for level, width in enumerate((*encoder_channels[::-1], 3 * frames)):
            refine = nn.Sequential(
                nn.Conv2d(width + outputs, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
            )
            self.add_module(f"refine_motion_conv{level}", refine)
            self.add_module(f"refine_motion_redu{level}", nn.Conv2d(2 * width, outputs, 1))

    @torch.no_grad()
    def quieten(self, factor: float = 0.01) -> None:
        """Shrink what every layer adds to the field, so that an untrained decoder says almost nothing."""
        for name, parameter in self.named_parameters():
            if "redu" in name or "residual" in name:
                parameter.mul_(factor)

    def forward(self, features: list[Tensor], images: Tensor, ego_motion: Tensor) -> list[Tensor]:
        """Refine the camera's motion into a field.

        Args:
            features: of the encoder, finest first.
            images: (B, 9, H, W), the frames the encoder saw.
            ego_motion: (B, 6), mean translation and axis-angle.

        Returns:
            Fields (B, outputs, H / 2^s, W / 2^s), scale 0 first.
        """
        field = self._residual_translation(100 * ego_motion[:, :, None, None])
        fields = []
        for level, skip in enumerate((*features[::-1], images)):
            field = F.interpolate(field, skip.shape[-2:], mode="bilinear", align_corners=False)
            once = self._layer(f"conv{level}.0")(torch.cat([field, skip], 1))
            twice = self._layer(f"conv{level}.1")(once)
            field = field + self._layer(f"redu{level}")(torch.cat([once, twice], 1))
            fields.append(0.01 * field)
        return [fields[-1 - scale] for scale in SCALES]

    def _layer(self, name: str) -> nn.Module:
        return self.get_submodule(f"refine_motion_{name}")
