"""The configurations among the examples load; the scripts run in test_docs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipt_cords.cords.config import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


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
