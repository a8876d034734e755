"""The contenders of a comparison: a warm-up, then a way to choose subsets.

Every method trains the same number of epochs on subsets of one fraction (CORDS rounds it up in
every class, so its subsets are a little larger than random ones), with the same optimizer and
schedule: a full-data warm-up comes before those epochs, at the peak rate, and the
schedule begins with the first subset. A method that needs no warm-up may also spend what LiPT
spends: ``rs2@critical-path`` and ``rs2@total`` train on until they have made as many passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lipt_cords.assembly import schedule_of
from lipt_cords.config import WarmStartConfig
from lipt_cords.errors import unknown_name
from lipt_cords.records import RunRecord
from lipt_cords.run_config import RunConfig

WARMUPS = ("none", "full", "lipt", "one-worker")
SELECTIONS = ("random", "rs2", "selector")
SPENDING = {"critical-path": "LiPT's critical path", "total": "all of LiPT's passes"}
DEFAULT_METHODS = ("random", "rs2", "full", "lipt", "one-worker", "rs2@critical-path", "rs2@total")
SHORT = {
    "random": ("none", "random"),
    "rs2": ("none", "rs2"),
    **{warmup: (warmup, "selector") for warmup in WARMUPS[1:]},
}
LEAST_FULL_EPOCHS = 15
"""Full-data epochs of warm-up where neither the file nor the caller says how many."""


@dataclass(frozen=True)
class Method:
    """A warm-up and a selection.

    Attributes:
        name: as asked for, such as ``lipt`` or ``lipt+random``.
        warmup: one of ``WARMUPS``.
        selection: one of ``SELECTIONS``; ``selector`` is the configuration's strategy.
        spends: None for as many subset epochs as every other method, or a key of ``SPENDING``.
    """

    name: str
    warmup: str
    selection: str
    spends: str | None = None

    @classmethod
    def parse(cls, name: str) -> Method:
        """Read a method's name.

        >>> Method.parse("lipt")
        Method(name='lipt', warmup='lipt', selection='selector', spends=None)
        >>> Method.parse("one-worker+rs2").selection, Method.parse("rs2@total").spends
        ('rs2', 'total')

        Raises:
            ValueError: an unknown name.
        """
        what, _, spends = name.partition("@")
        warmup, _, selection = what.partition("+")
        warmup, selection = SHORT.get(what, (warmup, selection))
        costly = "@" in name and (warmup != "none" or spends not in SPENDING)
        if warmup not in WARMUPS or selection not in SELECTIONS or costly:
            known = [*SHORT, *(f"{w}+{s}" for w in WARMUPS for s in SELECTIONS)]
            known += [f"{plain}@{cost}" for plain in ("random", "rs2") for cost in SPENDING]
            raise unknown_name("method", name, known)
        return cls(name, warmup, selection, spends or None)

    def label(self, strategy: str) -> str:
        """The method in words, for tables and plots.

        >>> Method.parse("lipt").label("GLISTER"), Method.parse("rs2").label("GLISTER")
        ('GLISTER after LiPT', 'RS2')
        """
        chooser = {"random": "random", "rs2": "RS2", "selector": strategy}[self.selection]
        before = {
            "none": "",
            "full": " after full data",
            "lipt": " after LiPT",
            "one-worker": " after one worker",
        }[self.warmup]
        return chooser + before + (f", {SPENDING[self.spends]}" if self.spends else "")


def check_order(methods: Sequence[Method]) -> None:
    """Raise unless a LiPT run comes before whatever is measured by LiPT's bill.

    Raises:
        ValueError: the methods that have no LiPT run to match.
    """
    early = list(takewhile(lambda method: method.warmup != "lipt", methods))
    unmatched = [m.name for m in early if m.warmup == "one-worker" or m.spends is not None]
    if unmatched:
        raise ValueError(
            f"{', '.join(unmatched)}: one-worker and methods with '@' spend what LiPT spends; put "
            "lipt before them among the methods"
        )


@dataclass(frozen=True)
class Calendar:
    """How long every method trains: W full-data epochs where there are any, then E on subsets."""

    full_epochs: int
    subset_epochs: int
    kappa: float
    """CORDS's kappa that gives this warm-up."""
    num_epochs: int
    """CORDS's num_epochs beside it, its skipped epochs included."""


