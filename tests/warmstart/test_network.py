"""Two hosts whose cable is pulled: one side merges what it has, the other says what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")


def test_a_cut_network_costs_the_workers_behind_it_and_no_more(tmp_path):
    command = [sys.executable, str(SCRIPT), "--trials", "1", "--output", str(tmp_path)]
    command += ["--only", "network cut, min_workers"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert (tmp_path / "faults.json").exists(), done.stderr
    one = json.loads((tmp_path / "faults.json").read_text())["scenarios"][command[-1]]
    if "skipped" in one:
        pytest.skip(one["skipped"])
    assert not one["broken_promises"]
    assert (one["ended_merged"], one["hung"], one["resumed_equal"]) == (1, 0, 1)
    said = "\n".join(one["messages"])
    assert "merged without worker 2: was lost with its process" in said
    assert "lost contact with the store" in said
    assert done.returncode == 0, done.stderr
