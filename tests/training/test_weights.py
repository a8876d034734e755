"""Weights from every kind of file, and clear words where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lipt_cords.base.tensor_files import save_tensors
from lipt_cords.training.checkpoint import save_checkpoint
from lipt_cords.training.weights import load_weights


def _net(value: float = 0.0) -> nn.Linear:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net


def _written(kind: str, where: Path) -> Path:
    state = _net(7.0).state_dict()
    if kind == "safetensors":
        return save_tensors(where / "any.safetensors", state)
    if kind == "warm start":
        save_tensors(where / "merged.safetensors", state)
        return where
    if kind == "run":
        save_checkpoint(where / "checkpoint.pt", {"model": state, "epoch": 3}, identity={})
        return where
    file = where / "any.pt"
    torch.save({"epoch": 1, "state_dict": state} if kind == "cords" else state, file)
    return file


@pytest.mark.parametrize("kind", ["safetensors", "warm start", "run", "cords", "torch"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    net = _net()
    file = load_weights(net, _written(kind, tmp_path))
    assert file.is_file()
    assert all(bool((parameter == 7).all()) for parameter in net.parameters())


def test_files_that_are_none_of_these(tmp_path: Path) -> None:
    net = _net()
    with pytest.raises(ValueError, match=r"no weights at .*absent"):
        load_weights(net, tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds none of merged\.safetensors, checkpoint\.pt"):
        load_weights(net, tmp_path)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(_written("torch", tmp_path).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"broken\.pt is not a file of plain tensors"):
        load_weights(net, broken)
    torch.save({"epoch": 1}, broken)
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(net, broken)
    torch.save(nn.Linear(3, 2), broken)
    with pytest.raises(ValueError, match="or hold objects"):
        load_weights(net, broken)
    with pytest.raises(ValueError, match="do not fit Linear: give the configuration"):
        load_weights(nn.Linear(4, 2), _written("safetensors", tmp_path))


def test_weights_of_another_net_are_named_in_a_few_words(tmp_path: Path) -> None:
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(60)))
    torch.save(deep.state_dict(), tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="Missing key.*weight") as caught:
        load_weights(nn.Linear(3, 2), tmp_path / "deep.pt")
    assert len(str(caught.value)) - len(str(tmp_path)) < 400
