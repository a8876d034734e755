"""The comparison on bundled data that a newcomer sees first: small, real, and through CORDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lipt_cords.base.files import read_json
from lipt_cords.base.ownership import owns_output
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.experiments.compare import OnRun, compare
from lipt_cords.experiments.contest import Contest
from lipt_cords.experiments.methods import Method
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import RESULTS
from lipt_cords.experiments.run import load_splits, run
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart.progress import each_line_once

FULL_EPOCHS = 15
"""Full-data epochs that LiPT replaces: the shortest warm-up of the published comparisons."""
METHODS = (
    "random", "rs2", "full", "lipt", "lipt+random", "lipt+stratified/scratch/static", "one-worker",
    "rs2@critical-path", "rs2@total", "full-data@total",
)  # fmt: skip
OWN = ("dataset", "model", "dataloader", "train_args")
"""Sections of a configuration by which the demo knows its earlier results."""
OTHER_STRATEGIES = ("GradMatch", "CRAIG")


def demo_config(strategy: str = "GLISTER") -> RunConfig:
    """Digits, a small CNN, a tenth of the data through one of CORDS's loaders.

    Without CORDS the same selectors of this package take their place.
    """
    dss: dict[str, Any] = {
        "type": strategy,
        "fraction": 0.1,
        "select_every": 5,
        "selector": "fast" if cords_version() is None else "cords",
        "warm_start": {
            "num_workers": 8, "common_steps": 40, "epochs": 8, "batch_size": 32, "lr": 0.02,
        },
    }  # fmt: skip
    if strategy == "GLISTER":
        dss["selection_type"] = "PerClass"
    if strategy == "CRAIG":
        # CORDS's CRAIG compiles its search anew for every class: one selection is enough to see.
        dss["select_every"] = 20
    return RunConfig.parse(
        {
            "dataset": {"name": "digits"},
            "model": {"architecture": "cnn"},
            "dataloader": {"batch_size": 16},
            "optimizer": {"lr": 0.02, "nesterov": True},
            "dss_args": dss,
            "train_args": {"num_epochs": 20, "device": "cpu"},
        }
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside: on nets this small, waking a second costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_room(results: Path) -> None:
    """Remove the results of an earlier demo, and no others."""
    if not results.exists():
        return
    made = read_json(results).get("config")
    own = demo_config().to_dict()
    if not isinstance(made, dict) or any(made.get(part) != own[part] for part in OWN):
        raise ValueError(
            f"{results} holds the results of another run: choose another --output for the demo"
        )
    results.unlink()


@owns_output
@each_line_once()
@one_thread()
def demo(
    output: str | Path | None,
    *,
    seeds: int = 3,
    command: str | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
    on_strategy: Callable[[str, RunRecord | None], None] | None = None,
) -> tuple[dict[str, Any], list[RunRecord]]:
    """Compare warm-ups for GLISTER, then pass once through CORDS's other loaders.

    Args:
        output: directory for the results; None writes nothing.
        seeds: runs of each method.
        command: the command line that asked for it, to be written down.
        on_run: called before and after every run of the comparison.
        on_point: called with every point of every curve of the comparison.
        on_strategy: called before (with None) and after the pass of each other strategy.

    Returns:
        The comparison's results, and the records of the other strategies.

    Raises:
        ValueError: ``output`` holds the results of another run.
    """
    if output is not None:
        _make_room(Path(output).expanduser() / RESULTS)
    splits = load_splits(demo_config())
    results = compare(
        demo_config(),
        methods=METHODS,
        seeds=range(seeds),
        warm_epochs=FULL_EPOCHS,
        output=output,
        splits=splits,
        command=command,
        on_run=on_run,
        on_point=on_point,
    )
    others = []
    for strategy in OTHER_STRATEGIES:
        if on_strategy is not None:
            on_strategy(strategy, None)
        contest = Contest(demo_config(strategy), len(splits.train), FULL_EPOCHS)  # type: ignore[arg-type]
        config = contest.configure(Method.parse("lipt"))
        record = run(config, method=f"{strategy} after LiPT", splits=splits)
        if record is None:
            continue
        others.append(record)
        if on_strategy is not None:
            on_strategy(strategy, record)
    return results, others
