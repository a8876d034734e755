"""Every public entry point on an emulated accelerator, which needs a process of its own."""

from __future__ import annotations

from pathlib import Path

from programs import run_program

ROOT = Path(__file__).parents[2]


def test_every_entry_point_runs_on_an_accelerator() -> None:
    # The compiler of CORDS's CRAIG takes as long as all others: make test-device.
    done = run_program(
        "-m", "pytest", "--emulated-device", "-x", "-p", "no:cacheprovider",
        "-k", "not CRAIG-cords", Path(__file__).parent / "on_device",
        cwd=ROOT, NUMBA_DISABLE_JIT="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
