"""What a report reads of a record follows the record's own class."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.schema import Costs, Point, Round, Worker, part_of
from lipt_cords.training.ledger import CurvePoint, Ledger
from lipt_cords.warmstart.report import RoundReport, WorkerSummary

POINT = CurvePoint(1, "subset", 10, 5, 1.0, 0.5, 0.1, None, None, 0.5)


@pytest.mark.parametrize(
    ("part", "record"),
    [(Costs, Ledger), (Point, CurvePoint), (Round, RoundReport), (Worker, WorkerSummary)],
)
def test_no_field_of_the_record_is_missing(part, record) -> None:
    assert {one.name for one in fields(record)} <= part.model_fields.keys()


def test_what_a_run_writes_is_read() -> None:
    costs = RunRecord("lipt", 0, {}, costs=Ledger(warmup_passes=3, training_seconds=2.0)).to_dict()
    read = Costs.model_validate(costs["costs"])
    assert read.model_dump() == costs["costs"]
    assert Point.model_validate(asdict(POINT)).model_dump() == asdict(POINT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passes": -1}, "passes"),
        ({"passes": 10**400}, "passes"),
        ({"seconds": float("inf")}, "seconds"),
        ({"test_accuracy": 1.5}, "test_accuracy"),
        ({"epoch": "1"}, "epoch"),
        ({"train_loss": "low"}, "train_loss"),
    ],
)
def test_a_wrong_number_is_refused(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        Point.model_validate(asdict(POINT) | change)


def test_a_field_that_a_record_lost_is_noticed() -> None:
    with pytest.raises(TypeError, match="CurvePoint has no field passess"):
        part_of(CurvePoint, "passess")
