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
from lipt_cords.experiments.report.words import soup_notes, verdict

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
    assert list(rows) == ["random", "rs2", "full", "lipt", "soup of lipt"]
    assert (rows["rs2"]["runs"], rows["rs2"]["failed"], rows["rs2"]["accuracy"]) == (1, 1, 0.8)
    assert rows["rs2"]["deviation"] is None
    assert rows["lipt"]["accuracy"] == pytest.approx(0.915)
    assert rows["lipt"]["deviation"] == pytest.approx(0.01)
    only = summarise([FAILED])
    assert only[0]["accuracy"] is None and only[0]["failed"] == 1
    assert verdict(only).text.startswith("No run has ended well")


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


def said_of(runs: list[dict[str, Any]]) -> str:
    said = verdict(summarise(runs))
    return " ".join([said.text, *said.details]).replace("\N{NO-BREAK SPACE}", " ")


def test_the_answer_names_direction_size_cost_proof_and_what_to_do() -> None:
    cheaper = [*runs_of("rs2", [0.85, 0.95], 0, 0), *runs_of("lipt", [0.84, 0.86], 200, 600)]
    assert verdict(summarise(cheaper)).text == (
        "Use RS2: 5.0 points higher than GLISTER after LiPT here, at a seventh of the passes and "
        "a third of the waiting; two seeds do not prove it."
    )
    dearer = [*runs_of("rs2", [0.80, 0.81], 0, 0), *runs_of("lipt", [0.81, 0.82], 200, 600)]
    assert verdict(summarise(dearer)).text == (
        "Run more seeds before you pay for GLISTER after LiPT: it is 1.0 points higher than RS2 "
        "here, at 7.0 times the passes and 3.0 times the waiting; two seeds do not prove it."
    )
    alike = [*runs_of("random", [0.8, 0.9], 0, 0), *runs_of("lipt", [0.8, 0.9], 200, 600)]
    assert verdict(summarise(alike)).text == (
        "Use random: it reaches what GLISTER after LiPT reaches here, at a seventh of the passes "
        "and a third of the waiting."
    )
    assert (
        verdict(summarise(alike))
        .details[0]
        .endswith("It is as accurate as random, at 7.0 times the passes and 3.0 times the waiting.")
    )
    without = [
        *runs_of("random", [0.80, 0.81, 0.82], 0, 0),
        *runs_of("rs2", [0.9, 0.91, 0.92], 0, 0),
    ]
    assert verdict(summarise(without)).text == (
        "Use RS2: 10.0 points higher than random here, at the same passes; three seeds prove it."
    )


def test_without_lipt_the_answer_is_about_what_chooses() -> None:
    rivals = [
        *runs_of("random", [0.70, 0.71, 0.72], 0, 0),
        *runs_of("rs2", [0.80, 0.81, 0.82], 0, 0),
        *runs_of("full-data", [0.95, 0.96, 0.97], 1900, 1900),
    ]
    chosen = runs_of("none+selector/static", [0.90, 0.91, 0.92], 0, 0)
    assert said_of([*rivals, *chosen]) == (
        "Use Covering: 10.0 points higher than RS2 here, at the same passes; three seeds "
        "prove it. All data is 5.0 points higher than Covering, at 20 times the passes. Covering "
        "reached 91.0 ± 1.0 %. It is 20.0 points higher than random, at "
        "the same passes; three seeds prove it. It is 10.0 points higher than RS2, at the same "
        "passes; three seeds prove it. It is 5.0 points lower than all data, at 5 % of the passes; "
        "three seeds prove it."
    )
    assert not verdict(summarise([*rivals[:3], *chosen])).details
    worse = runs_of("none+covering", [0.75, 0.76, 0.77], 0, 0)
    assert verdict(summarise([*rivals, *worse])).text.startswith(
        "Use RS2: 5.0 points higher than none+covering here, at the same passes"
    )
    twice = [{**run, "fraction": f} for f in (0.01, 0.1) for run in [*rivals, *chosen]]
    for run in twice:
        run["test_accuracy"] -= 0.1 * (run["fraction"] == 0.1 and run["method"] != "rs2")
    said = verdict(summarise(twice))
    assert said.text.startswith("At 1\N{NO-BREAK SPACE}% of the data, use Covering")
    assert "At 10\N{NO-BREAK SPACE}% of the data, use" in said.details[1] and not said.outcomes


def test_with_lipt_a_chosen_subset_stands_beside_a_random_one() -> None:
    covering = runs_of("none+covering", [0.80, 0.81, 0.82], 0, 0)
    runs = [*RUNS, *[{**run, "label": "Covering"} for run in covering]]
    assert (
        "Covering, without a warm-up, is 9.0 points higher than random, at the same passes; three "
        "seeds prove it." in said_of(runs)
    )
    assert "without a warm-up" not in said_of(RUNS)


def test_the_rest_tells_what_the_best_with_lipt_shows() -> None:
    text = said_of(RUNS)
    assert "GLISTER after LiPT reached 91.5 ± 1.0 %." in text
    assert (
        "It is 0.5 points higher than GLISTER after full data, at 82 % of the passes and 27 % of "
        "the waiting; three seeds do not prove it." in text
    )
    assert "It is 11.5 points higher than RS2, at 9.0 times the passes and" in text
    assert "one seed proves nothing" in text


