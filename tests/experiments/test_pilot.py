"""Trial trainings: what they judge, what they cost, and what cannot be tried."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.contest import Contest
from lipt_cords.experiments.methods import Method
from lipt_cords.experiments.pilot import SubsetPilot, pilot_of
from lipt_cords.experiments.run import load_splits, run

DRAWS = torch.Generator().manual_seed(0)
X = torch.randn(120, 4, generator=DRAWS)
DATA = TensorDataset(X, (X[:, 0] > 0).long())
NET = nn.Linear(4, 2)


def pilot(**options: Any) -> SubsetPilot:
    held_out = Subset(DATA, range(60, 120))
    return SubsetPilot(NET, DATA, held_out, epochs=4, batch_size=8, device="cpu", **options)


def test_a_trial_prefers_samples_that_teach_and_leaves_the_net_alone() -> None:
    before = copy.deepcopy(NET.state_dict())
    trial = pilot(lr=0.1)
    one_class = DATA.tensors[1][:60].nonzero().flatten()[:20]
    both, passes, error = trial(torch.arange(20))
    one, *_ = trial(one_class)
    assert error == pytest.approx((both * (1 - both) / 60) ** 0.5)
    assert both > one and passes == 80 and trial.passes == 160
    assert trial(torch.arange(20))[0] == both, "the same subset gets the same answer"
    assert all(torch.equal(before[k], v) for k, v in NET.state_dict().items())


def test_no_judges() -> None:
    with pytest.raises(ValueError, match="val_dataset is empty"):
        SubsetPilot(NET, DATA, Subset(DATA, []))


def configured(**dss: Any) -> RunConfig:
    warm = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}
    return RunConfig.parse(
        {
            "dataset": {"limit": 200},
            "dss_args": {
                "type": "Stratified", "fraction": 0.2, "select_every": 4, "warm_start": warm, **dss,
            },
            "dataloader": {"batch_size": 16},
            "train_args": {"num_epochs": 4, "eval_every": 4, "device": "cpu"},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ({}, "cosine"),
        ({"type": "wsd"}, "wsd"),
        ({"T_max": 8}, {"type": "cosine_annealing", "T_max": 4}),
        (
            {"type": "multistep", "milestones": [2, 3]},
            {"type": "multistep", "milestones": [1, 2]},
        ),
    ],
)
def test_a_trial_follows_the_schedule_of_the_run_over_its_own_epochs(
    scheduler: dict[str, Any], told: Any
) -> None:
    config = configured(options={"cut": "auto", "pilot": 0.5}).updated(scheduler=scheduler)
    trial = pilot_of(config, load_splits(config), NET)
    assert trial._options["epochs"] == 2
    assert trial._options["schedule"].told() == told


@pytest.mark.parametrize("every", [2, 4])
def test_a_configured_run_pays_for_its_trials_as_planned(every: int) -> None:
    config = configured(options={"pilot": 0.5, "pilot_cuts": [0.3]}, select_every=every)
    splits = load_splits(config)
    record = run(config, splits=splits)
    assert record is not None
    bill = Contest(config, len(splits.train)).expected(Method.parse("lipt"))  # type: ignore[arg-type]
    assert record.costs.selection_passes == bill.selection == (4 // every) * 2 * 2 * 40
    assert record.costs.passes == bill.spent("total")
    assert record.costs.critical_passes == bill.spent("critical-path")


@pytest.mark.parametrize(
    ("strategy", "options", "trials"),
    [("Covering", {}, 6), ("Stratified", {}, 5), ("Covering", {"cut": 0.2}, 0)],
)
def test_trials_are_counted_by_the_cuts_that_a_selector_tries(strategy, options, trials) -> None:
    config = configured(type=strategy, options={"pilot": 0.25, **options})
    splits = load_splits(config)
    record = run(config, splits=splits)
    assert record is not None
    bill = Contest(config, len(splits.train)).expected(Method.parse("lipt"))  # type: ignore[arg-type]
    assert record.costs.selection_passes == bill.selection == trials * 40


@pytest.mark.parametrize("share", [0, 1.5, True, "half"])
def test_the_length_of_a_trial(share: object) -> None:
    with pytest.raises(ValueError, match="options.pilot is the length of a trial"):
        run(configured(options={"pilot": share}))


def test_a_strategy_without_a_cut_takes_no_pilot() -> None:
    config = configured(type="GLISTER", selector="fast", options={"pilot": 0.5})
    with pytest.raises(ValueError, match="GLISTER takes none"):
        run(config)
