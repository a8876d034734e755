"""Real processes that are killed, stopped and disturbed: one trial of each fault of the benchmark.

The benchmark forks its process groups from a process in which torch has computed nothing yet, so
it runs in one of its own.
"""

from __future__ import annotations

import json
import sys

import pytest
from fault_run import FAULTS, run_benchmark

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc are Linux's"),
    pytest.mark.xdist_group("the run of the fault benchmark"),
]


@pytest.fixture(scope="module")
def outcome():
    return run_benchmark()


def test_no_promise_is_broken(outcome):
    figures, done = outcome
    assert not [text for name in FAULTS for text in figures["scenarios"][name]["broken_promises"]]
    assert figures["broken_promises"] > 0 or done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_ends_as_it_should(outcome, fault):
    one = outcome[0]["scenarios"][fault]
    key = {"merged": "ended_merged", "clear error": "ended_with_clear_error"}[FAULTS[fault]]
    assert (one["trials"], one[key], one["hung"]) == (1, 1, 0), one["broken_promises"]
    assert one["resumed_equal"] == one["resumed"]
    assert one["finished_workers_lost"] == 0
    assert not any("(over)" in moment for moment in one["moments"])


def test_what_is_missing_is_named(outcome):
    scenarios = outcome[0]["scenarios"]
    assert "weights are not finite" in scenarios["diverging worker"]["messages"][0]
    assert "SIGTERM" in scenarios["agent asked to stop"]["messages"][0]
    assert "ValueError: work/progress/round_" in scenarios["damaged file"]["messages"][0]


def test_the_figures_hold_no_path_of_this_machine(outcome):
    assert "/tmp" not in json.dumps(outcome[0])
