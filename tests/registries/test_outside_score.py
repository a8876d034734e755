"""A difficulty score from outside: one file, and every option ``score`` accepts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crashes import Trainings
from synthetic import pool
from torch import nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart, worker_difficulty
from lipt_cords.base.registry import import_modules
from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.run import run
from lipt_cords.selectors import register_score, select
from lipt_cords.selectors.difficulty import SCORES, difficulty

MODULE = "outside_score"
WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for name in ("undecided", "flat"):
        SCORES.unregister(name)
    sys.modules.pop(MODULE, None)


def _mapping(kind: str, score: str) -> dict[str, Any]:
    return {
        "dataset": {"name": "digits", "limit": 150},
        "dss_args": {
            "type": kind, "fraction": 0.2, "warm_start": WARM, "options": {"score": score},
        },
        "train_args": {"num_epochs": 2, "device": "cpu"},
        "dataloader": {"batch_size": 16},
    }  # fmt: skip


def test_in_python() -> None:
    import_modules([MODULE])
    mine = pool(30)
    scores = difficulty(mine, "undecided")
    assert scores.shape == (30,) and scores.dtype == torch.float64
    by_name = select("stratified", mine, 6, score="undecided", cut=0.2)
    by_values = select("stratified", mine, 6, scores=scores, cut=0.2)
    assert by_name.indices.equal(by_values.indices)
    data = TensorDataset(torch.randn(40, 8), torch.arange(40) % 4)
    warm = LiPTWarmStart(
        num_workers=3, common_steps=2, keep_workers=True, epochs=1, launch="serial", device="cpu"
    ).fit(nn.Linear(8, 4), data)
    assert worker_difficulty(warm, data, "undecided", scorers=2).scores.shape == (40,)


@pytest.mark.parametrize("kind", ["Stratified", "Curriculum"])
def test_in_a_configuration(kind: str) -> None:
    config = RunConfig.parse({"imports": [MODULE], **_mapping(kind, "undecided")})
    record = run(config)
    assert record is not None and record.status == "ok"
    message = r"unknown difficulty score 'undecidd'.*'undecided'"
    with Trainings() as trained, pytest.raises(ValueError, match=message):
        run(RunConfig.parse(_mapping(kind, "undecidd")))
    assert trained.begun == 0


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(_mapping("Stratified", "undecided")))
    command = ["select", str(path), "--output", str(tmp_path / "out"), "--json"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "unknown difficulty score 'undecided'" in said and "--import MODULE" in said
    assert main([*command, "--import", MODULE]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["imports"] == [MODULE] and len(shown["indices"]) == 30
    assert main(["doctor", "--list", "--import", MODULE]) == 0
    assert f"Entropy of the predicted probabilities. ({MODULE})" in capsys.readouterr().out


def test_a_wrong_score_is_refused() -> None:
    with pytest.raises(ValueError, match="difficulty score named 'loss' exists already"):
        register_score("loss")(lambda gradients: gradients.labels)
    with pytest.raises(ValueError, match=r"called as flat\(gradients\)"):
        register_score("flat")(lambda: torch.zeros(1))
    register_score("flat")(lambda gradients: torch.zeros(3))
    with pytest.raises(ValueError, match=r"'flat' returned shape \(3,\), expected .* \(30,\)"):
        difficulty(pool(30), "flat")
