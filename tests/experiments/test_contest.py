"""From names to configurations: one calendar for all, and bills that are known before."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords import LiPTWarmStart, WarmStartConfig
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import load_dataset
from lipt_cords.experiments.compare_plan import plan_comparison
from lipt_cords.experiments.contest import MATCHED, WORKERS, Contest, plan_calendar
from lipt_cords.experiments.methods import DEFAULT_METHODS, Method
from lipt_cords.warmstart.forecast import forecast
from lipt_cords.warmstart.presets import scaled

WARM = {"num_workers": 4, "common_steps": 10, "batch_size": 32, "density": 0.5, "lr": 0.3}


def contest(warm_epochs: int | None = 15, samples: int = 1000, **dss: object) -> Contest:
    config = RunConfig.parse(
        {
            "dss_args": {"type": "GLISTER", "warm_start": WARM, "fraction": 0.1, **dss},
            "train_args": {"num_epochs": 20},
            "scheduler": {"T_max": 300},
        }
    )
    return Contest(config, samples, warm_epochs)


@pytest.mark.parametrize("select_every", [1, 3, 5, 20])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_the_calendar_ends_in_a_fresh_selection(select_every: int, fraction: float) -> None:
    calendar = plan_calendar(contest(select_every=select_every, fraction=fraction))
    after = int(calendar.kappa * calendar.num_epochs)  # as CORDS computes it
    assert after % calendar.select_every == 0
    assert calendar.select_every == (select_every if select_every < 20 else after)
    assert calendar.num_epochs - after == calendar.subset_epochs == 20
    assert math.ceil(after * fraction) == calendar.full_epochs
    step = select_every if select_every < 20 else 1
    assert abs(calendar.full_epochs - 15) <= math.ceil(step * fraction)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.25])
@pytest.mark.parametrize("name", ["full=5+craig", "full=5+craig/static", "full=5+random", "full=5"])
def test_a_selection_made_once_comes_after_as_many_full_epochs_as_asked_for(
    fraction: float, name: str
) -> None:
    """``select_every: 1000`` is how a file says once."""
    base = contest(select_every=1000, fraction=fraction)
    calendar = plan_calendar(base, Method.parse(name))
    assert calendar.full_epochs == 5
    config = base.configure(Method.parse(name))
    after = int(config.dss_args.kappa * config.train_args.num_epochs)
    every = config.dss_args.select_every
    assert config.train_args.num_epochs - after == 20
    if "random" not in name:
        assert [e for e in range(after, after + 20) if e % every == 0] == [after]
    assert base.expected(Method.parse(name)).warmup == 1000 * calendar.full_epochs


def test_the_calendar_follows_the_files_kappa_and_the_methods_name() -> None:
    base = contest(None, kappa=0.5, select_every=5)
    base = replace(base, config=base.config.updated(train_args={"num_epochs": 40}))
    assert plan_calendar(base).subset_epochs == 20
    assert plan_calendar(base).full_epochs == 2
    assert plan_calendar(base, Method.parse("full=4")).full_epochs == 4


def test_all_methods_train_equally_long_on_subsets() -> None:
    base = contest(select_every=5)
    configs = {name: base.configure(Method.parse(name)) for name in (*DEFAULT_METHODS, "lipt+rs2")}
    for name, config in configs.items():
        assert config.scheduler.over == "subset" and config.scheduler.T_max is None
        assert (config.dss_args.kappa > 0) == (name == "full")
        total = plan_calendar(base).num_epochs if name == "full" else 20
        assert config.train_args.num_epochs == total
    assert configs["random"].dss_args.strategy == "Random"
    assert configs["lipt+rs2"].dss_args.strategy == "RS2"
    given = base.config.dss_args.warm_start
    assert given is not None
    assert configs["lipt"].dss_args.warm_start == scaled(given, base.samples, WORKERS)


def test_one_worker_is_as_long_as_lipt() -> None:
    base = contest()
    lipt = base.expected(Method.parse("lipt"))
    for name, wanted, schedule in (
        ("one-worker", lipt.warmup_critical, "constant"),
        ("one-worker-annealed", lipt.warmup_critical, "wsd"),
        ("one-worker-total", lipt.warmup, "constant"),
    ):
        one = base.warm_start(Method.parse(name))
        assert one is not None
        assert (one.num_workers, one.sparsity, one.lr) == (1, "none", 0.3)
        assert one.schedule == schedule
        assert abs(base.expected(Method.parse(name)).warmup - wanted) <= one.batch_size


@pytest.mark.parametrize(
    ("schedule", "falling"), [("constant", "cosine"), ("linear", "linear"), ("wsd", "wsd")]
)
def test_annealed_controls_follow_the_schedule_of_lipt_or_a_cosine(
    schedule: str, falling: str
) -> None:
    base = contest(warm_start={"schedule": schedule})
    for name in ("one-worker-annealed", "full-annealed=2"):
        one = base.warm_start(Method.parse(name))
        assert one is not None and one.schedule == falling


@pytest.mark.parametrize(
    ("optimizer", "told", "expected"),
    [
        ("muon", {}, "wsd"),
        ("muon", {"T_max": 9}, "cosine"),
        ("sgd", {}, "cosine"),
        ("sgd", {"type": "linear"}, "linear"),
        ("sgd", {"type": "linear_decay", "gamma": 0.5}, "linear_decay"),
    ],
)
def test_every_method_follows_the_schedule_over_its_own_epochs_step_by_step(
    optimizer: str, told: dict[str, Any], expected: str
) -> None:
    """A cosine stepped once per epoch would leave few, long epochs at a high rate."""
    config = RunConfig.parse({"optimizer": {"type": optimizer}, "scheduler": told})
    for name in ("random", "full=2+random", "full-data"):
        made = replace(contest(), config=config).configure(Method.parse(name)).scheduler
        assert (made.chosen(optimizer), made.T_max, made.over) == (expected, None, "subset")


def test_decays_after_some_epochs_are_scaled_to_a_shorter_training() -> None:
    told = {"type": "multistep", "milestones": (10, 16), "gamma": 0.5}
    config = RunConfig.parse({"scheduler": told, "train_args": {"num_epochs": 20}})
    base = replace(contest(), config=config)
    for epochs, milestones in ((20, (10, 16)), (5, (2, 4)), (1, (1, 1))):
        made = base.configure(Method.parse("full-data"), epochs).scheduler
        assert made.milestones == milestones and made.gamma == 0.5
    kept = base.configure(Method.parse("full=3+random")).scheduler
    assert kept.milestones == (10, 16)


def test_one_worker_takes_the_rate_of_one_worker() -> None:
    """That of ``lipt-finetune`` grows with the workers, unless it is given."""
    for options, alone, several in (({}, 1e-4, 4e-4), ({"lr": 3e-4}, 3e-4, 3e-4)):
        base = contest(warm_start={"type": "lipt-finetune", **options})
        one, lipt = (base.warm_start(Method.parse(name)) for name in ("one-worker", "lipt"))
        assert one is not None and lipt is not None
        assert (lipt.num_workers, lipt.lr) == (16, several)
        assert (one.num_workers, scaled(one, base.samples).lr) == (1, alone)


def test_where_training_begins_and_how_often_is_selected() -> None:
    base = contest(select_every=5)
    chosen = base.configure(Method.parse("lipt+stratified/scratch/static"))
    assert chosen.dss_args.warm_start is not None
    assert chosen.dss_args.warm_start.start_from == "initial"
    assert (chosen.dss_args.strategy, chosen.dss_args.select_every) == ("Stratified", 20)
    assert base.configure(Method.parse("lipt/every=2")).dss_args.select_every == 2
    # Chosen once, its difficulty is matched to the budget by trials; the trials are on the bill.
    assert chosen.dss_args.options == MATCHED
    assert base.expected(Method.parse("lipt+stratified/scratch/static")).selection == 3 * 20 * 100
    assert base.configure(Method.parse("lipt+stratified")).dss_args.options == {}
    told = contest(select_every=5, type="Stratified", options={"cut": 0.3})
    kept = told.configure(Method.parse("lipt+stratified/scratch/static"))
    assert kept.dss_args.options == {"cut": 0.3}
    annealed = base.warm_start(Method.parse("full-annealed=3"))
    assert annealed is not None and annealed.schedule == "wsd"
    assert forecast(annealed, 1000).passes == pytest.approx(3000 + 320, abs=32)


@pytest.mark.parametrize("measure", ["critical-path", "total"])
@pytest.mark.parametrize("name", ["rs2", "random", "lipt+random", "one-worker", "full-data"])
def test_equal_cost_is_met_within_an_epoch(name: str, measure: str) -> None:
    base, method = contest(), Method.parse(name)
    epochs = base.epochs_within(method, 20_000, measure)
    bill = base.expected(method, epochs)
    epoch = 1000 if name == "full-data" else 100
    assert abs(bill.spent(measure) - 20_000) <= epoch / 2


def test_a_warm_up_that_costs_more_than_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match="lipt: its warm-up alone takes .* only 100 are"):
        contest().epochs_within(Method.parse("lipt"), 100, "total")


OPTIONS = st.fixed_dictionaries(
    {
        "num_workers": st.integers(1, 5),
        "common_steps": st.integers(0, 8),
        "batch_size": st.integers(2, 40),
        "shard_fraction": st.sampled_from([1.0, 0.6]),
        "local_steps": st.integers(3, 20),
    }
)


@settings(max_examples=25)
@given(options=OPTIONS, samples=st.integers(20, 130), rounds=st.integers(1, 3))
def test_the_forecast_is_what_a_warm_start_spends(options, samples, rounds):
    data = torch.utils.data.TensorDataset(torch.randn(samples, 3), torch.arange(samples) % 2)
    config = WarmStartConfig(
        **options, rounds=rounds, sparsity="none", device="cpu", launch="serial", progress=False
    )
    spent = LiPTWarmStart(config).fit(torch.nn.Linear(3, 2), data).report
    expected = forecast(config, samples)
    assert expected.passes == spent.passes
    slack = 0 if rounds == 1 else rounds * options["batch_size"]
    assert 0 <= spent.critical_path_passes - expected.critical_passes <= slack


def test_a_warm_up_that_the_calendar_cannot_give_is_told() -> None:
    digits = load_dataset("digits")
    config = contest(select_every=10, fraction=0.3).config
    plan = plan_comparison(config, digits, [Method.parse("full=5+craig")], [0])
    assert plan.runs[0].method.label("CRAIG") == "CRAIG after full data (6 epochs)"
    assert "6 full epochs, the nearest to 5" in plan.notes[0]
    assert plan.runs[0].key == ("full=5+craig", 0.3, 0)
