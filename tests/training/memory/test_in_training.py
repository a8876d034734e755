"""A memory budget in warm starts, in training on a subset, and in configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart
from lipt_cords.cords.config import RunConfig
from lipt_cords.models.build import build_model
from lipt_cords.selectors.base import Selection
from lipt_cords.training.subset import train_on_subset
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.local_training import PLANS

BUDGET = "3 MiB"
"""Two thirds of what the steps below take without a plan."""


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(150, 3, 16, 16, generator=generator)
    return TensorDataset(inputs, torch.arange(150) % 10)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("extra", [{}, {"rounds": 2, "processes": 2, "launch": "processes"}])
def test_a_warm_start_has_the_bits_of_one_without(extra: dict[str, Any]) -> None:
    before = set(PLANS.kinds)  # those of other tests in this process
    common = {"num_workers": 2, "common_steps": 4, "local_steps": 6, "batch_size": 25,
              "sparsity": "snip", "threads": 1}  # fmt: skip
    net = build_model("resnet8", 10)
    plain = LiPTWarmStart(**common).fit(net, images())
    planned = LiPTWarmStart(**common, memory_budget=BUDGET, **extra).fit(net, images())
    if extra:
        plain = LiPTWarmStart(**common, rounds=2).fit(net, images())
    assert same(plain.state_dict, planned.state_dict)
    if not extra:
        kinds = [kind for key, kind in PLANS.kinds.items() if key not in before]
        routes = [p.indexed.plan for kind in kinds for p in kind.plans.values()]
        assert routes and all(plan.decisions and plan.peak <= 3 * 2**20 for plan in routes)
        assert all(kind.measured == 2 for kind in kinds)


def test_a_budget_that_is_too_small_ends_a_warm_start() -> None:
    with pytest.raises(ValueError, match="a memory budget of 100.00 KiB is too small"):
        LiPTWarmStart(num_workers=2, common_steps=4, memory_budget="100KiB").fit(
            build_model("resnet8", 10), images()
        )


def test_workers_say_when_their_steps_change() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.calls = nn.Linear(8, 8), nn.Linear(8, 10), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            x = torch.tanh(self.body(x))
            if self.calls % 5 == 4:
                x = torch.sigmoid(x)
            logits: Tensor = self.head(x)
            return logits

    data = TensorDataset(torch.randn(64, 8), torch.arange(64) % 10)
    with pytest.warns(UserWarning, match=r"memory_budget: a step was not like the measured one"):
        LiPTWarmStart(num_workers=1, common_steps=0, local_steps=20, memory_budget="1MiB").fit(
            Moody(), data
        )


@pytest.mark.parametrize("extra", [{}, {"early_bird": {"ratio": 0.3, "every": 2, "latest": 0.5}}])
def test_training_on_a_subset_has_the_bits_of_one_without(extra: dict[str, Any]) -> None:
    selection = Selection(torch.arange(0, 150, 2), torch.linspace(0.5, 1.5, 75))
    states, results = [], []
    for budget in (None, BUDGET):
        net = build_model("resnet8", 10)
        results.append(
            train_on_subset(
                net, images(), selection, epochs=5, batch_size=25, memory_budget=budget, **extra
            )
        )
        states.append(net.state_dict())
    assert same(*states)
    report = results[1].memory
    assert results[0].memory is None and report is not None and report.plan is not None
    assert report.steps["on_demand"] == 0 and report.steps["guided"] >= 5
    assert any(n.startswith("memory budget of 3.00 MiB: planned") for n in results[1].notes)
    if not extra:
        assert report.plan.decisions and report.plan.peak <= 3 * 2**20
        assert report.measured_peak == pytest.approx(report.plan.peak, rel=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory_budget": "1GiB", "compile": True}, "memory_budget .* and compile trains"),
        ({"memory_budget": "1GiB", "together": 2}, "memory_budget .* and together trains"),
        ({"memory_budget": "1GiB", "subnetwork": {}}, "memory_budget .* and subnetwork trains"),
        ({"memory_budget": "lots"}, "memory_budget: expected bytes"),
        ({"memory_bandwidth": 1e9}, "does nothing without memory_budget"),
        ({"memory_budget": "1GiB", "memory_bandwidth": -1}, "memory_bandwidth"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WarmStartConfig(**options)


def test_subsets_refuse_what_warm_starts_refuse() -> None:
    selection = Selection(torch.arange(20), torch.ones(20))
    for options, said in (
        ({"memory_budget": "1GiB", "subnetwork": {}}, "and subnetwork trains"),
        ({"memory_bandwidth": 1e9}, "does nothing without memory_budget"),
        ({"memory_budget": -5}, "memory_budget: expected bytes"),
    ):
        with pytest.raises(ValueError, match=said):
            train_on_subset(build_model("resnet8", 10), images(), selection, **options)


def test_a_configuration_may_have_a_budget() -> None:
    config = RunConfig.parse({"train_args": {"memory_budget": "2GiB", "memory_bandwidth": 5e9}})
    assert config.train_args.memory == (2**31, 5e9)
    with pytest.raises(ValueError, match=r"train_args.memory_budget: .*expected bytes"):
        RunConfig.parse({"train_args": {"memory_budget": "2 elephants"}})
    with pytest.raises(ValueError, match="does nothing without memory_budget"):
        RunConfig.parse({"train_args": {"memory_bandwidth": 5e9}})
