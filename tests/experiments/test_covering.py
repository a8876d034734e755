"""Covering in configurations: without a model by features, with one by its embeddings."""

from __future__ import annotations

import pytest
import torch

from lipt_cords import RunConfig, choose_subset
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.run import load_splits, run
from lipt_cords.experiments.select_once import select_once

BASE = {
    "dataset": {"name": "digits", "limit": 300},
    "model": {"architecture": "cnn"},
    "dataloader": {"batch_size": 32},
    "train_args": {"num_epochs": 3, "device": "cpu", "seed": 4},
}


def config(**dss: object) -> RunConfig:
    return RunConfig.parse({**BASE, "dss_args": {"type": "Covering", "fraction": 0.1, **dss}})


def test_one_selection_needs_no_model(tmp_path, monkeypatch) -> None:
    def no_net(*_: object) -> None:
        raise AssertionError("no net is needed")

    monkeypatch.setattr("lipt_cords.experiments.select_once.build_net", no_net)
    one = config(options={"features": "patches"})
    made = select_once(one, output=tmp_path / "here")
    assert made is not None and made.weights_from == "no model" and not made.notes
    expected = choose_subset(load_splits(one).train, len(made.selection), seed=4)
    assert torch.equal(made.selection.indices, expected.indices)
    assert (tmp_path / "here" / "selection.json").exists()


def test_a_run_without_a_model_trains_on_them_from_the_first_epoch() -> None:
    record = run(config(select_every=1), splits=load_splits(config()))
    assert record.status == "ok" and record.costs.gradient_seconds == 0
    assert record.test_accuracy is not None and record.test_accuracy > 0.2


def test_with_a_warm_start_embeddings_are_the_features() -> None:
    warm = {"type": "lipt-once", "num_workers": 2, "common_steps": 2, "local_steps": 4}
    made = select_once(config(warm_start=warm, options={"cut": 0.2}))
    assert made is not None and made.weights_from == "warm start"
    assert made.report.pool_accuracy is not None


def test_it_stands_in_comparisons() -> None:
    found = compare(config(), methods=["random", "none+covering"], seeds=[0], subset_passes=60)
    assert [row["status"] for row in found["runs"]] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": "patch"}, "'patches'"), ({"scores": [1.0]}, "decided by the run"),
        ({"method": "kmean"}, "kmeans"), ({"cuts": 0.1}, "cut"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        select_once(config(options=options))
