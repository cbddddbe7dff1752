"""Weights of the published networks, one `.pth` each, including those that the authors' code writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from moduv.depth.networks.hrnet import HRNet
from moduv.depth.weights import RESNET_SOURCE, existing_weights
from moduv.dynamic_depth.networks.alignment import DepthScaleAlignment
from moduv.engine import checkpoint, distributed
from moduv.engine.errors import InputError

Network = TypeVar("Network", bound=nn.Module)

PREFIX = "module."
"""Prefix of all keys of a network that was trained on several GPUs."""
RAFT_MARK = "fnet.conv1.weight"
"""A key by which RAFT under its authors' names is recognised."""
RAFT_TWICE = ".norm3."
"""Keys of layers that are saved a second time, as parts of `downsample`."""
RAFT_NAMES = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"encoder\.conv1\.", "encoder.convnormrelu.0."),
    (r"encoder\.norm1\.", "encoder.convnormrelu.1."),
    (r"encoder\.conv2\.", "encoder.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"gru\.conv([zrq])(\d)\.", r"recurrent_block.convgru\2.conv\1."),
    (r"update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"update_block\.mask\.2\.", "mask_predictor.conv."),
)
"""The authors' names of RAFT's layers, and torchvision's, which replace them in this order."""
HRNET_SOURCE = "github.com/HRNet/HRNet-Image-Classification, HRNet-W18-C"
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
"""Modules of HRNet's classifier, which depth does not need."""
RESNET_PLACES = {"bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""Modules of ResNet-18 by their number in depth-scale alignment."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of batch normalisation, which group normalisation does not have."""


def load_networks(model: nn.Module, folder: Path) -> None:
    """Load every child of a model from `<name>.pth` in a folder.

    Raises InputError when a file is missing or does not fit.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of weights; train the stage before first.")
    for name, network in model.named_children():
        path = folder / f"{name}.pth"
        checkpoint.load_strict(network, own_names(checkpoint.load_weights(path), path), path)


def load_network(network: Network, path: Path) -> Network:
    """Load one network, in evaluation mode on this process's device.

    Raises InputError when the file is missing or does not fit.
    """
    checkpoint.load_strict(network, checkpoint.load_weights(path), path)
    return network.to(distributed.device()).eval()


def save_networks(model: nn.Module, folder: Path) -> None:
    """Write every child of a model to `<name>.pth` in a folder."""
    for name, network in model.named_children():
        checkpoint.save_weights(folder / f"{name}.pth", network.state_dict())


def own_names(state: dict[str, Tensor], source: str | Path = "the weights") -> dict[str, Tensor]:
    """A state dict under the names of this library's networks. Raises InputError where two keys become one."""
    state = checkpoint.without_prefix(state, PREFIX, source)
    if RAFT_MARK not in state:
        return state
    return {f"raft.{_renamed(key)}": value for key, value in state.items() if RAFT_TWICE not in key}


def _renamed(key: str) -> str:
    for theirs, ours in RAFT_NAMES:
        key = re.sub(theirs, ours, key)
    return key


def load_hrnet(encoder: HRNet, path: str | Path) -> None:
    """Start DIFFNet's encoder from ImageNet's HRNet-W18, without its classifier.

    Raises InputError when the file is missing (saying where to get it) or does not fit.
    """
    path = existing_weights(path, "hrnet_weights", HRNET_SOURCE)
    state = checkpoint.load_weights(path)
    own = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}
    checkpoint.load_strict(encoder, own, path)


def load_alignment_resnet(net: DepthScaleAlignment, path: str | Path) -> None:
    """Start depth-scale alignment from ImageNet's ResNet-18.

    The first layer has other input channels and stays as it is; group normalisation takes over the weights and biases of
    batch normalisation, as published.

    Raises InputError when the file is missing (saying where to get it) or does not fit.
    """
    path = existing_weights(path, "resnet_weights", RESNET_SOURCE)
    extractor = net.all_feature_extractor
    own = {"0.weight": extractor.state_dict()["0.weight"]}
    for key, value in checkpoint.load_weights(path).items():
        module, _, rest = key.partition(".")
        if module not in {"conv1", "fc"} and not rest.endswith(STATISTICS):
            own[f"{RESNET_PLACES.get(module, module)}.{rest}"] = value
    checkpoint.load_strict(extractor, own, path)
