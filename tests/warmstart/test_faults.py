"""Real processes that are killed, stopped and disturbed: one trial of each fault of the benchmark.

The benchmark forks its process groups from a process in which torch has computed nothing yet, so
it runs in one of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"
FAULTS = {
    "rank killed, restarts": "merged",
    "agent asked to stop": "clear error",
    "damaged file": "clear error",
    "diverging worker": "merged",
    "late rank": "merged",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc are Linux's")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run the benchmark once; its figures, and what it printed."""
    directory = tmp_path_factory.mktemp("faults")
    command = [sys.executable, str(SCRIPT), "--trials", "1", "--first", "1"]
    command += ["--output", str(directory), "--only", *FAULTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert (directory / "faults.json").exists(), done.stderr
    return json.loads((directory / "faults.json").read_text()), done


def test_no_promise_is_broken(outcome):
    figures, done = outcome
    broken = [text for one in figures["scenarios"].values() for text in one["broken_promises"]]
    assert not broken
    assert done.returncode == 0, done.stderr


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
