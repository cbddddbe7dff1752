"""The detector: torchvision's Mask R-CNN, as published, and small enough for two CPU cores."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from moduv.detector.backbone import StreetBackbone
from moduv.detector.config import DetectorConfig, detector_config
from moduv.detector.heads import CropRoIHeads, CropTransform
from moduv.detector.pooling import TableRoIAlign
from moduv.detector.sampling import ImageSampler
from moduv.engine.errors import InputError

CLASSES = 2


def build_detector(preset: str | DetectorConfig = "paper") -> MaskRCNN:
    """Build a class-agnostic Mask R-CNN with fresh heads, on the CPU, in training mode.

    Args:
        preset: `paper` (`maskrcnn_resnet50_fpn` with frozen batch norm), `street`, or a configuration.

    Raises:
        InputError: for an unknown preset.
    """
    config = detector_config(preset) if isinstance(preset, str) else preset
    backbone = _backbone(config)
    levels = [str(level) for level in range(len(config.anchor_sizes) - 1)]
    channels = config.fpn_channels
    anchors = AnchorGenerator(
        tuple((size,) for size in config.anchor_sizes),
        (config.anchor_ratios,) * len(config.anchor_sizes),
    )
    model = MaskRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        size_divisible=config.size_divisible,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=config.proposals_train,
        rpn_post_nms_top_n_train=config.proposals_train,
        rpn_pre_nms_top_n_test=config.proposals_test,
        rpn_post_nms_top_n_test=config.proposals_test,
        rpn_batch_size_per_image=config.rpn_samples,
        rpn_fg_iou_thresh=config.rpn_match,
        box_roi_pool=_roi_pool(levels, config.box_resolution, config),
        box_head=_box_head(config),
        box_predictor=FastRCNNPredictor(config.box_hidden, CLASSES),
        box_score_thresh=config.score_threshold,
        box_detections_per_img=config.max_detections,
        box_batch_size_per_image=config.box_samples,
        box_positive_fraction=config.box_positive,
        mask_roi_pool=_roi_pool(levels, config.mask_resolution, config),
        mask_head=MaskRCNNHeads(channels, config.mask_layers, dilation=1),
        mask_predictor=MaskRCNNPredictor(config.mask_layers[-1], config.mask_layers[-1], CLASSES),
    )
    model.transform = CropTransform.adopt(model.transform)
    model.roi_heads = CropRoIHeads.adopt(model.roi_heads)
    model.rpn.fg_bg_sampler = ImageSampler(config.rpn_samples, 0.5)
    model.roi_heads.fg_bg_sampler = ImageSampler(config.box_samples, config.box_positive)
    return model


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


def _roi_pool(levels: list[str], resolution: int, config: DetectorConfig) -> TableRoIAlign:
    return TableRoIAlign(
        levels,
        resolution,
        config.roi_samples,
        canonical_scale=config.roi_scale,
        half_pixels=config.roi_samples == 1,
    )