def plan_calendar(config: RunConfig, warm_epochs: int | None = None) -> Calendar:
    """Find kappa and num_epochs for a full-data warm-up that ends in a fresh selection.

    CORDS trains W = ceil(S fraction) of the first S = int(kappa num_epochs) epochs on full data,
    skips the others, and selects in the epochs that ``select_every`` divides: S must be one of
    them, or the first epochs after the warm-up would read a random subset. Of the S that fit, the
    one whose W is nearest to what was asked for is taken, the smaller W first.

    Args:
        config: whose ``kappa`` gives W, and whose other epochs train on subsets.
        warm_epochs: W, in place of what ``kappa`` says.
    """
    dss = config.dss_args
    # A warm start makes kappa void in a run of its own; here both methods are run.
    schedule = schedule_of(config.updated(dss_args={"warm_start": None}))
    wanted = warm_epochs or schedule.warmup_epochs or LEAST_FULL_EPOCHS
    subset_epochs = schedule.subset_epochs
    step, fraction = dss.select_every, dss.fraction
    last = math.ceil(wanted / fraction) + step
    candidates = range(step, last + 1, step)
    after = min(candidates, key=lambda s: (abs(math.ceil(s * fraction) - wanted), s))
    total = after + subset_epochs
    return Calendar(math.ceil(after * fraction), subset_epochs, (after + 0.5) / total, total)


def configure(
    method: Method,
    base: RunConfig,
    calendar: Calendar,
    *,
    finished: Callable[[str], RunRecord | None] = lambda name: None,
    subset_size: int | None = None,
) -> RunConfig:
    """The configuration of one method.

    Args:
        method: which.
        base: what all methods share.
        calendar: how long they train.
        finished: the record of a method that already ran with this seed, or None; ``one-worker``
            and what spends as much as LiPT ask it for LiPT's bill.
        subset_size: samples in a random subset; None takes the mean of LiPT's. CORDS rounds its
            budgets up class by class, so its subsets can be larger than a random one.

    Raises:
        ValueError: there is no LiPT run to match.
    """
    dss: dict[str, Any] = {"warm_start": None, "kappa": 0.0}
    epochs = calendar.subset_epochs
    if method.warmup == "full":
        dss["kappa"], epochs = calendar.kappa, calendar.num_epochs
    elif method.warmup == "lipt":
        dss["warm_start"] = lipt_of(base)
    elif method.warmup == "one-worker":
        dss["warm_start"] = one_worker(lipt_of(base), _lipt_record(finished))
    if method.selection == "random":
        # One subset for all epochs; CORDS's own random loader draws a second one on the way.
        dss.update(type="Random", selection_type=None, selector="fast")
    elif method.selection == "rs2":
        dss.update(type="RS2", selection_type=None, selector="fast")
    if method.spends is not None:
        costs = _lipt_record(finished).costs
        passes = costs.critical_passes if method.spends == "critical-path" else costs.passes
        size = subset_size or costs.training_passes / calendar.subset_epochs
        epochs = max(1, round(passes / size))
    return base.updated(
        dss_args=dss, train_args={"num_epochs": epochs}, scheduler={"over": "subset", "T_max": None}
    )


def lipt_of(config: RunConfig) -> WarmStartConfig:
    """The LiPT warm start of a configuration, or the default one."""
    return config.dss_args.warm_start or WarmStartConfig()


def one_worker(lipt: WarmStartConfig, record: RunRecord) -> WarmStartConfig:
    """One dense worker on all data at a constant rate, as long as LiPT's critical path.

    What a single machine does in the time in which LiPT needs one machine a worker: the control
    that tells whether merging was worth anything.
    """
    options = {name: getattr(lipt, name) for name in lipt.model_fields_set}
    for name in (
        "epochs", "density", "seed", "work_dir", "rounds", "outer", "ema", "stop_when",
        "min_workers", "processes",
    ):  # fmt: skip
        options.pop(name, None)
    steps = round(record.costs.warmup_critical_passes / lipt.batch_size) - lipt.common_steps
    options.update(
        num_workers=1,
        local_steps=max(1, steps),
        shard_fraction=1.0,
        sparsity="none",
        schedule="constant",
        soup="uniform",
    )
    return WarmStartConfig(**options)


def _lipt_record(finished: Callable[[str], RunRecord | None]) -> RunRecord:
    for name in ("lipt", *(f"lipt+{selection}" for selection in SELECTIONS)):
        record = finished(name)
        if record is not None:
            return record
    raise ValueError(
        "one-worker and methods with '@' spend what LiPT spends, and no LiPT run of this seed has "
        "succeeded: put lipt before them among the methods"
    )
