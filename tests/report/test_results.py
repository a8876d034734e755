"""Reading results back: what belongs together, what does not, and what is not whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from report_material import comparison, runs_of

from lipt_cords.files import write_json
from lipt_cords.report import Report
from lipt_cords.report.results import load_results

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
        (("config", "model", "architecture"), "resnet8", "config.model.architecture was 'cnn'"),
        (("versions", "torch"), "2.6.0", "versions.torch was '2.14.1' and is '2.6.0'"),
        (("terms", "equal"), "total", "terms.equal was None and is 'total'"),
        (("python",), "3.10.1", "python was '3.11.7'"),
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
    with pytest.raises(ValueError, match=f"(?s)do not belong in one report: {words}.*apart"):
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
        (broken(seed="first"), r"run 0\.seed"),
        (broken(costs={"seconds": "long"}), r"run 0\.costs\.seconds"),
        (broken(curve=[{"epoch": 1}]), r"run 0\.curve\.0\.phase"),
        (broken(curve=[]), "has no curve or no costs"),
        (broken(test_accuracy=None), "has no test_accuracy"),
        ({"kind": "compare", "runs": [3]}, "run 0"),
        ({"kind": "compare"}, "has no list of runs"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path: Path, payload: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_results([saved(tmp_path, payload)])


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one directory"):
        load_results([])
    with pytest.raises(ValueError, match=r"cannot read .*results\.json"):
        load_results([tmp_path])
    (tmp_path / "results.json").write_text('{"kind": "compare", "runs": [{"meth')
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results([tmp_path])
    with pytest.raises(ValueError, match="there is no run in these results"):
        Report.of([saved(tmp_path, comparison([]))])
