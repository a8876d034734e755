"""The examples do what they say: the short ones run, the long ones load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipt_cords.run_config import load_config

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["digits_glister.yaml", "fashion_glister.yaml"])
def test_short_configurations(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) <= 15
    config = load_config(EXAMPLES / name)
    assert config.dss_args.strategy == "GLISTER" and config.dss_args.warm_start is not None


def test_the_cords_example_loads() -> None:
    config = load_config(EXAMPLES / "cifar10_imagefolder.py")
    assert config.dataset.name.startswith("imagefolder:")
    assert config.dss_args.type == "GradMatchPB" and config.dss_args.warm_start is not None


def test_quickstart_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py")],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "130 images after 2576 passes" in done.stdout
    accuracy = float(done.stdout.rsplit("test accuracy ", 1)[1].split("%")[0])
    assert accuracy > 85
