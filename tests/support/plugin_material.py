"""A small problem for CORDS's loaders, and a warm start that does nothing but shift the weights."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lipt_cords.base.randomness import generator


class TinyNet(nn.Module):
    """A net with BatchNorm, so that selection has statistics to move."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        return self.classifier(self.features(x))


def tiny_net(seed=0):
    model = TinyNet()
    draws = generator(seed, "net")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.3)
    return model


def tiny_data(size, seed=0):
    draws = generator(seed, "data", size)
    labels = torch.arange(size) % 3
    centers = 3 * torch.randn(3, 6, generator=generator(seed, "centers"))
    return TensorDataset(centers[labels] + torch.randn(size, 6, generator=draws), labels)


class FakeWarmStart:
    """Stands for LiPTWarmStart where its training does not matter: every weight moves by one."""

    fits: list = []  # noqa: RUF012

    def __init__(self, config):
        self.config = config

    def fit(self, model, train_dataset, val_dataset=None, *, loss=None, num_classes=None):
        state = {k: v + 1 for k, v in model.state_dict().items()}
        report = SimpleNamespace(passes=10, critical_path_passes=5, notes=[])
        self.fits.append(
            SimpleNamespace(
                config=self.config, model=model, train=train_dataset, val=val_dataset, loss=loss,
                num_classes=num_classes, state=state,
            )
        )  # fmt: skip
        return SimpleNamespace(report=report, apply_to=lambda m: m.load_state_dict(state))


def compile_once():
    """Have apricot, with which CORDS's CRAIG searches, not compile anew for every class."""
    from apricot.functions import facilityLocation as search

    for name in ("calculate_gains", "calculate_gains_sparse", "calculate_gains_sieve"):
        compiled = getattr(search, name)
        if not hasattr(compiled, "cache_info"):
            setattr(search, name, functools.cache(compiled))


def in_fresh_process(code, **environment):
    """Run some lines of Python in a new interpreter; what they printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def selections(loader, epochs):
    """Iterate: the epochs, from 0, that select; the weights they select with; samples an epoch."""
    seen, sizes = [], []
    select = loader.strategy.select

    def spy(budget, state):
        seen.append((len(sizes), {key: value.clone() for key, value in state.items()}))
        return select(budget, state)

    loader.strategy.select = spy
    for _ in range(epochs):
        sizes.append(sum(len(batch[0]) for batch in loader))
    return [epoch for epoch, _ in seen], [state for _, state in seen], sizes


class Problem:
    """Data, loaders and options that every strategy of CORDS accepts."""

    def __init__(self, size=60, val_size=30):
        self.train, self.val = tiny_data(size), tiny_data(val_size, seed=1)
        self.train_loader = DataLoader(self.train, batch_size=10)
        self.val_loader = DataLoader(self.val, batch_size=10)
        self.model = tiny_net()
        self.logger = logging.getLogger("test.cords")

    def options(self, **changes):
        from dotmap import DotMap

        options = DotMap()
        defaults = {
            "fraction": 0.2, "select_every": 2, "kappa": 0, "num_epochs": 20, "device": "cpu",
            "model": self.model, "loss": nn.CrossEntropyLoss(reduction="none"), "num_classes": 3,
            "eta": 0.1, "linear_layer": True, "selection_type": "PerClass", "greedy": "Naive",
            "r": 2, "valid": False, "v1": True, "lam": 0.5, "eps": 1e-4, "optimizer": "lazy",
            "if_convex": False,
        }  # fmt: skip
        for key, value in {**defaults, **changes}.items():
            options[key] = value
        return options

    def build(self, cls, **changes):
        """A loader of a class of CORDS, with some options changed."""
        return cls(
            self.train_loader, self.val_loader, self.options(**changes), self.logger,
            batch_size=4, shuffle=True,
        )  # fmt: skip
