"""Real processes that are killed, stopped and disturbed: one trial of each fault of the benchmark.

The benchmark forks its process groups from a process in which torch has computed nothing yet, so
it runs in one of its own.
"""

from __future__ import annotations

import json
import sys

import pytest
from fault_run import FAULTS, NETWORK, run_benchmark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc are Linux's")


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


@pytest.fixture(scope="module")
def cut(outcome):
    """Two hosts whose cable was pulled: one side merges, the other says what happened."""
    figures = outcome[0]["scenarios"][NETWORK]
    if "skipped" in figures:
        pytest.skip(figures["skipped"])
    return figures


def test_no_promise_is_broken_where_the_cable_is_cut(cut):
    assert not cut["broken_promises"]
    assert (cut["trials"], cut["hung"]) == (1, 0)


def test_the_side_with_the_store_merges_and_names_what_it_is_without(cut):
    assert cut["ended_merged"] == 1
    assert "merged without worker 2: was lost with its process" in cut["messages"]


def test_the_other_side_says_what_happened(cut):
    # Their agent may notice first, and end them: of a rank that wrote nothing, it says why.
    clear = ("lost contact with the store", "stopped by SIGTERM; what had finished", "its agent")
    for rank in (2, 3):
        begins = f"rank {rank}, without the store: "
        (said,) = [text for text in cut["messages"] if text.startswith(begins)]
        assert any(one in said for one in clear), said


def test_one_host_goes_on_from_there(cut):
    assert (cut["resumed"], cut["resumed_equal"]) == (1, 1)
    assert cut["finished_workers_lost"] == 0
