"""The published networks by name, under the keys of their checkpoints."""

from __future__ import annotations

from torch import nn

from moduv.dynamic_depth.networks.alignment import DepthScaleAlignment
from moduv.dynamic_depth.networks.depth import DepthNet
from moduv.dynamic_depth.networks.ground import GroundNet
from moduv.dynamic_depth.networks.pose import PoseNet
from moduv.dynamic_depth.networks.residual import ResidualNet
from moduv.dynamic_depth.networks.slots import SlotAttentionNet
from moduv.engine.errors import InputError

NETWORKS = {
    "depth_net": DepthNet,
    "pose_net": PoseNet,
    "depth_scale_alignment": DepthScaleAlignment,
    "slot_attention": SlotAttentionNet,
    "ground_segmentation": GroundNet,
    "raft": ResidualNet,
}


def build(name: str) -> nn.Module:
    """A fresh network. Raises InputError when there is none of that name."""
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown; choose one of {tuple(NETWORKS)}.")
    return NETWORKS[name]()
