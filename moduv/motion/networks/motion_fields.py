"""The decoder of dense motion fields (Gordon et al. 2019; Li et al. 2020), for flow and mask alike.

Between two sizes the published decoder has no nonlinearity: two 3 x 3 convolutions at the width of the
features, joined by one 1 x 1 convolution to the one or three channels of the field. So their kernels can
be multiplied before they meet an image, and nearly all of the arithmetic falls away. Parameters, their
names and their gradients stay as published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (0, 1, 2, 3)
FRAMES = 3


class MotionFieldDecoder(nn.Module):
    """A field refined from one value for the whole image up to the size of the frames.

    Args:
        encoder_channels: channels of the encoder's features, finest first.
        outputs: channels of the field.
    """

    def __init__(self, encoder_channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self._residual_translation = nn.Conv2d(6, outputs, 1)
        for level, width in enumerate((*encoder_channels[::-1], 3 * FRAMES)):
            refine = nn.Sequential(
                nn.Conv2d(width + outputs, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
            )
            self.add_module(f"refine_motion_conv{level}", refine)
            self.add_module(f"refine_motion_redu{level}", nn.Conv2d(2 * width, outputs, 1))

    @torch.no_grad()
    def silence(self, factor: float = 0.01) -> None:
        """Shrink what every layer adds to the field, so that an untrained decoder says almost nothing."""
        for name, parameter in self.named_parameters():
            if "redu" in name or "residual" in name:
                parameter.mul_(factor)

    def forward(self, features: list[Tensor], images: Tensor, ego_motion: Tensor) -> list[Tensor]:
        """Refine the camera's motion (B, 6), mean translation and axis-angle, into a field.

        Features of the encoder come finest first, images (B, 9, H, W) are the frames that it saw.

        Returns:
            Fields (B, outputs, H / 2^s, W / 2^s), scale 0 first.
        """
        field = self._residual_translation(100 * ego_motion[:, :, None, None])
        fields = []
        for level, skip in enumerate((*features[::-1], images)):
            field = F.interpolate(field, skip.shape[-2:], mode="bilinear", align_corners=False)
            field = field + self.refinement(level, torch.cat([field, skip], 1))
            fields.append(0.01 * field)
        return [fields[-1 - scale] for scale in SCALES]

    def layers(self, level: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """First and second 3 x 3 convolution of a level, coarsest level first, and its 1 x 1 convolution."""
        first, second = self.get_submodule(f"refine_motion_conv{level}").children()
        return first, second, self.get_submodule(f"refine_motion_redu{level}")  # type: ignore[return-value]

    def refinement(self, level: int, inputs: Tensor) -> Tensor:
        """What a level adds to the field: `reduce(cat([first(inputs), second(first(inputs))]))`.

        Inputs (B, outputs + width, h, w) are the enlarged field and the features; result (B, outputs, h, w).
        """
        first, second, reduce = self.layers(level)
        assert reduce.bias is not None
        assert second.bias is not None
        with torch.autocast(inputs.device.type, enabled=False):
            direct, through = reduce.weight.flatten(1).chunk(2, 1)  # (outputs, width) each
            kernel = torch.einsum("ow,wihk->oihk", through, second.weight)
            kernel = kernel + F.pad(direct[..., None, None], (1, 1, 1, 1))
            bias = reduce.bias + through @ second.bias
        if 9 * len(kernel) < inputs.shape[1]:
            return _convolve_twice(inputs, first, kernel) + bias[:, None, None]
        return F.conv2d(first(inputs), kernel, bias, padding=1)


def _convolve_twice(inputs: Tensor, first: nn.Conv2d, kernel: Tensor) -> Tensor:
    """`conv2d(first(inputs), kernel, padding=1)` without the many channels in between.

    The nine taps of `kernel` (O, C, 3, 3) become channels of one convolution, and each is then moved to
    where it belongs. What leaves the image on the way is dropped: there the second padding has its zeros.
    """
    assert first.bias is not None
    with torch.autocast(inputs.device.type, enabled=False):
        taps = kernel.flip(2, 3)
        weight = torch.einsum("oihk,icmn->ohkcmn", taps, first.weight).flatten(0, 2)
        bias = torch.einsum("oihk,i->ohk", taps, first.bias).flatten()
    responses = F.conv2d(inputs, weight, bias, padding=1)  # (B, 9 * O, h, w)
    return F.fold(responses.flatten(2), inputs.shape[-2:], 3, padding=1)
