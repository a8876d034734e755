"""From a method's name to its configuration and its expected passes, before anything has run.

All methods train on subsets of one fraction (CORDS rounds it up in every class, so its subsets are
a little larger than random ones), with the same optimizer and schedule, for equally many epochs
or, at equal cost, for what their warm-up leaves of one budget. A full-data warm-up comes before
those epochs, at the peak rate, and the schedule begins with the first subset.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.assemble import THROUGH_CORDS, subset_size_of
from lipt_cords.experiments.choose import schedule_of
from lipt_cords.experiments.methods import LIPT, Method
from lipt_cords.experiments.pilot import trial_passes
from lipt_cords.training.scheduler import at_every_step
from lipt_cords.training.schedules import Schedule, steps_per_epoch
from lipt_cords.training.sources import SelectionSchedule
from lipt_cords.warmstart.config import Preset, WarmStartConfig
from lipt_cords.warmstart.forecast import Forecast, common_passes, forecast
from lipt_cords.warmstart.presets import scaled

LEAST_FULL_EPOCHS = 15
"""Full-data epochs of warm-up where neither the file nor the caller says how many."""
WORKERS = 16
"""Of LiPT, where the configuration does not say how many: as if each had a machine of its own."""
KEPT = ("device", "precision", "memory_format", "loader_workers", "threads", "log_samples")
"""Options of the machine, and the log, which every warm start of a comparison takes from the
configuration."""
PRESETS: dict[str, Preset] = {"lipt-rounds": "lipt", "lipt-once": "lipt-once"}
"""Warm-ups that are presets, whatever the configuration says of its own."""
PLAIN = ("random", "rs2", "full")
"""Selections that need no model, and go through our own loader."""
CRITICAL = "critical-path"
Equal = Literal["critical-path", "total"]
MATCHED: dict[str, Any] = {"cut": "auto", "pilot": 1, "pilot_cuts": [0.2, 0.5]}
"""Options of a stratified subset that is chosen once, where none are given: difficulty matched to
the budget by trials, the setting that benchmarks/fixed_subset.py measured on both data sets."""


@dataclass(frozen=True)
class Calendar:
    """How long a method trains: W full-data epochs where there are any, then E on subsets."""

    full_epochs: int
    subset_epochs: int
    kappa: float
    """CORDS's kappa that gives this warm-up."""
    num_epochs: int
    """CORDS's num_epochs beside it, its skipped epochs included."""
    select_every: int
    """Epochs between two selections, in CORDS's counting."""


@dataclass(frozen=True)
class ExpectedPasses:
    """Sample-passes of a method, as they are expected.

    Attributes:
        warmup: of its warm-up, in all.
        warmup_critical: of these, those that follow one another.
        selection: of trial trainings by which subsets are chosen.
        training: on subsets.
    """

    warmup: int
    warmup_critical: int
    selection: int
    training: int

    def spent(self, measure: str) -> int:
        """On the critical path or in all."""
        warmup = self.warmup_critical if measure == CRITICAL else self.warmup
        return warmup + self.selection + self.training


