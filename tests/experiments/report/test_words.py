"""Tables and sentences: computed from the figures, and honest about them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from report_material import runs_of
from rich.console import Console

from lipt_cords.experiments.report.summary import count, summarise
from lipt_cords.experiments.report.terminal import comparison_table
from lipt_cords.experiments.report.words import reading, verdict

FAILED = {"method": "rs2", "label": "RS2", "seed": 1, "status": "failed", "error": "ValueError: no"}
RUNS = [
    *runs_of("random", [0.70, 0.72, 0.74], 0, 0),
    *runs_of("rs2", [0.80], 0, 0),
    FAILED,
    *runs_of("full", [0.90, 0.91, 0.92], 1000, 1000),
    *runs_of("lipt", [0.905, 0.915, 0.925], 200, 800),
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
        *runs_of("one-worker", [0.5], 12_345_678, 123_456_789),
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
    assert "11.5 points above RS2 without a warm-up (one seed, no spread" in text
    assert "1 run failed" in text


def test_a_dearer_warm_up_is_not_called_cheaper() -> None:
    runs = [*runs_of("full", [0.90, 0.91], 1000, 1000), *runs_of("lipt", [0.91], 2000, 8000)]
    text = reading(summarise(runs))
    assert "2.0 times more sample-passes on the critical path, 8.0 times more over all" in text
    assert text.endswith("1 seed a method: without a spread no difference is a finding.")


def test_a_pooled_deviation_weighs_each_method_by_its_seeds() -> None:
    runs = [*runs_of("full", [0.80, 0.90], 10, 10), *runs_of("lipt", [0.90] * 9, 10, 10)]
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
    runs = [*RUNS, *runs_of("one-worker", one_worker, 200, 200)]
    runs += runs_of("lipt+random", [0.95, 0.95, 0.96], 200, 800)
    text = reading(summarise(runs))
    assert words in text
    assert "the warm model, not the choice of the subset, earns the accuracy here" in text


def test_numbers_stay_short() -> None:
    texts = [count(value) for value in (0, 99_999, 100_000, 999_999, 12_345_678, 123_456_789)]
    assert texts == ["0", "99,999", "100k", "1000k", "12.3M", "123M"]


def test_a_named_number_of_full_epochs_is_the_warm_up_that_lipt_replaces() -> None:
    runs = [*runs_of("full=5", [0.90, 0.91], 1000, 1000), *runs_of("lipt", [0.92, 0.93], 200, 800)]
    said = reading(summarise(runs))
    assert "GLISTER after LiPT is 2.0 points above full=5" in said
    alone = reading(
        summarise([*runs_of("rs2", [0.5, 0.6], 0, 0), *runs_of("lipt", [0.9, 0.8], 1, 2)])
    )
    assert "GLISTER after LiPT is 30.0 points above RS2" in alone


def test_several_fractions_are_told_apart() -> None:
    runs = [
        {**run, "fraction": fraction}
        for fraction in (0.01, 0.1)
        for run in runs_of("lipt", [0.5 + fraction, 0.6 + fraction], 1, 2)
    ]
    rows = summarise(runs)
    assert [row["fraction"] for row in rows] == [0.01, 0.1]
    assert rows[1]["accuracy"] == pytest.approx(0.65)
    assert [part[:20] for part in reading(rows).split("\n\n")] == [
        "At 0.01 of the data:", "At 0.1 of the data: ",
    ]  # fmt: skip


def at(fraction: float, lipt: list[float], rs2: list[float], **more: list[float]) -> list[Any]:
    runs = [*runs_of("rs2", rs2, 0, 0, fraction), *runs_of("lipt", lipt, 200, 800, fraction)]
    for name, accuracies in more.items():
        runs += runs_of(name, accuracies, 1000, 1000, fraction)
    return runs


def test_a_verdict_says_where_it_pays_where_not_and_where_it_is_open() -> None:
    runs = at(0.01, [0.80, 0.81, 0.82], [0.60, 0.61, 0.62], full=[0.83, 0.84, 0.85])
    runs += at(0.1, [0.80, 0.81, 0.82], [0.90, 0.91, 0.92])
    runs += at(0.3, [0.80, 0.85, 0.90], [0.80, 0.86, 0.90])
    said = verdict(summarise(runs))
    assert said.outcomes == {0.01: "pays", 0.1: "loses", 0.3: "open"} and said.fraction == 0.01
    text = said.text.replace("\N{NO-BREAK SPACE}", " ")
    assert text.startswith(
        "LiPT pays at 1 %; it does not pay at 10 %; it cannot be distinguished from rivals that "
        "cost no more at 30 % of the data. At 1 %, GLISTER after LiPT reached 81.0 ± 1.0 % in "
        "100 % of the time, 82 % of the passes and 27 % of the critical path of GLISTER after full "
        "data, which reached 84.0 ± 1.0 %; RS2 61.0 ± 1.0 % without a warm-up."
    )
    assert text.endswith("RS2, is 20.0 points worse.")


def test_a_verdict_asks_for_rivals_that_cost_as_little() -> None:
    # Full data is far better, and dearer: it is no reason against LiPT, and no rival of it.
    dearer = [*runs_of("full", [0.9, 0.91], 5000, 5000), *runs_of("lipt", [0.8, 0.81], 200, 800)]
    said = verdict(summarise(dearer))
    assert said.outcomes == {None: "open"} and "add random and rs2" in said.text
    equal = [*dearer, *runs_of("rs2@total", [0.85, 0.86], 0, 801)]
    said = verdict(summarise(equal))
    assert said.outcomes == {None: "loses"}
    assert "RS2, all of LiPT's passes, which makes no more passes in all, is 5.0" in said.text


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([FAILED], "No run has ended well"),
        (runs_of("rs2", [0.5, 0.6], 0, 0), "Highest mean accuracy: RS2, 55.0"),
        (runs_of("lipt", [0.5, 0.6], 0, 0), "There is nothing to compare it with"),
        ([*runs_of("rs2", [0.5], 0, 0), *runs_of("lipt", [0.9], 1, 2)], "With one seed a method"),
    ],
)
def test_a_verdict_without_evidence_says_so(runs: list[dict[str, Any]], words: str) -> None:
    said = verdict(summarise(runs))
    assert words in said.text and "pays" not in said.outcomes.values()


@pytest.mark.parametrize(
    ("rivals", "outcome", "words"),
    [
        # The highest rival is unclear, and another is clearly better: that one decides.
        ({"rs2": [0.85, 0.95, 0.99], "random": [0.920, 0.921, 0.922]}, "loses", "random"),
        # Clearly better than the highest, and the noisy one is open.
        ({"rs2": [0.880, 0.881, 0.882], "one-worker": [0.80, 0.88, 0.93]}, "open", "one worker"),
        ({"rs2": [0.880, 0.881, 0.882], "one-worker": [0.70]}, "open", "With one seed"),
        ({"rs2": [0.900, 0.900, 0.900]}, "open", "is open: they are 0.1 points apart"),
        ({"rs2": [0.880, 0.881, 0.882]}, "pays", "RS2"),
    ],
)
def test_a_verdict_names_the_rival_that_decides(
    rivals: dict[str, list[float]], outcome: str, words: str
) -> None:
    runs = runs_of("lipt", [0.900, 0.901, 0.902], 200, 800)
    for name, accuracies in rivals.items():
        runs += runs_of(name, accuracies, 0, 700)
    said = verdict(summarise(runs))
    assert said.outcomes == {None: outcome} and words in said.text.rpartition("%")[2]


def test_equal_methods_seldom_get_a_verdict() -> None:
    draws = np.random.default_rng(0)
    found = []
    for _ in range(300):
        runs = []
        for name in ("lipt", "lipt+rs2", "lipt+random", "rs2", "random"):
            runs += runs_of(name, (0.9 + 0.01 * draws.standard_normal(3)).tolist(), 100, 100)
        found.append(verdict(summarise(runs)).outcomes[None])
    assert found.count("pays") <= 15 and found.count("loses") <= 30


def test_a_fraction_without_rivals_is_not_the_headline_and_a_failed_one_is_named() -> None:
    runs = at(0.1, [0.80, 0.81, 0.82], [0.60, 0.61, 0.62])
    runs += runs_of("lipt", [0.95, 0.96], 200, 800, 0.5)
    runs += runs_of("full", [0.97, 0.98], 5000, 5000, 0.5)
    runs += [*runs_of("rs2", [0.5, 0.6], 0, 0, 0.3), {**FAILED, "method": "lipt", "fraction": 0.3}]
    said = verdict(summarise(runs))
    assert said.fraction == 0.1
    assert "At 30\N{NO-BREAK SPACE}% every run with LiPT failed." in said.text


def test_lipt_is_no_rival_of_its_own_at_equal_cost() -> None:
    runs = [*runs_of("lipt", [0.9, 0.91], 1, 2), *runs_of("lipt@total", [0.8, 0.81], 1, 2)]
    assert "At equal cost" not in reading(summarise(runs))
