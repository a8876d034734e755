"""The pure parts of the memory benchmark: extrapolated traces, and its table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.memory.scaling import extrapolated
from benchmarks.tables import memory as tables
from benchmarks.tables import parts
from lipt_cords.training.memory.plan import least_budget
from lipt_cords.training.memory.trace import Op, Storage, Trace


def step(batch: int) -> Trace:
    """Two layers, each of whose activations is saved; weights' gradients do not grow."""
    ops = (
        Op("conv", 0.5 + batch, (-1, -2), (0,)),
        Op("relu", 0.25 * batch, (0,), (1,)),
        Op("relu'", 0.5 * batch, (1,), (2,)),
        Op("conv'", 2.0 * batch, (2,), (3,)),
    )
    storages = (
        Storage(100 * batch, 0, 2),
        Storage(60 * batch + 4, 1, 2, saved=2, accesses=(2,), done=3),
        Storage(100 * batch, 2, 4),
        Storage(32, 3, 4),
    )
    return Trace(ops, 2, storages, 500, 12 * batch, (1,), (("float32", (batch,)),), ((2, 1),))


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 1000])
def test_a_step_that_grows_with_its_batch_is_extrapolated_to_the_byte(batch):
    found, true = extrapolated((2, step(2)), (8, step(8)), batch), step(batch)
    assert found.storages == true.storages
    assert (found.resident, found.given) == (true.resident, true.given)
    assert found.peak == true.peak and least_budget(found) == least_budget(true)
    assert found.seconds == pytest.approx(true.seconds)


def test_no_operation_gets_faster_with_more_samples():
    small = step(2)
    slow = replace(small, ops=(replace(small.ops[0], seconds=100.0), *small.ops[1:]))
    assert extrapolated((2, slow), (8, step(8)), 80).ops[0].seconds == step(8).ops[0].seconds


def test_different_steps_are_not_extrapolated():
    small, large = step(2), step(8)
    others = {
        "smaller one first": (8, small),
        "operations": (2, replace(small, ops=small.ops[:3])),
        "operation 1 is gelu and relu": (
            2, replace(small, ops=(small.ops[0], Op("gelu", 1.0, (0,), (1,)), *small.ops[2:])),
        ),
        "storage 0": (2, replace(small, storages=(Storage(1, 0, 1), *small.storages[1:]))),
        "do not save": (2, replace(small, packs=(0,))),
    }  # fmt: skip
    for said, one in others.items():
        with pytest.raises(ValueError, match=said):
            extrapolated(one, (8, large), 16)


PLACE = {"revision": "abc", "versions": {"torch": "2"}, "machine": {"threads": 1, "processor": "a"}}
WAYS = [
    {"way": "plain", "time": 1.0, "peak": 11 * 2**20, "differs": []},
    {"way": "checkpoint every block", "time": 1.3, "peak": 4 * 2**20, "differs": ["buffers"]},
]


def test_the_table_says_what_its_record_says(tmp_path, monkeypatch):
    rows = [{"net": "ResNet-50", "base": 2**20, "added": 10 * 2**20, "ways": WAYS}]
    payload = {"command": "python", "rows": rows, "provenance": PLACE}
    (tmp_path / "memory-overhead.json").write_text(json.dumps(payload))
    monkeypatch.setattr(parts, "RESULTS", tmp_path)
    said = tables.memory()
    assert "| ResNet-50, recompute every block (checkpointing) | 1.30 | 0.30 | buffers |" in said
    assert "plain |" not in said
