"""The contenders: their names, one calendar for all, and a worker as long as LiPT."""

from __future__ import annotations

import math

import pytest

from lipt_cords.methods import DEFAULT_METHODS, Method, configure, plan_calendar
from lipt_cords.records import Ledger, RunRecord
from lipt_cords.run_config import RunConfig


def _base(**dss: object) -> RunConfig:
    warm = {"num_workers": 4, "common_steps": 10, "batch_size": 32, "density": 0.5, "lr": 0.3}
    return RunConfig.parse(
        {
            "dss_args": {"type": "GLISTER", "warm_start": warm, **dss},
            "train_args": {"num_epochs": 20},
            "scheduler": {"T_max": 300},
        }
    )


def test_names() -> None:
    labels = [Method.parse(name).label("CRAIG") for name in DEFAULT_METHODS]
    assert labels == [
        "random", "RS2", "CRAIG after full data", "CRAIG after LiPT", "CRAIG after one worker",
        "RS2, LiPT's critical path", "RS2, all of LiPT's passes",
    ]  # fmt: skip
    assert Method.parse("lipt+random").label("CRAIG") == "random after LiPT"
    assert Method.parse("none+selector").warmup == "none"
    for name in ("lpt", "lipt+glister", "", "lipt@total", "rs2@all"):
        with pytest.raises(ValueError, match="unknown method"):
            Method.parse(name)


@pytest.mark.parametrize("select_every", [1, 3, 5, 20])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_the_calendar_ends_in_a_fresh_selection(select_every: int, fraction: float) -> None:
    base = _base(select_every=select_every, fraction=fraction)
    calendar = plan_calendar(base, 15)
    after = int(calendar.kappa * calendar.num_epochs)  # as CORDS computes it
    assert after % select_every == 0
    assert calendar.num_epochs - after == calendar.subset_epochs == 20
    assert math.ceil(after * fraction) == calendar.full_epochs
    assert abs(calendar.full_epochs - 15) <= math.ceil(select_every * fraction)


def test_the_calendar_follows_the_files_kappa() -> None:
    config = _base(kappa=0.5, select_every=5).updated(train_args={"num_epochs": 40})
    calendar = plan_calendar(config)
    assert (calendar.full_epochs, calendar.subset_epochs) == (2, 20)


def test_all_methods_train_equally_long_on_subsets() -> None:
    base = _base(select_every=5)
    calendar = plan_calendar(base, 15)
    bill = Ledger(warmup_critical_passes=3200, warmup_passes=9000, training_passes=2000)
    lipt = RunRecord("lipt", 0, {}, costs=bill)
    configs = {
        name: configure(Method.parse(name), base, calendar, finished={"lipt": lipt}.get)
        for name in (*DEFAULT_METHODS, "lipt+rs2")
    }
    for name, config in configs.items():
        assert config.scheduler.over == "subset" and config.scheduler.T_max is None
        assert (config.dss_args.kappa > 0) == (name == "full")
        # As many epochs of 100 samples as LiPT's 5,200 critical or 11,000 passes in all allow.
        epochs = {"full": calendar.num_epochs, "rs2@critical-path": 52, "rs2@total": 110}
        assert config.train_args.num_epochs == epochs.get(name, 20)
    assert configs["random"].dss_args.strategy == "Random"
    assert configs["lipt+rs2"].dss_args.strategy == "RS2"
    assert configs["lipt"].dss_args.warm_start == base.dss_args.warm_start
    one = configs["one-worker"].dss_args.warm_start
    assert one is not None
    assert (one.num_workers, one.sparsity, one.schedule, one.lr) == (1, "none", "constant", 0.3)
    assert (one.common_steps + one.local_steps) * one.batch_size == 3200  # type: ignore[operator]


def test_equal_cost_is_counted_in_the_rivals_own_subsets() -> None:
    """CORDS rounds budgets up class by class: an epoch of LiPT's can be longer than one of RS2."""
    base = _base()
    calendar = plan_calendar(base)
    bill = Ledger(warmup_passes=1000, training_passes=100 * calendar.subset_epochs)
    lipt = RunRecord("lipt", 0, {}, costs=bill)
    config = configure(
        Method.parse("rs2@total"), base, calendar, finished={"lipt": lipt}.get, subset_size=50
    )
    assert config.train_args.num_epochs * 50 == bill.passes


def test_one_worker_needs_a_lipt_run() -> None:
    base = _base()
    with pytest.raises(ValueError, match="put lipt before them"):
        configure(Method.parse("one-worker"), base, plan_calendar(base))
