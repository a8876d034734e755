"""Fixtures of the warm start's tests."""

from __future__ import annotations

import pytest
from torch import nn
from torch.utils.data import TensorDataset
from warmstart_material import make_images, make_net


@pytest.fixture
def net() -> nn.Module:
    return make_net()


@pytest.fixture
def train() -> TensorDataset:
    return make_images(160)


@pytest.fixture
def val() -> TensorDataset:
    return make_images(80, seed=1)
