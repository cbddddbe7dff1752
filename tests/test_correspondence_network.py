"""The correspondence network: official keys, the reference's features, checkpoints that load or explain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from correspondence_golden import expected, filled_net, golden, images_of

from moduv.correspondence.network import CorrespondenceNet, load_weights, read_network
from moduv.correspondence.weights import (
    Checkpoint,
    NetworkConfig,
    read_checkpoint,
    write_checkpoint,
)
from moduv.engine.errors import InputError

SMALL = NetworkConfig(width=8, stride=4)


def test_state_dict_is_the_official_one(shared: Path) -> None:
    own = {key: list(value.shape) for key, value in CorrespondenceNet().state_dict().items()}
    assert own == expected(shared, "state_dict")


def test_features_are_the_references(shared: Path) -> None:
    case = golden(shared, "features_waymo")
    with torch.no_grad():
        features = filled_net(shared).eval()(images_of(case["images"]))
    for name, every in {"res3": 16, "res4": 16, "key": 8}.items():
        found = getattr(features, name)
        # Float32 convolutions of other libraries differ in the sixth digit.
        assert np.allclose(found[:, ::every].numpy(), case[name], atol=1e-4)
        assert torch.allclose(found.norm(dim=1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("stride", [8, 4])
@pytest.mark.parametrize("size", [(64, 96), (61, 99)])
def test_cells_are_as_large_as_the_stride(stride: int, size: tuple[int, int]) -> None:
    features = CorrespondenceNet(NetworkConfig(8, stride)).eval()(torch.rand(1, 3, *size))
    assert [x.shape[1] for x in features] == [32, 64, 16]
    assert {x.shape[2:] for x in features} == {tuple(-(-side // stride) for side in size)}


def official(net: CorrespondenceNet, prefix: str = "") -> dict[str, Any]:
    """A file as the official trainer writes it, with a numpy number in it."""
    state = {prefix + key: value for key, value in net.state_dict().items()}
    return {"model": state, "opt": {"state": {}}, "score": np.float64(0.693), "epoch": 400}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_official_checkpoints_load(tmp_path: Path, prefix: str, zipped: bool) -> None:
    net, path = CorrespondenceNet(), tmp_path / "ytvos_e400_res4.pth"
    torch.save(official(net, prefix), path, _use_new_zipfile_serialization=zipped)
    found = read_network(path)
    assert found.feature == "res4"
    for key, value in found.net.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def test_own_files_have_the_official_form_and_tell_their_network(tmp_path: Path) -> None:
    net, path = CorrespondenceNet(SMALL), tmp_path / "weights.pth"
    write_checkpoint(path, Checkpoint(net.state_dict(), SMALL, "key", 0.5, 200))
    content = torch.load(path, weights_only=True)
    assert content["model"].keys() == net.state_dict().keys()
    found = read_network(tmp_path)  # the folder of the training
    assert (found.feature, found.net.config) == ("key", SMALL)
    assert (read_checkpoint(path).score, read_checkpoint(path).step) == (0.5, 200)
    assert not found.net.training
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(found.net(image).key, net.eval()(image).key)


def save(path: Path, config: NetworkConfig) -> None:
    write_checkpoint(path, Checkpoint(CorrespondenceNet(config).state_dict(), config))


def write_bad(kind: str, path: Path) -> None:
    net = CorrespondenceNet(SMALL)
    state = dict(net.state_dict())
    if kind == "another network":
        torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)
    elif kind == "another width":
        save(path, NetworkConfig(16, 4))
    elif kind == "another stride":
        save(path, NetworkConfig(8, 8))
    elif kind == "a missing key":
        state.pop("fast_net.emb_q.conv2.bias")
        torch.save({"model": state}, path)
    elif kind == "no dictionary":
        torch.save([1, 2], path)
    elif kind == "code":
        torch.save({"model": state, "score": Path("x")}, path)


BAD = ("another network", "another width", "another stride", "a missing key", "no dictionary")


@pytest.mark.parametrize("kind", [*BAD, "code", "no file"])
def test_checkpoints_that_do_not_fit_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path, net = tmp_path / "odd.pth", CorrespondenceNet(SMALL)
    write_bad(kind, path)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"odd\.pth"):
        load_weights(net, path)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_unknown_features_and_networks_of_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    model = CorrespondenceNet(SMALL).state_dict()
    for beside in ({"feature": "res5"}, {"network": {"width": 4}}, {"network": {"depth": 3}}):
        torch.save({"model": model, "network": asdict(SMALL), **beside}, path)
        with pytest.raises(InputError, match=r"odd\.pth"):
            read_network(path)
