"""Two hosts whose cable is pulled: one side merges what it has, the other says what happened."""

from __future__ import annotations

import sys

import pytest
from fault_run import NETWORK, run_benchmark

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
    pytest.mark.xdist_group("the run of the fault benchmark"),
]


@pytest.fixture(scope="module")
def cut():
    """The figures of a cable that was pulled in the middle of a run."""
    figures = run_benchmark()[0]["scenarios"][NETWORK]
    if "skipped" in figures:
        pytest.skip(figures["skipped"])
    return figures


def test_no_promise_is_broken(cut):
    assert not cut["broken_promises"]
    assert (cut["trials"], cut["hung"]) == (1, 0)


def test_the_side_with_the_store_merges_and_names_what_it_is_without(cut):
    assert cut["ended_merged"] == 1
    assert "merged without worker 2: was lost with its process" in cut["messages"]


def test_the_other_side_says_what_happened(cut):
    assert any("lost contact with the store" in text for text in cut["messages"])


def test_one_host_goes_on_from_there(cut):
    assert (cut["resumed"], cut["resumed_equal"]) == (1, 1)
    assert cut["finished_workers_lost"] == 0
