"""Tables, sentences and plots: computed from the figures, and honest about them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lipt_cords.files import write_json
from lipt_cords.report import comparison_table, count, reading, summarise, write_report

COSTS = {
    "warmup_seconds": 1.0, "warmup_critical_seconds": 0.5, "selection_seconds": 2.0,
    "training_seconds": 3.0, "seconds": 6.0,
}  # fmt: skip


def _runs(method: str, accuracies: list[float], critical: int, total: int) -> list[dict[str, Any]]:
    labels = {"full": "GLISTER after full data", "lipt": "GLISTER after LiPT"}
    passes = {"warmup_critical_passes": critical, "warmup_passes": total}
    passes |= {"passes": total + 100, "critical_passes": critical + 100}
    return [
        {
            "method": method,
            "label": labels.get(method, method),
            "seed": seed,
            "status": "ok",
            "error": None,
            "test_accuracy": accuracy,
            "costs": {**COSTS, **passes},
            "curve": [
                _point(0, critical, total, 0.1, "start"),
                _point(1, critical + 50, total + 50, accuracy - 0.1, "subset"),
                _point(2, critical + 100, total + 100, accuracy, "subset"),
            ],
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def _point(epoch: int, critical: int, total: int, accuracy: float, phase: str) -> dict[str, Any]:
    seconds = {"critical_seconds": 0.01 * critical, "seconds": 0.01 * total}
    passes = {"critical_passes": critical, "passes": total}
    return {"epoch": epoch, "phase": phase, "test_accuracy": accuracy, **passes, **seconds}


FAILED = {"method": "rs2", "label": "RS2", "seed": 1, "status": "failed", "error": "ValueError: no"}
RUNS = [
    *_runs("random", [0.70, 0.72, 0.74], 0, 0),
    *_runs("rs2", [0.80], 0, 0),
    FAILED,
    *_runs("full", [0.90, 0.91, 0.92], 1000, 1000),
    *_runs("lipt", [0.905, 0.915, 0.925], 200, 800),
]


def test_failed_runs_are_counted_and_never_averaged() -> None:
    rows = {row["method"]: row for row in summarise(RUNS)}
    assert list(rows) == ["random", "rs2", "full", "lipt"]
    assert (rows["rs2"]["runs"], rows["rs2"]["failed"], rows["rs2"]["accuracy"]) == (1, 1, 0.8)
    assert rows["rs2"]["deviation"] is None
    assert rows["lipt"]["accuracy"] == pytest.approx(0.915)
    assert rows["lipt"]["deviation"] == pytest.approx(0.01)
    only = summarise([FAILED])
    assert only[0]["accuracy"] is None and only[0]["failed"] == 1
    assert "1 run failed" in reading(only)


def test_the_table_fits_80_columns() -> None:
    runs = [
        *RUNS,
        *_runs("one-worker", [0.5], 12_345_678, 123_456_789),
        {**FAILED, "method": "x", "label": "GradMatch after one worker"},
    ]
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison_table(summarise(runs)))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = stream.getvalue()
    assert "91.5 ± 1.0" in text and "12.3M" in text and "(1 failed)" in text
    assert "…" not in text


def test_the_reading_is_computed() -> None:
    text = reading(summarise(RUNS))
    assert "Highest mean accuracy: GLISTER after LiPT, 91.5 ± 1.0 %." in text
    assert "0.5 points above GLISTER after full data (within one pooled deviation of 1.0)" in text
    assert "5.0 times fewer sample-passes on the critical path, 1.2 times fewer over all" in text
    assert "11.5 points above rs2 without a warm-up (one seed, no spread" in text
    assert "1 run failed" in text


def test_a_dearer_warm_up_is_not_called_cheaper() -> None:
    runs = [*_runs("full", [0.90, 0.91], 1000, 1000), *_runs("lipt", [0.91], 2000, 8000)]
    text = reading(summarise(runs))
    assert "2.0 times more sample-passes on the critical path, 8.0 times more over all" in text
    assert text.endswith("1 seed a method: without a spread no difference is a finding.")


def test_a_pooled_deviation_weighs_each_method_by_its_seeds() -> None:
    runs = [*_runs("full", [0.80, 0.90], 10, 10), *_runs("lipt", [0.90] * 9, 10, 10)]
    # Variances 0.005 with one degree of freedom, and 0 with eight.
    assert "pooled deviation of 2.4" in reading(summarise(runs))


@pytest.mark.parametrize(
    ("one_worker", "words"),
    [
        ([0.80, 0.81, 0.82], "merging workers pays here"),
        ([0.90, 0.91, 0.92], "merging workers buys nothing that shows here"),
        ([0.97, 0.98, 0.99], "merging workers buys nothing that shows here"),
    ],
)
def test_the_reading_does_not_flatter(one_worker: list[float], words: str) -> None:
    runs = [*RUNS, *_runs("one-worker", one_worker, 200, 200)]
    runs += _runs("lipt+random", [0.95, 0.95, 0.96], 200, 800)
    text = reading(summarise(runs))
    assert words in text
    assert "the warm model, not the choice of the subset, earns the accuracy here" in text


def test_numbers_stay_short() -> None:
    texts = [count(value) for value in (0, 99_999, 100_000, 999_999, 12_345_678, 123_456_789)]
    assert texts == ["0", "99,999", "100k", "1000k", "12.3M", "123M"]


def test_plots_are_drawn_and_repeatable(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"schema": 1, "kind": "compare", "runs": RUNS})
    files = write_report(tmp_path)
    assert sorted(path.name for path in files) == [
        "accuracy_vs_passes.png", "accuracy_vs_passes.svg",
        "accuracy_vs_time.png", "accuracy_vs_time.svg",
    ]  # fmt: skip
    for path in files:
        head = path.read_bytes()[:300]
        assert head.startswith(b"\x89PNG") or b"<?xml" in head
    first = (tmp_path / "accuracy_vs_passes.png").read_bytes()
    write_report(tmp_path)
    assert (tmp_path / "accuracy_vs_passes.png").read_bytes() == first


def test_a_report_needs_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*results\.json"):
        write_report(tmp_path)
    write_json(tmp_path / "results.json", {"kind": "run"})
    with pytest.raises(ValueError, match="holds no comparison"):
        write_report(tmp_path)


def test_a_named_number_of_full_epochs_is_the_warm_up_that_lipt_replaces() -> None:
    runs = [*_runs("full=5", [0.90, 0.91], 1000, 1000), *_runs("lipt", [0.92, 0.93], 200, 800)]
    said = reading(summarise(runs))
    assert "GLISTER after LiPT is 2.0 points above full=5" in said
    alone = reading(summarise([*_runs("rs2", [0.5, 0.6], 0, 0), *_runs("lipt", [0.9, 0.8], 1, 2)]))
    assert "GLISTER after LiPT is 30.0 points above rs2" in alone


def test_several_fractions_are_told_apart(tmp_path: Path) -> None:
    runs = [
        {**run, "fraction": fraction}
        for fraction in (0.01, 0.1)
        for run in _runs("lipt", [0.5 + fraction, 0.6 + fraction], 1, 2)
    ]
    rows = summarise(runs)
    assert [row["fraction"] for row in rows] == [0.01, 0.1]
    assert rows[1]["accuracy"] == pytest.approx(0.65)
    assert [part[:20] for part in reading(rows).split("\n\n")] == [
        "At 0.01 of the data:", "At 0.1 of the data: ",
    ]  # fmt: skip
    write_json(tmp_path / "results.json", {"kind": "compare", "runs": runs})
    names = {path.name for path in write_report(tmp_path)}
    assert {"accuracy_vs_passes_0.01.svg", "accuracy_vs_passes_0.1.svg"} <= names
