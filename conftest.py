"""Every test, and every example of a docstring, draws the same numbers in every run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def same_draws() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what CORDS draws from
    torch.manual_seed(0)
