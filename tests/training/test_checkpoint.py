"""Checkpoints: whole or refused, and only resumed by the run that wrote them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)

IDENTITY = {"optimizer": {"lr": 0.1}, "seed": 0}


def _saved(folder: Path) -> Path:
    state = {"weights": torch.arange(3.0), "epoch": 2, "curve": [{"loss": None}]}
    return save_checkpoint(folder / "checkpoint.pt", state, identity=IDENTITY)


def test_round_trip(tmp_path: Path) -> None:
    state = load_checkpoint(_saved(tmp_path), identity=IDENTITY)
    assert state["weights"].tolist() == [0.0, 1.0, 2.0]
    assert state["epoch"] == 2 and state["curve"] == [{"loss": None}]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("kept", [0, 1, 100, 700])
def test_truncated_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a whole checkpoint.*truncated"):
        load_checkpoint(path, identity=IDENTITY)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content in ({"state_dict": {}}, {"format": "lipt_cords.checkpoint"}, [1]):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"model\.pt is not a checkpoint of lipt_cords"):
            load_checkpoint(path, identity=IDENTITY)
    with pytest.raises(ValueError, match=r"cannot read the checkpoint .*gone\.pt"):
        load_checkpoint(tmp_path / "gone.pt", identity=IDENTITY)
    # Something that would run code on loading is refused, not run.
    torch.save(Path("x"), path)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path, identity=IDENTITY)


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr is 0\.1 there and 0\.2 here"):
        load_checkpoint(_saved(tmp_path), identity={"optimizer": {"lr": 0.2}, "seed": 0})


def test_random_states_continue_the_same_draws(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    with isolated_rng(3):
        np.random.standard_normal()  # leaves a cached value behind
        path = save_checkpoint(tmp_path / "c.pt", {"r": random_states()}, identity={})
        expected = draws()
    with isolated_rng(4):
        restore_random_states(load_checkpoint(path, identity={})["r"])
        assert draws() == expected
