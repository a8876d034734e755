"""Reading results back: what belongs together, what does not, and what is not whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from report_material import comparison, runs_of, subsets

from lipt_cords.base.files import write_json
from lipt_cords.experiments.report.page import Report
from lipt_cords.experiments.report.results import load_results

FAILED = {"method": "rs2", "seed": 1, "status": "failed", "error": "ValueError: no"}


def saved(directory: Path, payload: Any) -> Path:
    directory.mkdir(exist_ok=True)
    write_json(directory / "results.json", payload)
    return directory


def test_seeds_run_in_two_places_are_one_comparison(tmp_path: Path) -> None:
    runs = runs_of("lipt", [0.5, 0.6, 0.7], 10, 20)
    one = saved(tmp_path / "one", comparison(runs[:2]))
    two = saved(tmp_path / "two", comparison(runs[2:]))
    assert load_results([one, two]).summary == load_results([two, one]).summary
    assert load_results([one, two]).seeds == [0, 1, 2]
    with pytest.raises(ValueError, match=r"run \('lipt', None, 0\) is there more than once"):
        load_results([one, one])


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("config", "model", "architecture"), "resnet8", "config.model.architecture is 'resnet8'"),
        (("versions", "torch"), "2.6.0", "versions.torch is '2.6.0' there and '2.14.1' here"),
        (("terms", "equal"), "total", "terms.equal is 'total' there and None here"),
        (("python",), "3.10.1", "python is '3.10.1' there"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, place: tuple[str, ...], value: str, words: str
) -> None:
    first = comparison(runs_of("lipt", [0.5], 10, 20))
    other = copy.deepcopy(first)
    part = other
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    directories = [saved(tmp_path / "one", first), saved(tmp_path / "two", other)]
    with pytest.raises(ValueError, match=f"(?s)does not belong in .*: {words}.*apart"):
        load_results(directories)


def test_what_a_reader_must_know_is_noted(tmp_path: Path) -> None:
    runs = [*runs_of("lipt", [0.5], 10, 20, notes=["no GPU here"], revision="abc"), FAILED]
    runs += runs_of("random", [0.5], 10, 20, revision="def")
    notes = load_results([saved(tmp_path, comparison(runs, planned={"runs": 9}))]).notes
    text = "\n".join(notes)
    assert "1 of 3 runs failed" in text and "6 of 9 planned runs are missing" in text
    assert "One seed: there are no bands" in text and "no GPU here" in text
    assert "made at 2 revisions of the source: abc, def" in text
    whole = comparison(runs_of("lipt", [0.5, 0.6], 10, 20), planned={"runs": 2})
    assert load_results([saved(tmp_path, whole)]).notes == []


def broken(**changes: Any) -> dict[str, Any]:
    return comparison([{**runs_of("lipt", [0.5], 10, 20)[0], **changes}])


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"kind": "selection"}, "holds no comparison and no run"),
        ([1, 2], "expected a JSON object"),
        (broken(seed="first"), r"runs\.0\.seed"),
        (broken(costs={"seconds": "long"}), r"runs\.0\.costs"),
        (broken(curve=[{"epoch": 1}]), r"runs\.0\.curve\.0\.phase"),
        (broken(curve=[]), "ended well and has no curve"),
        (broken(test_accuracy=None), "ended well and has no test_accuracy"),
        (broken(test_accuracy="0.5"), r"test_accuracy: Input should be a valid number"),
        (broken(test_accuracy=1.5), "test_accuracy: Input should be less than or equal to 1"),
        (broken(fraction=0.0), "fraction: Input should be greater than 0"),
        (broken(costs={"passes": 1}), "warmup_passes: Field required"),
        (broken(subsets={"size": 3}), "subsets.pool: Field required"),
        (broken(subsets={**subsets(), "overlaps": [0.5]}), "one overlap less than epochs"),
        (broken(subsets={**subsets(), "class_names": ["a"]}), "one name and two counts"),
        (broken(subsets={**subsets(), "size": 999}), "out of a pool of 240"),
        (broken(warm_start={"rounds": [None]}), r"warm_start\.rounds\.0"),
        (broken(notes="abc"), "notes: Input should be a valid list"),
        ({"kind": "compare", "runs": [3]}, r"runs\.0"),
        ({"kind": "compare"}, "runs: Field required"),
        ({**broken(), "machine": 3}, "machine: "),
        ({**broken(), "planned": {"runs": None}}, r"planned\.runs"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path: Path, payload: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_results([saved(tmp_path, payload)])


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one directory"):
        load_results([])
    with pytest.raises(ValueError, match="there are no results in"):
        load_results([tmp_path])
    (tmp_path / "results.json").write_text('{"kind": "compare", "runs": [{"meth')
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results([tmp_path])
    with pytest.raises(ValueError, match="there is no run in these results"):
        Report.of([saved(tmp_path, comparison([]))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "compare", "runs": [{"seed": NaN}]}', "NaN is not finite"),
        ('{"kind": "compare", "runs": [], "x": -1e999}', "-1e999 is not finite"),
        ('{"kind": "compare", "runs": [], "seed": ' + "9" * 400 + "}", "integer of 400 digits"),
        ('{"kind": "compare", "runs": [], "kind": "run"}', "the key 'kind' is there twice"),
        ('{"kind": "compare", "runs": [{"seed": 1', "it may be truncated"),
        ('{"kind": "compare", "x": ' + "[" * 100_000, "valid JSON"),
    ],
)
def test_what_json_lets_through_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_results([tmp_path])


def test_runs_with_and_without_a_fraction_and_other_machines(tmp_path: Path) -> None:
    mixed = [*runs_of("lipt", [0.5], 1, 2, 0.1), *runs_of("rs2", [0.5], 1, 2)]
    with pytest.raises(ValueError, match="some runs name the fraction"):
        load_results([saved(tmp_path, comparison(mixed))])
    one = comparison(runs_of("lipt", [0.5], 1, 2))
    other = comparison(runs_of("rs2", [0.5], 1, 2))
    other["machine"] = {**other["machine"], "gpus": ["a GPU"]}
    found = load_results([saved(tmp_path / "a", one), saved(tmp_path / "b", other)])
    assert any("2 kinds of machine (a processor; a processor, a GPU)" in n for n in found.notes)


def test_letters_that_no_page_can_hold_are_replaced(tmp_path: Path) -> None:
    runs = runs_of("lipt", [0.5], 1, 2)
    runs[0]["label"] = "a\x00b\ud800c"
    (label,) = load_results([saved(tmp_path, comparison(runs))]).methods.values()
    assert label == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
