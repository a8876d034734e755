"""One configured run: every strategy, warm starts, costs, and an exact resume through CORDS."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from lipt_cords.base.files import read_json
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments import assemble as assembly
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import build_net, fit_warm_start, run
from lipt_cords.training.ledger import CurvePoint

WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}
LOGGED = {**WARM, "local_steps": 10, "log_samples": True}
BY_LOG = {"warm_start": LOGGED, "options": {"score": "dual"}}
needs_cords = pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_dataset("digits", limit=150)


def _config(train: dict[str, Any] | None = None, **dss: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "dss_args": {"type": "GLISTER", "fraction": 0.2, "select_every": 2, **dss},
            "train_args": {"num_epochs": 4, "device": "cpu", **(train or {})},
            "dataloader": {"batch_size": 16},
            "ckpt": {"save_every": 1},
        }
    )


def _run(config: RunConfig, splits: DataSplits, **options: Any) -> RunRecord:
    record = run(config, splits=splits, **options)
    assert record is not None
    return record


def _facts(record: RunRecord) -> list[tuple[Any, ...]]:
    return [
        (p.epoch, p.passes, p.train_loss, p.val_accuracy, p.test_accuracy) for p in record.curve
    ]


@pytest.mark.parametrize(
    ("dss", "passes", "selections"),
    [
        ({"type": "Full"}, 4 * 150, 2),
        ({"type": "Random", "selector": "fast"}, 4 * 30, 2),
        ({"type": "RS2"}, 4 * 30, 4),
        ({"type": "AdaptiveRandom", "select_every": 1}, 4 * 30, 4),
        ({"type": "GLISTER", "selector": "fast"}, 4 * 30, 2),
        ({"type": "Curriculum", "warm_start": WARM}, 4 * 30, 4),
    ],
)
def test_our_own_strategies(
    digits: DataSplits, dss: dict[str, Any], passes: int, selections: int
) -> None:
    record = _run(_config(**dss), digits)
    assert record.costs.training_passes == passes
    assert record.costs.selections == selections
    assert record.costs.warmup_passes == (128 if "warm_start" in dss else 0)
    assert [point.epoch for point in record.curve] == [0, 1, 2, 3, 4]
    assert record.test_accuracy == record.curve[-1].test_accuracy


@needs_cords
@pytest.mark.parametrize(
    "dss",
    [
        {"type": "GLISTER", "selection_type": "PerClass", "greedy": "Naive"},
        {"type": "GradMatch"},
        {"type": "GradMatchPB"},
        {"type": "CRAIGPB", "select_every": 4},
        {"type": "Random"},
    ],
)
def test_strategies_of_cords_after_a_warm_start(digits: DataSplits, dss: dict[str, Any]) -> None:
    record = _run(_config(**dss, warm_start=WARM), digits)
    costs = record.costs
    # Two common steps, then three of each worker: 16 samples a step.
    assert (costs.warmup_critical_passes, costs.warmup_passes) == (80, 128)
    assert costs.selections == 4 // dss.get("select_every", 2) and costs.selection_seconds > 0
    assert costs.warmup_seconds > 0 and costs.warmup_flops > 0
    assert costs.training_passes >= 2 * 30  # batches of CRAIG may be fewer than asked for
    assert record.curve[0].passes == 128 and record.curve[0].critical_passes == 80
    assert record.warm_start is not None and record.warm_start["ranks"] == 1


@needs_cords
def test_full_data_epochs_of_kappa_are_warm_up(digits: DataSplits) -> None:
    config = _config(train={"num_epochs": 10}, kappa=0.6, select_every=6)
    record = _run(config, digits)
    costs = record.costs
    assert costs.warmup_passes == costs.warmup_critical_passes == 2 * 150
    assert costs.training_passes == 4 * 30 and costs.selections == 1
    assert costs.warmup_flops == costs.warmup_critical_flops > 0
    assert [point.phase for point in record.curve] == ["start"] + ["full"] * 2 + ["subset"] * 4
    own = _run(config.updated(dss_args={"selector": "fast"}), digits)
    assert own.costs.warmup_passes == 300 and own.costs.training_passes == 120
    assert own.costs.warmup_flops == costs.warmup_flops


@pytest.mark.parametrize("selector", ["fast", pytest.param("cords", marks=needs_cords)])
def test_a_strategy_that_never_selects_says_so(digits: DataSplits, selector: str) -> None:
    once = _config(train={"num_epochs": 1}, selector=selector, greedy="Naive", select_every=1000)
    said = "GLISTER selects nothing in 1 epochs, its subset is a random one: .* after 1000 epochs"
    assert re.search(said, " ".join(_run(once, digits).notes))
    for dss in ({"warm_start": WARM}, {"type": "Random"}, {"type": "Covering"}):
        changed = once.updated(dss_args={"selector": "fast", **dss})
        assert not any("selects nothing" in note for note in _run(changed, digits).notes), dss
    every = once.updated(train_args={"num_epochs": 2}, dss_args={"select_every": 1})
    assert not any("selects nothing" in note for note in _run(every, digits).notes)


@needs_cords
def test_cords_may_end_before_the_first_selection_after_kappa(digits: DataSplits) -> None:
    config = _config(kappa=0.5, select_every=5, train={"num_epochs": 4})
    assert any("selects first after 5 epochs" in note for note in _run(config, digits).notes)
    ours = config.updated(dss_args={"selector": "fast"})
    assert not any("selects nothing" in note for note in _run(ours, digits).notes)


@needs_cords
def test_a_warm_start_beside_kappa_wins_and_says_so(digits: DataSplits) -> None:
    record = _run(_config(kappa=0.5, warm_start=WARM), digits)
    assert record.costs.warmup_passes == 128 and record.costs.training_passes == 4 * 30
    assert any("kappa=0.5 is ignored" in note for note in record.notes)


@pytest.mark.parametrize("selector", ["fast", pytest.param("cords", marks=needs_cords)])
def test_same_seed_same_run_and_the_callers_randomness_is_kept(
    digits: DataSplits, selector: str
) -> None:
    config = _config(selector=selector, warm_start=WARM)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    errors = np.geterr()
    one = _run(config, digits)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())
    assert np.geterr() == errors
    torch.rand(3)
    np.random.rand()
    assert _facts(_run(config, digits)) == _facts(one)
    assert _facts(_run(config, digits, seed=1)) != _facts(one)


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    "dss",
    [
        pytest.param({"warm_start": WARM}, marks=needs_cords, id="cords-lipt"),
        pytest.param({"kappa": 0.6, "select_every": 3}, marks=needs_cords, id="cords-kappa"),
        pytest.param({"warm_start": WARM, "selector": "fast"}, id="fast-lipt"),
        pytest.param({"type": "RS2"}, id="rs2"),
        pytest.param({"type": "Curriculum", "warm_start": WARM}, id="curriculum"),
        pytest.param({"type": "Curriculum", **BY_LOG}, id="curriculum-log"),
        pytest.param({"type": "Stratified", **BY_LOG}, id="stratified-log"),
    ],
)
@pytest.mark.parametrize("stop_at", [3, 4])
def test_resumed_equals_uninterrupted(
    digits: DataSplits, tmp_path: Path, dss: dict[str, Any], stop_at: int
) -> None:
    config = _config(train={"num_epochs": 6}, **dss)
    expected = _run(config, digits, output=tmp_path / "whole")

    def stop(point: CurvePoint) -> None:
        if point.epoch >= stop_at:
            raise _Stop

    with pytest.raises(_Stop):
        _run(config, digits, output=tmp_path / "half", on_point=stop)
    steps: list[int] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        resumed = _run(config, digits, output=tmp_path / "half", resume=True)
    finally:
        hook.remove()
    left = len([point for point in expected.curve if point.epoch >= stop_at])
    assert len(steps) == 2 * left  # thirty samples in two batches: no warm start is paid twice
    assert _facts(resumed) == _facts(expected)
    one, two = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"]
        for name in ("whole", "half")
    )
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, two["model"][name]), name
    assert torch.equal(one["random"]["torch"], two["random"]["torch"])
    assert resumed.costs.warmup_passes == expected.costs.warmup_passes
    assert (resumed.warm_start is None) == (expected.warm_start is None)


def test_results_are_written_whole(digits: DataSplits, tmp_path: Path) -> None:
    _run(_config(type="RS2"), digits, output=tmp_path)
    results = read_json(tmp_path / "results.json")
    assert (results["schema"], results["kind"], results["method"]) == (1, "run", "RS2")
    assert results["costs"]["passes"] == 120 == results["curve"][-1]["passes"]
    assert torch.__version__.startswith(results["provenance"]["versions"]["torch"])
    assert results["config"]["dss_args"]["fraction"] == 0.2


def test_a_run_that_saves_nothing_still_resumes(digits: DataSplits, tmp_path: Path) -> None:
    config = _config(type="RS2", warm_start=WARM)
    expected = _run(config, digits, output=tmp_path)
    silent = config.updated(ckpt={"is_save": False})
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert _facts(_run(silent, digits, output=tmp_path, resume=True)) == _facts(expected)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    with pytest.raises(ValueError, match="there is no checkpoint to resume in"):
        _run(silent, digits, output=tmp_path / "empty", resume=True)


def test_bad_checkpoints_and_directories(digits: DataSplits, tmp_path: Path) -> None:
    config = _config(type="RS2")
    _run(config, digits, output=tmp_path)
    with pytest.raises(ValueError, match=r"optimizer\.lr is 0\.05 there and 0\.1 here"):
        _run(config.updated(optimizer={"lr": 0.1}), digits, output=tmp_path, resume=True)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a whole checkpoint"):
        _run(config, digits, output=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resuming needs the --output"):
        _run(config, digits, resume=True)
    with pytest.raises(ValueError, match="found a file"):
        _run(config, digits, output=checkpoint)


@pytest.mark.parametrize(
    ("dss", "message"),
    [
        ({"type": "RS2", "selector": "cords"}, "RS2 is ours"),
        ({"type": "MILO"}, "unknown strategy"),
        ({"type": "Curriculum"}, "set dss_args.warm_start"),
        ({"type": "Curriculum", "warm_start": WARM, "options": {"start": 2}}, "start in"),
        ({"type": "Curriculum", "warm_start": WARM, "selection_type": "PerClas"}, "PerClass"),
        (
            {"type": "Stratified", "warm_start": WARM, "options": {"score": "aum"}},
            r"score 'aum' reads what the workers.*'log_samples': True",
        ),
        ({"type": "Curriculum", "options": {"score": "aum"}}, "'log_samples': True"),
        ({"type": "Stratified", "options": {"score": "duel"}}, "Did you mean 'dual'"),
        ({"selector": "own"}, r"unknown selector 'own'"),
        ({"selector": "cords", "options": {"cut": 1}}, r"options \(cut\) are for our selectors"),
        ({"selector": "fast", "options": {"validaton": 1}}, "Did you mean 'validation'"),
        ({"type": "CRAIG", "selector": "fast", "optimizer": "lasy"}, "Did you mean 'lazy'"),
    ],
)
def test_wrong_selectors(digits: DataSplits, dss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _run(_config(**dss), digits)


def test_without_cords_our_selectors_take_over(
    digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cords", None)  # Python's own mark of what is not there
    record = _run(_config(warm_start=WARM), digits)
    assert "CORDS is not installed: GLISTER is our own selector" in record.notes
    # A strategy of CORDS alone, of which there is none today.
    monkeypatch.setattr(assembly, "selector_names", lambda: ("glister", "random", "rs2"))
    with pytest.raises(ValueError, match=r"CRAIG runs through CORDS, which is not installed: pip"):
        _run(_config(type="CRAIG"), digits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_becomes_the_cpu(
    digits: DataSplits, caplog: pytest.LogCaptureFixture
) -> None:
    record = _run(_config(type="RS2", train={"device": "cuda"}), digits)
    assert "this run uses the CPU" in record.notes[0]
    assert "this run uses the CPU" in caplog.text
    with pytest.raises(ValueError, match="device cuda:3 is not here: this machine has cpu"):
        _run(_config(type="RS2", train={"device": "cuda:3"}), digits)


def test_net_and_data_must_agree(digits: DataSplits) -> None:
    config = _config(type="RS2").updated(model={"numclasses": 5})
    with pytest.raises(ValueError, match=r"model\.numclasses is 5 but digits has 10 classes"):
        build_net(config, digits)


def test_start_from_initial_keeps_the_first_weights(digits: DataSplits) -> None:
    starts = {
        name: _run(_config(selector="fast", warm_start={**WARM, "start_from": name}), digits)
        .curve[0]
        .test_accuracy
        for name in ("merged", "initial")
    }
    cold = _run(_config(type="RS2"), digits).curve[0].test_accuracy
    assert starts["initial"] == cold != starts["merged"]


def test_a_warm_start_alone_is_saved(tmp_path: Path) -> None:
    config = _config(warm_start=WARM).updated(dataset={"limit": 150})
    result = fit_warm_start(config, output=tmp_path)
    assert result.report.passes == 128
    assert (tmp_path / "merged.safetensors").is_file()
    assert read_json(tmp_path / "warm_start.json")["report"]["passes"] == 128
