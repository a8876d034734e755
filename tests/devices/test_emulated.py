"""Every public entry point on an emulated accelerator, which needs a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_entry_point_runs_on_an_accelerator() -> None:
    command = [
        sys.executable, "-m", "pytest", "--emulated-device", "-x", "-p", "no:cacheprovider",
        "-k", "not CRAIG-cords",  # its compiler takes as long as all others: make test-device
        str(Path(__file__).parent / "on_device"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
