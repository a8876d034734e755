"""The options of a warm start are parsed once on their way from a file or a script to the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plugin_material import Problem

from lipt_cords.cords.config import RunConfig, load_config
from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.importing import cords_version
from lipt_cords.experiments.run import fit_warm_start, run
from lipt_cords.experiments.select_once import select_once
from lipt_cords.warmstart.config import WarmStartConfig

WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}
FILE = f"""
dataset: {{name: digits, limit: 150}}
dataloader: {{batch_size: 16}}
dss_args: {{type: GLISTER, selector: fast, fraction: 0.2, warm_start: {WARM}}}
train_args: {{num_epochs: 1, device: cpu}}
"""
needs_cords = pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every parse."""
    seen: list[dict[str, Any]] = []
    parse = WarmStartConfig.__init__

    def counted(self: WarmStartConfig, **options: Any) -> None:
        if options:  # the defaults alone are no parse of what a user gave
            seen.append(options)
        parse(self, **options)

    monkeypatch.setattr(WarmStartConfig, "__init__", counted)
    return seen


@pytest.mark.parametrize(
    "trip",
    [run, select_once, fit_warm_start, pytest.param(None, id="through CORDS", marks=needs_cords)],
)
def test_from_a_file(tmp_path: Path, parsed: list[dict[str, Any]], trip: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    config = load_config(path, ["dss_args.selector=cords"] if trip is None else [])
    (trip or run)(config.updated(train_args={"seed": 3}))
    assert len(parsed) == 1, parsed


@needs_cords
def test_from_a_script(parsed: list[dict[str, Any]]) -> None:
    problem = Problem()
    loader = cords_loader(
        "GLISTER", problem.train_loader, problem.val_loader,
        {"fraction": 0.2, "model": problem.model, "num_classes": 3, "warm_start": dict(WARM)},
    )  # fmt: skip
    assert loader.warm_start() is not None
    assert len(parsed) == 1, parsed


def test_what_the_run_adds_counts_as_given(parsed: list[dict[str, Any]]) -> None:
    from lipt_cords.experiments.assemble import warm_start_options
    from lipt_cords.experiments.run import pick_device

    config = RunConfig.parse({"dss_args": {"warm_start": WARM}, "train_args": {"seed": 4}})
    options = warm_start_options(config, pick_device("cpu", []))
    assert options is not None and {"seed", "device"} <= options.model_fields_set
    assert (options.seed, options.device, options.num_workers) == (4, "cpu", 2)
    assert config.dss_args.warm_start is not None and config.dss_args.warm_start.seed == 0
