"""What a comparison will run: methods x fractions x seeds, with the passes of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.labels import labels_of
from lipt_cords.experiments.assemble import check_selection, subset_size_of
from lipt_cords.experiments.contest import Contest, Equal, ExpectedPasses
from lipt_cords.experiments.methods import Method
from lipt_cords.selectors.grouping import class_members
from lipt_cords.warmstart.config import WarmStartConfig

RunKey = tuple[str, float, int]
"""Method, fraction and seed."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        method: which.
        fraction: of the pool in a subset.
        seed: of every draw.
        config: complete, the seed apart.
        expected: the passes that it is expected to make.
        warm_start: options of the warm start, which runs with equal ones share; None for none.
    """

    method: Method
    fraction: float
    seed: int
    config: RunConfig
    expected: ExpectedPasses
    warm_start: WarmStartConfig | None

    @property
    def key(self) -> RunKey:
        """What identifies it."""
        return self.method.name, self.fraction, self.seed


@dataclass(frozen=True)
class ComparisonPlan:
    """All runs in order, and what they will cost."""

    runs: list[PlannedRun]
    notes: list[str]
    kept: int = 0
    """Runs beside these that an earlier comparison has made."""

    @property
    def passes(self) -> int:
        """Sample-passes of all runs; a warm start that runs share is made once a seed."""
        shared: dict[tuple[int, str], int] = {}
        alone = 0
        for one in self.runs:
            alone += one.expected.training + one.expected.selection
            if one.warm_start is None:
                alone += one.expected.warmup
            else:
                shared[one.seed, sharing_key(one.warm_start)] = one.expected.warmup
        return alone + sum(shared.values())

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        runs = [
            {"method": one.method.name, "fraction": one.fraction, "seed": one.seed}
            | {"epochs": one.config.train_args.num_epochs, **asdict(one.expected)}
            for one in self.runs
        ]
        return {
            "kind": "plan", "runs": runs, "passes": self.passes, "notes": self.notes,
            "kept": self.kept,
        }  # fmt: skip

    def without(self, made: Collection[RunKey]) -> ComparisonPlan:
        """What is left to run."""
        left = [one for one in self.runs if one.key not in made]
        return ComparisonPlan(left, self.notes, self.kept + len(self.runs) - len(left))

    def units(self) -> list[list[PlannedRun]]:
        """Runs in groups that one process makes in turn: those that share a warm start."""
        groups: dict[Any, list[PlannedRun]] = {}
        for place, one in enumerate(self.runs):
            shared = None if one.warm_start is None else sharing_key(one.warm_start)
            key = (place,) if shared is None else (one.seed, shared)
            groups.setdefault(key, []).append(one)
        return list(groups.values())


def sharing_key(options: WarmStartConfig) -> str:
    """Equal for warm starts that give the same weights; where training begins is ignored."""
    return options.model_dump_json(exclude={"start_from"})


def plan_comparison(
    config: RunConfig,
    splits: DataSplits,
    methods: Sequence[Method],
    seeds: Sequence[int],
    fractions: Sequence[float] | None = None,
    *,
    warm_epochs: int | None = None,
    subset_passes: int | None = None,
    equal: Equal | None = None,
    budget: int | None = None,
) -> ComparisonPlan:
    """Lay out a comparison.

    Args:
        config: what all methods share.
        splits: the data.
        methods: the contenders.
        seeds: one run of every method and fraction each.
        fractions: of the pool in a subset; None takes the configuration's.
        warm_epochs: full-data epochs that LiPT replaces.
        subset_passes: passes on subsets, in place of the configuration's epochs.
        equal: let every method spend the same passes, warm-up counted: on the critical path or
            in all.
        budget: these passes; None takes what the most expensive method spends that trains on
            subsets for the configuration's epochs.

    Returns:
        The plan; methods that do not fit the budget are left out with a note.

    Raises:
        ValueError: seeds or fractions that repeat or are out of range, a fraction that gives
            fewer samples than there are classes, a budget without ``equal``, or a method whose
            selector does not take the options of the configuration.
    """
    wanted = [config.dss_args.fraction] if fractions is None else list(fractions)
    _check_unique("seeds", seeds)
    _check_unique("fractions", wanted)
    if budget is not None and equal is None:
        raise ValueError("a budget is for comparisons at equal cost: say equal too")
    samples = len(splits.train)  # type: ignore[arg-type]
    classes = len(class_members(labels_of(splits.train)))
    runs, notes = [], []
    for fraction in wanted:
        if not 0 < fraction <= 1:
            raise ValueError(f"fractions must lie in (0, 1], received {fraction:g}")
        base = config.updated(dss_args={"fraction": fraction})
        size = subset_size_of(samples, base)
        if size < classes:
            raise ValueError(
                f"a subset needs a sample of each of the {classes} classes, and fraction "
                f"{fraction:g} of {samples:,} gives {size:,}: take at least "
                f"{math.ceil(classes / samples * 1e4) / 1e4:g}"
            )
        contest = Contest(base, samples, warm_epochs, subset_passes)
        allowed = budget
        if equal is not None and budget is None:
            allowed = max(contest.expected(method).spent(equal) for method in methods)
        for method in methods:
            epochs = None
            try:
                if method.spends is not None:
                    passes = contest.expected(contest.lipt(list(methods))).spent(method.spends)
                    epochs = contest.epochs_within(method, passes, method.spends)
                elif equal is not None and allowed is not None:
                    epochs = contest.epochs_within(method, allowed, equal)
            except ValueError as error:
                notes.append(f"left out at fraction {fraction:g}: {error}")
                continue
            made = contest.configure(method, epochs)
            check_selection(made, [])
            expected, warm = contest.expected(method, epochs), contest.warm_start(method)
            named = method
            full = contest.wanted_epochs(method) * samples
            if method.warmup == "full" and expected.warmup != full:
                real = expected.warmup // samples
                named = replace(method, epochs=real)
                notes.append(
                    f"{method.name} at fraction {fraction:g}: {real} full epochs, the nearest to "
                    f"{contest.wanted_epochs(method)} after which CORDS selects (every "
                    f"{made.dss_args.select_every} epochs)"
                )
            runs += [PlannedRun(named, fraction, seed, made, expected, warm) for seed in seeds]
    place = {method.name: number for number, method in enumerate(methods)}
    runs.sort(key=lambda one: (seeds.index(one.seed), one.fraction, place[one.method.name]))
    return ComparisonPlan(runs, notes)


def _check_unique(name: str, values: Sequence[float]) -> None:
    if not values:
        raise ValueError(f"a comparison needs {name}, received none")
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ValueError(
            f"{name} that repeat would count one run twice: {', '.join(f'{v:g}' for v in twice)}; "
            "give each once"
        )
