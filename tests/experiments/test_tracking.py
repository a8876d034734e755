"""Logs of a run: one line a point, the same after a resume, and TensorBoard reads its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments.run import run
from lipt_cords.training.ledger import CurvePoint

WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 8, "batch_size": 16, "rounds": 4}


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_dataset("digits", limit=150)


def config(**train: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "dss_args": {
                "type": "GLISTER", "fraction": 0.2, "select_every": 2, "selector": "fast",
                "warm_start": WARM,
            },
            "train_args": {"num_epochs": 4, "device": "cpu", **train},
            "dataloader": {"batch_size": 16},
            "ckpt": {"save_every": 1},
        }
    )  # fmt: skip


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_every_point_is_a_line_and_a_resumed_log_is_whole(
    digits: DataSplits, tmp_path: Path
) -> None:
    record = run(config(), splits=digits, output=tmp_path / "whole")
    assert record is not None
    whole = lines(tmp_path / "whole")
    assert [one["kind"] for one in whole] == ["round"] * 4 + ["point"] * 5
    assert [one["round"] for one in whole[:4]] == [0, 1, 2, 3]
    points = [one for one in whole if one["kind"] == "point"]
    assert [p["test_accuracy"] for p in points] == [p.test_accuracy for p in record.curve]

    class Stop(Exception):
        pass

    def stop(point: CurvePoint) -> None:
        if point.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        run(config(), splits=digits, output=tmp_path / "half", on_point=stop)
    assert lines(tmp_path / "half")[-1]["epoch"] == 3
    run(config(tensorboard=True), splits=digits, output=tmp_path / "half", resume=True)
    resumed = lines(tmp_path / "half")
    for one, other in zip(whole, resumed, strict=True):
        for name in ("kind", "epoch", "round", "passes", "test_accuracy", "train_loss"):
            assert one.get(name) == other.get(name)


def test_tensorboard_reads_what_was_logged(digits: DataSplits, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run(config(tensorboard=True), splits=digits, output=tmp_path)
    assert record is not None
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    events = read.Scalars("accuracy/test")
    assert [event.step for event in events] == [point.epoch for point in record.curve]
    assert events[-1].value == pytest.approx(record.test_accuracy)
    assert [e.value for e in read.Scalars("cost/passes")] == [p.passes for p in record.curve]
    assert len(read.Scalars("warm start/merged_loss")) == 4


def test_tensorboard_without_a_place_or_a_package_is_refused(
    digits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="give a directory"):
        run(config(tensorboard=True), splits=digits)
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'lipt-cords\[track\]'"):
        run(config(tensorboard=True), splits=digits, output=tmp_path)
