"""The detector: torchvision's Mask R-CNN, as published, and small enough for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d

from moduv.detector.backbone import StreetBackbone
from moduv.detector.config import DetectorConfig, detector_config
from moduv.detector.heads import CropRoIHeads, CropTransform
from moduv.detector.pooling import TableRoIAlign
from moduv.detector.sampling import ImageSampler
from moduv.engine.errors import InputError

CLASSES = 2
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of RGB in [0, 1], as of ImageNet."""


def build_detector(preset: str | DetectorConfig = "paper") -> GeneralizedRCNN:
    """Build a class-agnostic Mask R-CNN with fresh heads, on the CPU, in training mode.

    Args:
        preset: `paper` (`maskrcnn_resnet50_fpn` with frozen batch norm), `street`, or a configuration.

    Raises:
        InputError: for an unknown preset.
    """
    config = detector_config(preset) if isinstance(preset, str) else preset
    model = assemble(config, CropTransform, CropRoIHeads, TableRoIAlign)
    model.rpn.fg_bg_sampler = ImageSampler(config.rpn_samples, 0.5)
    model.roi_heads.fg_bg_sampler = ImageSampler(config.box_samples, config.box_positive)
    return model


def assemble(
    config: DetectorConfig,
    transform: type[GeneralizedRCNNTransform],
    heads: type[RoIHeads],
    pool: Callable[..., nn.Module],
) -> GeneralizedRCNN:
    """Build torchvision's Mask R-CNN from our own, or torchvision's, transform, heads and RoIAlign.

    The order in which the parts are made decides their initial weights.
    """
    backbone, channels = _backbone(config), config.fpn_channels
    levels = [str(level) for level in range(len(config.anchor_sizes) - 1)]
    anchors = AnchorGenerator(
        tuple((size,) for size in config.anchor_sizes),
        (config.anchor_ratios,) * len(config.anchor_sizes),
    )

    def pooled(resolution: int) -> nn.Module:
        half = config.roi_samples == 1
        scale = config.roi_scale
        return pool(levels, resolution, config.roi_samples, canonical_scale=scale, half_pixels=half)

    roi_heads = heads(
        pooled(config.box_resolution),
        _box_head(config),
        FastRCNNPredictor(config.box_hidden, CLASSES),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.box_samples,
        positive_fraction=config.box_positive,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=0.5,
        detections_per_img=config.max_detections,
        mask_roi_pool=pooled(config.mask_resolution),
        mask_head=MaskRCNNHeads(channels, config.mask_layers, dilation=1),
        mask_predictor=MaskRCNNPredictor(config.mask_layers[-1], config.mask_layers[-1], CLASSES),
    )
    proposals = {"training": config.proposals_train, "testing": config.proposals_test}
    rpn = RegionProposalNetwork(
        anchors,
        RPNHead(channels, len(config.anchor_ratios)),
        fg_iou_thresh=config.rpn_match,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n=proposals,
        post_nms_top_n=proposals,
        nms_thresh=0.7,
    )
    sizes = config.min_size, config.max_size
    divisible = config.size_divisible
    return GeneralizedRCNN(
        backbone, rpn, roi_heads, transform(*sizes, MEAN, STD, size_divisible=divisible)
    )


def _backbone(config: DetectorConfig) -> nn.Module:
    if config.backbone == "resnet50":
        return resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=config.trainable_layers,
        )
    if config.backbone == "street":
        return StreetBackbone(config.widths, config.fpn_channels)
    raise InputError(f"backbone {config.backbone!r} is unknown; choose resnet50 or street.")


def _box_head(config: DetectorConfig) -> nn.Module:
    head = TwoMLPHead(config.fpn_channels * config.box_resolution**2, config.box_hidden)
    if config.backbone == "street":
        # PyTorch's default start shrinks features sixfold here; a short training cannot wait for more.
        for layer in (head.fc6, head.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return head
