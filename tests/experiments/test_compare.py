"""Comparisons: every method and seed, failures listed, results written after each run."""

from __future__ import annotations

import io
import linecache
import math
import multiprocessing
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lipt_cords.base.files import read_json, write_json
from lipt_cords.cli.display import Display
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.data.labels import labels_of
from lipt_cords.experiments import demo as demo_module
from lipt_cords.experiments.assemble import uses_cords
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.compare_plan import PlannedRun, plan_comparison
from lipt_cords.experiments.compare_runs import _Child, failed
from lipt_cords.experiments.demo import demo, demo_config
from lipt_cords.experiments.methods import parse_methods
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import load_splits, run
from lipt_cords.selectors.base import SELECTORS
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart import progress

WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}
CONFIG = RunConfig.parse(
    {
        "dataset": {"limit": 150},
        "dss_args": {
            "type": "GLISTER", "fraction": 0.2, "select_every": 2, "selector": "fast",
            "warm_start": WARM,
        },
        "dataloader": {"batch_size": 16},
        "train_args": {"num_epochs": 2, "eval_every": 2, "device": "cpu"},
    }
)  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads are divided among processes, and another number of them rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_method_and_seed(tmp_path: Path) -> None:
    seen: list[tuple[str, float, int, bool]] = []

    def on_run(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
        seen.append((method, fraction, seed, record is not None))

    results = compare(CONFIG, seeds=[0, 7], warm_epochs=2, output=tmp_path, on_run=on_run)
    assert read_json(tmp_path / "results.json") == results
    assert (results["schema"], results["kind"], results["seeds"]) == (1, "compare", [0, 7])
    assert [row["method"] for row in results["summary"]] == [
        "random", "rs2", "full", "lipt", "one-worker", "rs2@critical-path", "rs2@total",
        "full-data@total", "soup of lipt",
    ]  # fmt: skip
    assert len(seen) == 2 * len(results["runs"]) == 32
    costs = {run["method"]: run["costs"] for run in results["runs"]}
    alike = [costs[name]["training_passes"] for name in costs if "@" not in name]
    assert alike == [60] * 5
    # LiPT spends 80 + 60 passes on its critical path and 128 + 60 in all; an epoch has 30.
    assert costs["rs2@critical-path"]["passes"] == 150 and costs["rs2@total"]["passes"] == 180
    assert costs["full"]["warmup_passes"] == 300
    assert costs["lipt"]["warmup_critical_passes"] == 80
    assert costs["one-worker"]["warmup_passes"] == 80
    assert {run["status"] for run in results["runs"]} == {"ok"}
    assert results["verdict"] and results["versions"]["torch"]


def test_a_failed_run_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    begun: list[tuple[str, int]] = []

    def on_run(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
        begun.append((method, seed))

    def on_point(point: CurvePoint) -> None:
        if begun[-1] == ("lipt", 1):
            raise RuntimeError("out of luck")

    methods = ["rs2", "lipt", "one-worker"]
    results = compare(
        CONFIG, methods=methods, seeds=[0, 1], output=tmp_path, on_run=on_run, on_point=on_point
    )
    failed = [(r["method"], r["seed"], r["error"]) for r in results["runs"] if r["error"]]
    assert failed == [("lipt", 1, "RuntimeError: out of luck")]
    rows = {row["method"]: row for row in results["summary"]}
    assert (rows["lipt"]["runs"], rows["lipt"]["failed"]) == (1, 1)
    assert rows["rs2"]["runs"] == 2
    assert "prove" in results["verdict"]
    assert read_json(tmp_path / "results.json") == results
    whole = compare(CONFIG, methods=methods, seeds=[0, 1], output=tmp_path, resume=True)
    assert [r["status"] for r in whole["runs"]] == ["ok"] * 6


def test_an_interrupted_comparison_goes_on_and_grows(tmp_path: Path) -> None:
    begun: list[str] = []

    def watched(method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
        if record is None:
            begun.append(method)
            if len(begun) == 3:
                raise KeyboardInterrupt

    methods = ["random", "lipt", "lipt+random"]
    with pytest.raises(KeyboardInterrupt):
        compare(CONFIG, methods=methods, seeds=[0], output=tmp_path, on_run=watched)
    assert begun == methods
    with pytest.raises(ValueError, match="holds results already: resume"):
        compare(CONFIG, methods=methods, seeds=[0], output=tmp_path)
    resumed = compare(
        CONFIG, methods=methods, seeds=[0], output=tmp_path, resume=True, on_run=watched
    )
    assert begun[3:] == ["lipt+random"]  # the others are not made again
    whole = compare(CONFIG, methods=methods, seeds=[0])
    for one, two in zip(resumed["runs"], whole["runs"], strict=True):
        assert one["method"] == two["method"] and one["test_accuracy"] == two["test_accuracy"]
        assert one["costs"]["passes"] == two["costs"]["passes"]
    with pytest.raises(ValueError, match="holds 2 runs that this comparison would not make"):
        compare(CONFIG, methods=["random"], seeds=[0, 1], output=tmp_path, resume=True)
    more = [*methods, "rs2"]
    grown = compare(CONFIG, methods=more, seeds=[0], output=tmp_path, resume=True)
    assert [run["method"] for run in grown["runs"]] == more
    assert grown["runs"][1]["test_accuracy"] == whole["runs"][1]["test_accuracy"]
    results = read_json(tmp_path / "results.json")
    results["runs"][0]["config"]["scheduler"]["type"] = "cosine_annealing"
    write_json(tmp_path / "results.json", results)
    with pytest.raises(ValueError, match=r"another learning rate \(type is 'cosine_annealing'"):
        compare(CONFIG, methods=more, seeds=[0], output=tmp_path, resume=True)
    results["runs"][0]["config"]["scheduler"]["type"] = "cosine"
    results["runs"][0]["curve"][0].pop("learning_rate")
    write_json(tmp_path / "results.json", results)
    with pytest.raises(ValueError, match="was written by another version"):
        compare(CONFIG, methods=more, seeds=[0], output=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        ({"optimizer": {"lr": 0.2}}, {}, "config.optimizer.lr is 0.05 there and 0.2 here"),
        ({}, {"warm_epochs": 9}, "terms.warm_epochs is None there and 9 here"),
    ],
)
def test_another_configuration_does_not_go_on_from_these_results(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    compare(CONFIG, methods=["random"], seeds=[0], output=tmp_path)
    with pytest.raises(ValueError, match=named):
        compare(
            CONFIG.updated(**change), methods=["random"], seeds=[0], output=tmp_path, resume=True,
            **options,
        )  # fmt: skip


def test_other_code_of_an_imported_module_does_not_go_on_from_these_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "module_of_the_comparison.py"
    module.write_text("one = 1\n")
    config = RunConfig.parse({**CONFIG.given(), "imports": [module.stem]})
    config = config.updated(train_args={"num_epochs": 1})
    runs, alone = tmp_path / "runs", tmp_path / "alone"
    compare(config, methods=["random"], seeds=[0], output=runs)
    run(config, output=alone)
    compare(config, methods=["random"], seeds=[0], output=runs, resume=True)
    run(config, output=alone, resume=True)
    module.write_text("one = 2\n")
    linecache.clearcache()
    with pytest.raises(ValueError, match=f"code.{module.stem} is "):
        compare(config, methods=["random"], seeds=[0], output=runs, resume=True)
    with pytest.raises(ValueError, match=f"code.{module.stem} is "):
        run(config, output=alone, resume=True)


def test_processes_give_the_same_results_and_a_shared_warm_start_is_billed_to_all(
    one_thread: None,
) -> None:
    methods = ["random", "lipt", "lipt+random/scratch"]
    given = {"methods": methods, "seeds": [1], "fractions": [0.2, 0.3]}
    seen: set[tuple[str, float, int]] = set()

    def on_wait(running: Sequence[tuple[PlannedRun, CurvePoint | None]]) -> None:
        assert len(running) <= 2
        seen.update(one.key for one, _ in running)

    alone = compare(CONFIG, **given)  # type: ignore[arg-type]
    two = compare(CONFIG, **given, jobs=2, on_wait=on_wait)  # type: ignore[arg-type]
    assert seen and seen <= {(r["method"], r["fraction"], r["seed"]) for r in two["runs"]}
    for one, other in zip(alone["runs"], two["runs"], strict=True):
        assert one["status"] == "ok", one["error"]
        for name in ("method", "fraction", "seed", "test_accuracy"):
            assert one[name] == other[name]
        for name in ("warmup_passes", "warmup_critical_passes", "training_passes"):
            assert one["costs"][name] == other["costs"][name]
        bill = one["planned"]
        assert one["costs"]["warmup_passes"] == bill["warmup"]
        assert one["costs"]["training_passes"] == bill["training"]
    separate = compare(CONFIG, methods=["lipt+random/scratch"], seeds=[1], fractions=[0.3])
    assert separate["runs"][0]["test_accuracy"] == alone["runs"][-1]["test_accuracy"]


def test_where_runs_of_processes_are_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    splits = load_splits(CONFIG)
    one, other = plan_comparison(CONFIG, splits, parse_methods(["random", "rs2"]), [3]).runs[:2]
    ours, theirs = multiprocessing.Pipe()
    child: Any = object.__new__(_Child)
    child.pipe, child.unit, child.point = ours, [one, other], None
    theirs.send(CurvePoint(7, "subset", 9, 9, 1.0, 1.0, 0.1, None, 0.5, None))
    assert list(child.hear()) == []
    said = io.StringIO()
    Display(Console(file=said, width=200)).wait([(child.unit[0], child.point), (other, None)])
    assert said.getvalue() == (
        "  seed 3, 20\N{NO-BREAK SPACE}%, random: val 50.0%, epoch 7; "
        "seed 3, 20\N{NO-BREAK SPACE}%, rs2\n"
    )
    theirs.send(record := failed(one, "no luck"))
    assert list(child.hear()) == [(one, record)]
    assert child.unit == [other] and child.point is None


def test_a_death_takes_its_own_run_along_and_the_others_go_on(one_thread: None) -> None:
    deadly = RunConfig.parse({**CONFIG.given(), "imports": ["outside_deadly"]})
    # All but the first share a warm start, so they are made by one process.
    methods = ["random", "lipt", "lipt+deadly", "lipt+random"]
    try:
        runs = compare(deadly, methods=methods, seeds=[0], jobs=2)["runs"]
    finally:
        SELECTORS.unregister("deadly")
        sys.modules.pop("outside_deadly", None)
    assert [one["status"] for one in runs] == ["ok", "ok", "failed", "ok"]
    killed = r"its process \(pid \d+\) was killed by SIGKILL \(often by too little memory\)"
    assert re.fullmatch(killed, runs[2]["error"])
    assert runs[3]["costs"]["warmup_passes"] == runs[1]["costs"]["warmup_passes"]


def test_equal_cost(tmp_path: Path) -> None:
    methods = ["rs2", "lipt+random", "one-worker+rs2"]
    results = compare(CONFIG, methods=methods, seeds=[0], equal="critical-path", budget=300)
    for one in results["runs"]:
        assert one["costs"]["critical_passes"] == pytest.approx(300, abs=15)
    short = compare(CONFIG, methods=["rs2", "lipt"], seeds=[0], equal="total", budget=60)
    assert [one["method"] for one in short["runs"]] == ["rs2"]
    assert "lipt: its warm-up alone takes 128 passes" in short["notes"][0]


def test_a_fraction_may_leave_less_than_one_sample_of_the_smallest_class() -> None:
    config = CONFIG.updated(dataset={"limit": 42}, dss_args={"fraction": 0.24})
    splits = load_splits(config)
    assert int(torch.bincount(labels_of(splits.train)).min()) * 0.24 < 1
    plan = plan_comparison(config, splits, parse_methods(["random"]), [0])
    assert [one.fraction for one in plan.runs] == [0.24]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"methods": ["lpt"]}, "unknown method 'lpt'"),
        ({"methods": []}, "at least one method"),
        ({"seeds": []}, "needs seeds, received none"),
        ({"seeds": [0, 1, 0]}, "seeds that repeat .*: 0; give each once"),
        ({"fractions": [0.1, 0.1]}, "fractions that repeat"),
        ({"fractions": [1.5]}, r"lie in \(0, 1\], received 1.5"),
        (
            {"fractions": [0.01]},
            r"each of the 10 classes, and fraction 0.01 of 150 gives 1: take at least 0.0667",
        ),
        ({"budget": 100}, "say equal too"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_what_cannot_be_compared(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compare(CONFIG, **options)


@pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")
def test_the_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(strategy: str = "GLISTER") -> RunConfig:
        return demo_config(strategy).updated(
            dataset={"limit": 500}, train_args={"num_epochs": 2}, dss_args={"warm_start": WARM}
        )

    # The whole demo takes two minutes, and has no options to make it smaller.
    monkeypatch.setattr(demo_module, "demo_config", small)
    monkeypatch.setattr(demo_module, "METHODS", ("rs2", "lipt"))
    monkeypatch.setattr(demo_module, "OTHER_STRATEGIES", ("GradMatch",))
    results, others = demo(tmp_path, seeds=1)
    assert [run["status"] for run in results["runs"]] == ["ok", "ok"]
    assert [record.method for record in others] == ["GradMatch after LiPT"]
    assert others[0].costs.selections == 1
    again, _ = demo(tmp_path, seeds=1)  # its own results make room
    assert again["verdict"] == results["verdict"]
    made = read_json(tmp_path / "results.json")
    made["config"]["dataset"]["name"] = "cifar10"
    write_json(tmp_path / "results.json", made, seal=True)
    with pytest.raises(ValueError, match="results of another run: choose another --output"):
        demo(tmp_path, seeds=1)
    assert read_json(tmp_path / "results.json") == made


def test_the_demo_does_without_cords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "cords_version", lambda: None)
    assert not uses_cords(demo_config(), [])
    monkeypatch.setattr(demo_module, "cords_version", lambda: "0.0.4")
    assert uses_cords(demo_config(), [])


def test_the_demo_saves_at_least_four_fifths_of_the_critical_path() -> None:
    warm = demo_config().dss_args.warm_start
    assert warm is not None
    images = 1294
    shard_steps = math.ceil(math.ceil(images / warm.num_workers) / warm.batch_size)
    critical = (warm.common_steps + warm.epochs * shard_steps) * warm.batch_size
    assert demo_module.FULL_EPOCHS * images >= 5 * critical
