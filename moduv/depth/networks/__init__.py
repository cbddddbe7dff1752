"""Depth and pose networks, under the names of the official checkpoints.

A depth model is four modules, and whoever adds one follows these conventions:

    depth_enc(image (B, 3, H, W) in [0, 1])   -> features, a list, finest first
    depth_dec(features)                       -> disparities (B, 1, h, w) in (0, 1), a list, scale 0 first
    pose_enc(two frames (B, 6, H, W))         -> features
    pose_dec(features)                        -> axis-angle (B, 3), translation (B, 3)

Encoders normalise their input themselves. Scale 0 is the finest: of the images' size in the published
networks, of half that in `street`.
"""

from torch import nn

from moduv.depth.networks import street
from moduv.depth.networks.litemono import LiteMonoDecoder, LiteMonoEncoder
from moduv.depth.networks.monodepth import MonodepthDecoder
from moduv.depth.networks.pose import PoseDecoder
from moduv.depth.networks.resnet import ResNetEncoder
from moduv.engine.errors import InputError

DEPTH_MODELS = ("litemono", "monodepthv2", "street")


def depth_networks(depth_model: str) -> dict[str, nn.Module]:
    """Fresh modules of a depth model by name. Raises InputError when there is no such model."""
    if depth_model not in DEPTH_MODELS:
        raise InputError(f"depth model {depth_model!r} is unknown; choose one of {DEPTH_MODELS}.")
    if depth_model == "street":
        return {
            "depth_enc": street.DepthEncoder(),
            "depth_dec": street.DisparityDecoder(street.DEPTH_CHANNELS),
            "pose_enc": street.PoseEncoder(),
            "pose_dec": street.PoseDecoder(street.POSE_CHANNELS[-1]),
        }
    lite = depth_model == "litemono"
    return {
        "depth_enc": LiteMonoEncoder() if lite else ResNetEncoder(),
        "depth_dec": LiteMonoDecoder() if lite else MonodepthDecoder(ResNetEncoder.channels),
        "pose_enc": ResNetEncoder(2),
        "pose_dec": PoseDecoder(ResNetEncoder.channels[-1]),
    }
