"""The detector as one module of plain operators, which PyTorch's exporters can write down.

It shares the arithmetic of `detector.model` and leaves out what only training needs. One image goes in, as it
is; sizes are found while it runs, and an image without objects gives empty outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import roi_align

from moduv.detector.config import DetectorConfig
from moduv.detector.model import assemble
from moduv.detector.pooling import TableRoIAlign, levels_of


class PortableDetector(nn.Module):
    """A detector for one image, in evaluation mode on the CPU; weights are copied.

    Args:
        model: the detector; it is left as it is.
        architecture: what `model` was built from.
        whole_masks: masks have the image's size; otherwise they are the mask head's, inside the boxes.
    """

    def __init__(
        self, model: nn.Module, architecture: DetectorConfig, *, whole_masks: bool = True
    ) -> None:
        super().__init__()
        # Scripting does not understand our own parts, which training needs.
        plain = assemble(architecture, GeneralizedRCNNTransform, RoIHeads, OperatorRoIAlign)
        plain.load_state_dict(model.state_dict())
        self.whole_masks = whole_masks
        self.short, self.long = float(architecture.min_size), float(architecture.max_size)
        self.transform, self.backbone = plain.transform, plain.backbone
        self.rpn, self.roi_heads = plain.rpn, plain.roi_heads
        self.eval()
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects in an image (3, H, W) RGB, uint8 or float in [0, 1].

        Returns:
            boxes (N, 4) XYXY in the image's pixels, scores (N,) by falling score, and masks, probabilities:
            (N, H, W) where `whole_masks`, otherwise (N, M, M) inside the boxes.
        """
        pixels = image if image.is_floating_point() else image.to(torch.float32) / 255
        resized = resize(self.transform.normalize(pixels), self.short, self.long)
        height, width = resized.shape[-2], resized.shape[-1]
        batch = self.transform.batch_images([resized], self.transform.size_divisible)
        features = self.backbone(batch)
        proposals, _ = self.rpn(ImageList(batch, [(height, width)]), features)
        found, _ = self.roi_heads(features, proposals, [(height, width)])
        size = [image.shape[-2], image.shape[-1]]
        boxes = resize_boxes(found[0]["boxes"], [height, width], size)
        masks = found[0]["masks"][:, 0]
        if self.whole_masks:
            masks = paste(masks, boxes, image.shape[-2], image.shape[-1])
        return boxes, found[0]["scores"], masks


class OperatorRoIAlign(TableRoIAlign):
    """`TableRoIAlign` by torchvision's operator, which ONNX and TorchScript know; same numbers."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool the regions (K, 4) of one image from its levels (1, C, H_l, W_l): (K, C, R, R)."""
        regions = boxes[0]
        level = levels_of(regions, float(self.canonical_scale), len(self.featmap_names))
        pooled: list[Tensor] = []
        members: list[Tensor] = []
        for number, name in enumerate(self.featmap_names):
            chosen = torch.where(level == number)[0]
            image = torch.zeros_like(regions[chosen, :1])
            pooled.append(
                roi_align(
                    x[name],
                    torch.cat([image, regions[chosen]], dim=1),
                    [self.output_size[0], self.output_size[1]],
                    0.25 * 0.5**number,  # strides 4, 8, 16, …
                    self.sampling_ratio,
                    self.half_pixels,
                )
            )
            members.append(chosen)
        return torch.cat(pooled)[torch.argsort(torch.cat(members))]


def resize(image: Tensor, short: float, long: float) -> Tensor:
    """Scale an image (3, H, W) as torchvision's transform does, to a short side or at most a long one.

    The size is a quotient in double precision, as torchvision's is: in single precision, or with the
    reciprocal that the exporter writes for number / tensor, it can differ by a pixel.
    """
    shape = torch._shape_as_tensor(image)[-2:].to(torch.float64)
    sides = torch.stack([shape.min(), shape.max()])
    scale = (torch.tensor([short, long], dtype=torch.float64) / sides).min()
    size = torch.floor(shape * scale).to(torch.int64)
    # Scripting compiles one branch of this statement, and of no expression.
    if torch.jit.is_scripting():  # noqa: SIM108
        target = [int(size[0]), int(size[1])]
    else:
        target = _followed(size)
    return functional.interpolate(image[None], size=target, mode="bilinear", align_corners=False)[0]


def _followed(size: Tensor) -> list[int]:
    """The numbers of a size (2,) as tensors, which a trace follows."""
    return [size[0], size[1]]  # type: ignore[list-item]


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Scale masks to their boxes in an image of zeros, as torchvision's `paste_masks_in_image` does.

    Bilinear scaling is a product with two matrices, so that all masks (N, M, M) are pasted at once into
    their boxes (N, 4) XYXY: (N, height, width).
    """
    padded = functional.pad(masks, (1, 1, 1, 1))
    side = masks.shape[-1] + 2
    grown = side / (side - 2)
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grown
    start = (centre - half).to(torch.int64).to(masks.dtype)  # (N, 2): x, y of the first pixel
    end = (centre + half).to(torch.int64).to(masks.dtype)  # of the last
    rows = _hats(start[:, 1], end[:, 1], height, side)
    columns = _hats(start[:, 0], end[:, 0], width, side)
    return rows @ padded @ columns.transpose(1, 2)


def _hats(start: Tensor, end: Tensor, pixels: int, cells: int) -> Tensor:
    """Weights (N, pixels, cells) of bilinear scaling of cells onto the pixels start to end, (N,) each."""
    pixel = torch.arange(pixels, device=start.device).to(start.dtype)[None]
    extent = (end - start + 1).clamp(min=1)
    position = (pixel - start[:, None] + 0.5) * (cells / extent)[:, None] - 0.5
    inside = (pixel >= start[:, None]) & (pixel < (start + extent)[:, None])
    position = position.clamp(0, cells - 1)[:, :, None]
    cell = torch.arange(cells, device=start.device).to(start.dtype)
    return (1 - (position - cell).abs()).clamp(min=0) * inside[:, :, None]