@pytest.mark.parametrize(
    ("one_worker", "words"),
    [
        ([0.80, 0.81, 0.82], "prove it: merging workers pays here"),
        ([0.90, 0.91, 0.92], "do not prove it: that merging helps is not shown"),
        ([0.97, 0.98, 0.99], "prove it: that merging helps is not shown"),
    ],
)
def test_what_is_said_of_controls_does_not_flatter(one_worker: list[float], words: str) -> None:
    runs = [*RUNS, *runs_of("one-worker", one_worker, 200, 200)]
    runs += runs_of("lipt+random", [0.90, 0.90, 0.91], 200, 800)
    text = said_of(runs)
    assert words in text
    assert "do not prove it: that choosing the subset helps is not shown" in text


def test_numbers_stay_short() -> None:
    texts = [count(value) for value in (0, 99_999, 100_000, 999_999, 12_345_678, 123_456_789)]
    assert texts == ["0", "99,999", "100k", "1000k", "12.3M", "123M"]


def test_a_named_number_of_full_epochs_is_the_warm_up_that_lipt_replaces() -> None:
    runs = [*runs_of("full=5", [0.90, 0.91], 1000, 1000), *runs_of("lipt", [0.92, 0.93], 200, 800)]
    runs += runs_of("full+random", [0.95, 0.96], 1000, 1000)
    assert "It is 2.0 points higher than full=5, at 82 % of the passes" in said_of(runs)


def with_soup(trained: list[float], soup: float, method: str = "lipt", **more: Any) -> list[Any]:
    runs = runs_of(method, trained, 200, 800, **more)
    for run in runs:
        run["curve"][0]["test_accuracy"] = soup
    return runs


def test_a_soup_stands_alone_beside_what_is_trained_from_it() -> None:
    runs = with_soup([0.90, 0.92], 0.95) + with_soup([0.97, 0.98], 0.95, "lipt+random")
    runs += with_soup([0.50, 0.52], 0.10, "lipt/scratch") + runs_of("rs2", [0.80, 0.81], 0, 0)
    rows = {row["method"]: row for row in summarise(runs)}
    soup = rows["soup of lipt"]
    assert list(rows)[-1] == "soup of lipt" and soup["label"] == "LiPT's soup alone"
    assert (soup["accuracy"], soup["runs"], soup["deviation"]) == (0.95, 2, 0.0)
    assert (soup["critical_passes"], soup["passes"], soup["seconds"]) == (200, 800, 1.0)
    (note,) = soup_notes(list(rows.values()))
    assert note.startswith("GLISTER after LiPT: the soup alone is 4.0 points better than after")
    only = with_soup([0.90, 0.92], 0.95) + runs_of("rs2", [0.80, 0.81], 0, 0)
    assert verdict(summarise(only)).text.startswith(
        "Use LiPT's soup alone: 4.0 points higher than GLISTER after LiPT here"
    )


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
    assert text == (
        "At 1 % of the data, use GLISTER after LiPT: 20.0 points higher than RS2 here, at 9.0 "
        "times the passes and 3.0 times the waiting; three seeds prove it. LiPT pays at 1 %; it "
        "does not pay at 10 %; it is not proven either way at 30 % of the data."
    )
    first, second, third = (part.replace("\N{NO-BREAK SPACE}", " ") for part in said.details)
    assert first.startswith("At 1 %: GLISTER after LiPT reached 81.0 ± 1.0 %.")
    assert second.startswith("At 10 % of the data, use RS2: 10.0 points higher than GLISTER after")
    assert third.startswith("At 30 % of the data, use RS2: ")


def test_a_verdict_asks_for_rivals_that_cost_as_little() -> None:
    # Full data is far better, and dearer: it is no reason against LiPT, and no rival of it.
    dearer = [*runs_of("full", [0.9, 0.91], 5000, 5000), *runs_of("lipt", [0.8, 0.81], 200, 800)]
    said = verdict(summarise(dearer))
    assert said.outcomes == {None: "open"} and "add random and rs2" in said.text
    equal = [*dearer, *runs_of("rs2@total", [0.85, 0.86], 0, 801)]
    said = verdict(summarise(equal))
    assert said.outcomes == {None: "loses"}
    assert said.text.startswith("Use RS2, equal passes: 5.0 points higher than GLISTER after LiPT")


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([FAILED], "No run has ended well"),
        (runs_of("rs2", [0.5, 0.6], 0, 0), "RS2 reached 55.0"),
        (runs_of("rs2", [0.5, 0.6], 0, 0), "There is nothing to compare it with"),
        (
            [*runs_of("rs2", [0.5], 0, 0), *runs_of("lipt", [0.9], 90, 90)],
            "Run more seeds before you pay for GLISTER after LiPT: it is 40.0 points higher than "
            "RS2 here, at 1.9 times the passes; one seed proves nothing.",
        ),
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
        ({"rs2": [0.880, 0.881, 0.882], "one-worker": [0.70]}, "open", "one seed proves nothing"),
        ({"rs2": [0.900, 0.900, 0.900]}, "open", "0.1 points higher than RS2 here"),
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
    assert said.outcomes == {None: outcome} and words in said.text


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
