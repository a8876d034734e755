"""Comparisons: every method and seed, failures listed, results written after each run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lipt_cords import compare as compare_module
from lipt_cords import demo as demo_module
from lipt_cords.compare import compare
from lipt_cords.cords_plugin import cords_version
from lipt_cords.demo import demo, demo_config
from lipt_cords.files import read_json
from lipt_cords.records import RunRecord
from lipt_cords.run_config import RunConfig
from lipt_cords.runs import run

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


def test_every_method_and_seed(tmp_path: Path) -> None:
    seen: list[tuple[str, int, bool]] = []

    def on_run(method: str, seed: int, record: RunRecord | None) -> None:
        seen.append((method, seed, record is not None))

    results = compare(CONFIG, seeds=[0, 7], warm_epochs=2, output=tmp_path, on_run=on_run)
    assert read_json(tmp_path / "results.json") == results
    assert (results["schema"], results["kind"], results["seeds"]) == (1, "compare", [0, 7])
    assert [row["method"] for row in results["summary"]] == [
        "random", "rs2", "full", "lipt", "one-worker", "rs2@critical-path", "rs2@total",
    ]  # fmt: skip
    assert len(seen) == 2 * len(results["runs"]) == 28
    costs = {run["method"]: run["costs"] for run in results["runs"]}
    alike = [costs[name]["training_passes"] for name in costs if "@" not in name]
    assert alike == [60] * 5
    # LiPT spends 80 + 60 passes on its critical path and 128 + 60 in all; an epoch has 30.
    assert costs["rs2@critical-path"]["passes"] == 150 and costs["rs2@total"]["passes"] == 180
    assert costs["full"]["warmup_passes"] == 300
    assert costs["lipt"]["warmup_critical_passes"] == 80
    assert costs["one-worker"]["warmup_passes"] == 80
    assert {run["status"] for run in results["runs"]} == {"ok"}
    assert results["reading"] and results["versions"]["torch"]


def test_a_failed_run_is_listed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(config: RunConfig, **options: Any) -> RunRecord | None:
        if options["method"] == "lipt" and options["seed"] == 1:
            raise RuntimeError("out of luck")
        return run(config, **options)

    monkeypatch.setattr(compare_module, "run", fragile)
    methods = ["rs2", "lipt", "one-worker"]
    results = compare(CONFIG, methods=methods, seeds=[0, 1], output=tmp_path)
    failed = [(r["method"], r["seed"], r["error"]) for r in results["runs"] if r["error"]]
    assert failed[0] == ("lipt", 1, "RuntimeError: out of luck")
    assert failed[1][:2] == ("one-worker", 1) and "put lipt before them" in failed[1][2]
    rows = {row["method"]: row for row in results["summary"]}
    assert (rows["lipt"]["runs"], rows["lipt"]["failed"]) == (1, 1)
    assert rows["rs2"]["runs"] == 2
    assert "2 runs failed" in results["reading"]
    assert read_json(tmp_path / "results.json") == results


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="unknown method 'lpt'"):
        compare(CONFIG, methods=["lpt"])
    with pytest.raises(ValueError, match="at least one method and one seed"):
        compare(CONFIG, seeds=[])
    with pytest.raises(ValueError, match="^one-worker, rs2@total: .* put lipt before them"):
        compare(CONFIG, methods=["one-worker", "rs2@total", "lipt"])


@pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")
def test_the_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(strategy: str = "GLISTER") -> RunConfig:
        return demo_config(strategy).updated(
            dataset={"limit": 500}, train_args={"num_epochs": 2}, dss_args={"warm_start": WARM}
        )

    monkeypatch.setattr(demo_module, "demo_config", small)
    monkeypatch.setattr(demo_module, "METHODS", ("rs2", "lipt"))
    monkeypatch.setattr(demo_module, "OTHER_STRATEGIES", ("GradMatch",))
    results, others = demo(tmp_path, seeds=1)
    assert [run["status"] for run in results["runs"]] == ["ok", "ok"]
    assert [record.method for record in others] == ["GradMatch after LiPT"]
    assert others[0].costs.selections == 1


def test_the_demo_saves_at_least_four_fifths_of_the_critical_path() -> None:
    warm = demo_config().dss_args.warm_start
    assert warm is not None
    images = 1294
    shard_steps = math.ceil(math.ceil(images / warm.num_workers) / warm.batch_size)
    critical = (warm.common_steps + warm.epochs * shard_steps) * warm.batch_size
    assert demo_module.FULL_EPOCHS * images >= 5 * critical
