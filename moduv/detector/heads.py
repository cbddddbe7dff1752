"""Torchvision's Mask R-CNN with masks as crops; parameters and detections are the same.

So are the losses of one image. Those of a batch are the mean over its images, where torchvision weighs
images by their number of regions: thus processes that share a batch get what one would.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from moduv.detector.crops import CropMasks
from moduv.detector.transforms import Target


class CropTransform(GeneralizedRCNNTransform):
    """Normalises and resizes images, 8 bit or float in [0, 1], and targets with masks as crops."""

    def normalize(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, H, W) float."""
        return super().normalize(image if image.is_floating_point() else image.float() / 255)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Resize an image and its target, which is a copy, to the network's input."""
        if target is None or isinstance(target["masks"], Tensor):
            return super().resize(image, target)
        masks = target.pop("masks")
        image, resized = super().resize(image, target)
        assert resized is not None
        resized["masks"] = masks.resized(*image.shape[-2:])
        return image, resized


class CropRoIHeads(RoIHeads):
    """Box and mask heads whose mask loss reads its targets from crops."""

    def forward(
        self,
        features: dict[str, Tensor],  # pyramid levels (B, C, H_l, W_l)
        proposals: list[Tensor],  # per image (K, 4) XYXY in pixels of the network's input
        image_shapes: list[tuple[int, int]],  # (H, W) of each image in the network's input
        targets: list[Target] | None = None,  # per image, in training
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, losses in training."""
        if not self.training or targets is None or isinstance(targets[0]["masks"], Tensor):
            return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, box_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, regression = self.box_predictor(pooled)
        classifier, box_reg = box_losses(logits, regression, labels, box_targets)
        # As indices, because every use of a mask would wait for the GPU once more.
        positive = [torch.where(label > 0)[0] for label in labels]
        regions, matched, classes = (
            [values[chosen] for values, chosen in zip(each, positive, strict=True)]
            for each in (proposals, matched, labels)
        )
        pooled = self.mask_head(self.mask_roi_pool(features, regions, image_shapes))
        masks = [target["masks"] for target in targets]
        mask = mask_loss(self.mask_predictor(pooled), regions, matched, torch.cat(classes), masks)
        return [], {"loss_classifier": classifier, "loss_box_reg": box_reg, "loss_mask": mask}


def box_losses(
    logits: Tensor,  # (sum of K, classes)
    regression: Tensor,  # (sum of K, 4 classes)
    labels: list[Tensor],  # per image (K,), 0 for background
    targets: list[Tensor],  # per image (K, 4), in the box coder's units
) -> tuple[Tensor, Tensor]:
    """Losses of the regions' classes and boxes (Ren et al. 2015), the mean over images."""
    shares = region_shares([len(label) for label in labels], logits)
    label, target = torch.cat(labels), torch.cat(targets)
    classes = functional.cross_entropy(logits.float(), label, reduction="none")
    positive = torch.where(label > 0)[0]
    chosen = regression.float().view(len(label), -1, 4)[positive, label[positive]]
    offsets = functional.smooth_l1_loss(chosen, target[positive], beta=1 / 9, reduction="none")
    return (classes * shares).sum(), (offsets.sum(1) * shares[positive]).sum()


def mask_loss(
    logits: Tensor,  # (sum of K, classes, M, M)
    regions: list[Tensor],  # per image (K, 4) XYXY
    matched: list[Tensor],  # per image (K,), the object that a region belongs to
    labels: Tensor,  # (sum of K,), the regions' classes
    masks: list[CropMasks],
) -> Tensor:
    """Cross entropy of the mask of each region's class (He et al. 2017), the mean over images."""
    if not len(labels):
        return logits.sum() * 0
    side = logits.shape[-1]
    targets = torch.cat(
        [m.targets(boxes, i, side) for m, boxes, i in zip(masks, regions, matched, strict=True)]
    )
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    errors = functional.binary_cross_entropy_with_logits(chosen.float(), targets, reduction="none")
    shares = region_shares([len(boxes) for boxes in regions], logits)
    return (errors.mean((1, 2)) * shares).sum()


def region_shares(counts: list[int], like: Tensor) -> Tensor:
    """Weight of every region of a batch, (sum of K,): images weigh the same, and so do an image's regions."""
    ones = [torch.ones(count, device=like.device) / max(1, count) for count in counts]
    return torch.cat(ones) / len(counts)
