"""One run of the fault benchmark, which all tests of faults read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from programs import run_program

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults" / "run.py"
FAULTS = {
    "rank killed, restarts": "merged",
    "agent asked to stop": "clear error",
    "damaged file": "clear error",
    "diverging worker": "merged",
    "late rank": "merged",
}
NETWORK = "network cut, min_workers"


def run_benchmark():
    """Run the benchmark once for all tests; its figures, and what it printed."""
    with tempfile.TemporaryDirectory() as directory:
        # On a busy machine nothing has hung: a run may take as long as pytest waits for a test.
        done = run_program(
            SCRIPT, "--trials", 1, "--first", 1, "--limit", 800, "--patience", 2,
            "--output", directory, "--only", *FAULTS, NETWORK,
        )  # fmt: skip
        written = Path(directory) / "faults.json"
        assert written.exists(), done.stderr
        return json.loads(written.read_text()), done
