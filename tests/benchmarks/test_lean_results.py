"""Committed results hold what tables read, and no raw runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import RESULTS
from benchmarks.lean import LEAN, lean
from benchmarks.tables.question import accuracies, mean, merges, runs_of
from lipt_cords.base.files import read_json, write_json
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import read_results

COMMITTED = sorted(RESULTS.glob("*.json"))


def comparison() -> dict[str, Any]:
    """What ``compare`` gives, of one run with a warm start and one without."""
    report = {"workers": [{"worker": 3, "loss": 0.5}], "rounds": [{"round": 1, "seconds": 2.0}]}
    runs = [
        RunRecord("lipt", 0, {}, test_accuracy=0.5, warm_start={**report, "flops": 7}),
        RunRecord("random", 0, {}, test_accuracy=0.25, subsets={"shown": [{"png": "aa"}]}),
    ]
    return {
        "schema": 1, "kind": "compare", "command": "a", "machine": {"threads": 1}, "seeds": [0],
        "summary": [{"deviation": 0.1}], "runs": [run.to_dict() for run in runs],
    }  # fmt: skip


def test_a_lean_comparison_keeps_what_tables_read_and_says_what_it_left_out():
    whole = comparison()
    found = lean(whole)
    assert {name: found[name] for name in ("command", "machine", "seeds", "summary")} == {
        name: whole[name] for name in ("command", "machine", "seeds", "summary")
    }
    first, second = found["runs"]
    assert first["costs"] == whole["runs"][0]["costs"]
    assert first["warm_start"] == {"workers": [{"worker": 3}], "rounds": [{"round": 1}]}
    assert second["warm_start"] is None
    left = {"config", "curve", "subsets", "val_accuracy", "peak_memory_bytes", "provenance"}
    assert not left & (first.keys() | second.keys())
    assert found["left_out"] == [*sorted(left), "of warm_start all but workers and rounds"]
    assert whole == comparison()  # which is as it was


def test_parts_are_made_lean_once_and_other_results_stay():
    found = lean({"kind": "evidence", "parts": [comparison()]})
    assert found["parts"][0]["kind"] == LEAN
    assert lean(found) == found
    other = {"kind": "frontier", "runs": [{"curve": [1]}]}
    assert lean(other) == other


def test_tables_read_the_same_of_a_real_comparison_lean_and_whole():
    warm = {
        "num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16, "rounds": 3,
        "outer": "nesterov",
    }  # fmt: skip
    config = {
        "dataset": {"limit": 150}, "dataloader": {"batch_size": 16},
        "dss_args": {"type": "GLISTER", "fraction": 0.2, "selector": "fast", "warm_start": warm},
        "train_args": {"num_epochs": 2, "eval_every": 2, "device": "cpu"},
    }  # fmt: skip
    whole = {"parts": [compare(RunConfig.parse(config), methods=["random", "lipt"], seeds=[0])]}
    small = lean(whole)
    read = [
        [
            (key, accuracies(runs), merges(runs), [mean(runs, cost) for cost in runs[0]["costs"]])
            for key, runs in runs_of(one).items()
        ]
        for one in (small, whole)
    ]
    assert read[0] == read[1]
    assert [merges for _, _, merges, _ in read[0]] == [0, 3]


def test_a_lean_comparison_is_not_taken_for_a_whole_one(tmp_path):
    path = write_json(tmp_path / "results.json", lean(comparison()))
    with pytest.raises(ValueError, match="holds no comparison and no run"):
        read_results(path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_are_lean(path: Path):
    found = read_json(path)
    assert lean(found) == found
    assert '"png"' not in json.dumps(found)


def test_committed_results_are_few_bytes():
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 3e6