@dataclass(frozen=True)
class Contest:
    """What all methods of a comparison at one fraction share.

    Attributes:
        config: data, net, optimizer, strategy, fraction, and the LiPT warm start.
        samples: in the pool.
        warm_epochs: full-data epochs that LiPT replaces; None takes what the file's kappa says,
            or ``LEAST_FULL_EPOCHS``.
        subset_passes: passes on subsets, in place of the configuration's epochs.
    """

    config: RunConfig
    samples: int
    warm_epochs: int | None = None
    subset_passes: int | None = None

    @property
    def subset_size(self) -> int:
        """Samples of a subset."""
        return subset_size_of(self.samples, self.config)

    @property
    def subset_epochs(self) -> int:
        """Epochs on subsets, for every method that spends no more than its own."""
        if self.subset_passes is not None:
            return max(1, round(self.subset_passes / self.subset_size))
        return self._schedule.subset_epochs

    @property
    def _schedule(self) -> SelectionSchedule:
        """CORDS's calendar. In a single run a warm start replaces kappa's epochs; here both are
        compared."""
        return schedule_of(self.config.updated(dss_args={"warm_start": None}))

    def wanted_epochs(self, method: Method) -> int:
        """Full-data epochs of a method's warm-up, as asked for."""
        asked = method.epochs or self.warm_epochs
        return asked or self._schedule.warmup_epochs or LEAST_FULL_EPOCHS

    def expected(self, method: Method, subset_epochs: int | None = None) -> ExpectedPasses:
        """The passes of a method, training for its own epochs or for that many."""
        epochs = self.subset_epochs if subset_epochs is None else subset_epochs
        size = self.samples if method.selection == "full" else self.subset_size
        if method.warmup == "full":
            full = plan_calendar(self, method).full_epochs * self.samples
            cost = Forecast(full, full)
        else:
            options = self.warm_start(method)
            cost = Forecast(0, 0) if options is None else forecast(options, self.samples)
        trials = trial_passes(self.configure(method, subset_epochs), size)
        return ExpectedPasses(cost.passes, cost.critical_passes, trials, epochs * size)

    def warm_start(self, method: Method) -> WarmStartConfig | None:
        """The warm start of a method; None for none, and for CORDS's own full-data warm-up."""
        if method.warmup in ("none", "full"):
            return None
        given = self.config.dss_args.warm_start or WarmStartConfig()
        if method.warmup in PRESETS:
            kept = {one: getattr(given, one) for one in KEPT if one in given.model_fields_set}
            given = WarmStartConfig(type=PRESETS[method.warmup], **kept)
        lipt = scaled(given, self.samples, WORKERS)
        if method.warmup in LIPT:
            return lipt.model_copy(update={"start_from": "initial"} if method.scratch else None)
        falling: Schedule = "cosine" if lipt.schedule == "constant" else lipt.schedule
        if method.warmup == "full-annealed":
            steps = self.wanted_epochs(method) * math.ceil(self.samples / lipt.batch_size)
            options = alone(lipt, steps, schedule=falling)
        else:
            cost = forecast(lipt, self.samples)
            total = method.warmup == "one-worker-total"
            passes = cost.passes if total else cost.critical_passes
            annealed = method.warmup == "one-worker-annealed"
            passes -= common_passes(lipt, self.samples)
            # A step has a little less than a batch, as the last one of an epoch is short.
            steps = round(passes * steps_per_epoch(self.samples, lipt.batch_size) / self.samples)
            schedule: Schedule = falling if annealed else "constant"
            options = alone(lipt, max(1, steps), schedule=schedule)
        if "lr" not in given.model_fields_set:  # it may follow from the workers: here there is one
            options.pop("lr", None)
        if method.scratch:
            options["start_from"] = "initial"
        return WarmStartConfig(**options)

    def configure(self, method: Method, subset_epochs: int | None = None) -> RunConfig:
        """The configuration of one method, training on subsets for its own epochs or so many."""
        epochs = self.subset_epochs if subset_epochs is None else subset_epochs
        share, optimizer = epochs / self.subset_epochs, self.config.optimizer.type
        dss: dict[str, Any] = {"warm_start": self.warm_start(method), "kappa": 0.0}
        if method.warmup == "full":
            calendar = plan_calendar(self, method, epochs)
            dss["kappa"], epochs = calendar.kappa, calendar.num_epochs
            dss["select_every"] = calendar.select_every
        elif method.every is not None:
            dss["select_every"] = method.every or epochs
        if method.selection in PLAIN:
            # One subset for all epochs; CORDS's own random loader draws a second one on the way.
            strategy = method.strategy(self.config.dss_args.type)
            dss.update(type=strategy, selection_type=None, selector="fast", options={})
        elif method.selection != "selector":
            strategy = method.strategy(self.config.dss_args.type)
            dss.update(type=strategy, selection_type=None)
            if strategy != self.config.dss_args.strategy:
                dss["options"] = {}
            if strategy not in THROUGH_CORDS:
                dss["selector"] = None
            options = dss.get("options", self.config.dss_args.options)
            if strategy == "Stratified" and method.every == 0 and not options:
                dss["options"] = dict(MATCHED)
        unbound = self.config.scheduler.model_copy(
            update={"type": self.config.scheduler.chosen(optimizer), "T_max": None}
        )
        schedule = at_every_step(unbound, optimizer).over_epochs(share)
        return self.config.updated(
            dss_args=dss,
            train_args={"num_epochs": epochs},
            scheduler={**schedule.model_dump(), "over": "subset"},
        )

    def epochs_within(self, method: Method, passes: int, measure: str) -> int:
        """Epochs on subsets that a method has left of a number of passes, at least one.

        Raises:
            ValueError: the warm-up alone costs more.
        """
        least = self.expected(method, 1)
        before = least.spent(measure) - least.training
        if before >= passes:
            raise ValueError(
                f"{method.name}: its warm-up alone takes {before:,} passes ({measure}), and only "
                f"{passes:,} are to be spent: raise the budget or leave the method out"
            )
        most = max(1, (passes - before) // least.training) + 1
        # Trials are as long as the training, so the passes are not linear in the epochs.
        lowest = bisect_left(
            range(1, most), passes, key=lambda n: self.expected(method, n).spent(measure)
        )
        near = {max(1, lowest), lowest + 1}
        return min(near, key=lambda n: (abs(self.expected(method, n).spent(measure) - passes), n))

    def lipt(self, methods: list[Method]) -> Method:
        """The LiPT method whose passes others match: the first one, or plain ``lipt``."""
        return next((m for m in methods if m.warmup in LIPT), Method.parse("lipt"))


def plan_calendar(
    contest: Contest, method: Method | None = None, subset_epochs: int | None = None
) -> Calendar:
    """Find kappa and num_epochs for a full-data warm-up that ends in a fresh selection.

    CORDS trains W = ceil(S fraction) of the first S = int(kappa num_epochs) epochs on full data,
    skips the others, and selects in the epochs that ``select_every`` divides: S must be one of
    them, or the first epochs after the warm-up would read a random subset. A selection that is
    made once is made at S, whatever ``select_every`` was, as long as 2 S is not reached. Of the S
    that fit, the one whose W is nearest to what was asked for is taken.
    """
    method = method or Method.parse("full")
    dss = contest.config.dss_args
    wanted = contest.wanted_epochs(method)
    epochs = contest.subset_epochs if subset_epochs is None else subset_epochs
    every = dss.select_every if method.every is None else method.every
    once = every == 0 or every >= epochs
    plain = method.selection in PLAIN  # no loader of CORDS, which would have to select at S
    step = epochs if once else every
    lowest, stride = (1, 1) if plain else (epochs, 1) if once else (step, step)
    candidates = range(lowest, math.ceil(wanted / dss.fraction) + step + 1, stride)

    def worth(after: int) -> tuple[int, bool, int]:
        return abs(math.ceil(after * dss.fraction) - wanted), after % step != 0, after

    after = min(candidates, key=worth)
    total = after + epochs
    select_every = (after if after >= epochs else total) if once else every
    full = math.ceil(after * dss.fraction)
    return Calendar(full, epochs, (after + 0.5) / total, total, select_every)


def alone(lipt: WarmStartConfig, steps: int, *, schedule: Schedule) -> dict[str, Any]:
    """Options of one dense worker on all data: what a single machine does in some steps.

    The control that shows whether merging was worth anything.
    """
    options = {name: getattr(lipt, name) for name in lipt.model_fields_set}
    for name in (
        "epochs", "density", "work_dir", "ema", "stop_when", "min_workers", "processes", "seed",
        "outer_lr", "outer_momentum", "codec",
    ):  # fmt: skip
        options.pop(name, None)
    return options | {
        "num_workers": 1, "local_steps": steps, "shard_fraction": 1.0, "sparsity": "none",
        "schedule": schedule, "soup": "uniform", "rounds": 1, "outer": "average",
    }  # fmt: skip
