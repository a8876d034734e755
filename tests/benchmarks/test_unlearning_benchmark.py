"""The benchmark of unlearning does on a toy what it does on Fashion-MNIST."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from benchmarks import unlearning
from lipt_cords.warmstart.unlearning.deltagrad import DeltaGrad


def test_every_change_is_timed_in_turns_with_training_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlearning, "ROUNDS", 2)
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 4, generator=draws)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())

    def make(**options: Any) -> DeltaGrad:
        return DeltaGrad(unlearning.head(4), data, epochs=30, batch_size=200, lr=0.5, **options)

    rows = unlearning.replay("toy", make, 400, 3)
    assert [row["change"] for row in rows] == ["remove"] * 2 + ["add"] * 2 + ["remove, one by one"]
    assert [row["samples"] for row in rows] == [1, 4, 1, 4, 1]
    for row in rows[:4]:
        assert len(row["seconds"]) == len(row["seconds_anew"]) == 2
    for row in rows:
        assert row["to_retraining"] < row["of_change"] and row["explicit"] < row["steps"]
