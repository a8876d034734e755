"""One selection from a configuration to files, by every strategy and every source of weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from lipt_cords.base.files import read_json
from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments.run import build_net, fit_warm_start, run
from lipt_cords.experiments.select_once import SelectionRun, select_once
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors.base import select
from lipt_cords.selectors.report import subset_accuracy
from lipt_cords.training.subset_history import SubsetHistory

needs_cords = pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")
WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_dataset("digits", limit=150)


def _config(**dss: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "dataset": {"name": "digits", "limit": 150},
            "dss_args": {"type": "GLISTER", "fraction": 0.2, **dss},
            "train_args": {"num_epochs": 2, "device": "cpu"},
            "dataloader": {"batch_size": 16},
        }
    )


def _once(config: RunConfig, **options: Any) -> SelectionRun:
    made = select_once(config, **options)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("dss", "objective"),
    [
        ({"type": "GLISTER"}, {"validation_loss_before", "validation_loss_after"}),
        ({"type": "GLISTER", "selection_type": "PerClass", "options": {"validation": "all"}},
         {"validation_loss_before", "validation_loss_after"}),
        ({"type": "GradMatch"}, {"residual"}),
        ({"type": "GradMatchPB", "valid": True}, {"residual"}),
        ({"type": "CRAIG"}, {"facility_location_value"}),
        ({"type": "Importance"}, set()),
        ({"type": "Stratified", "options": {"cut": 0.2}}, set()),
        ({"type": "GraNd"}, set()),
        ({"type": "EL2N", "selection_type": "Supervised"}, set()),
        ({"type": "RS2"}, set()),
        ({"type": "Random"}, set()),
    ],
)  # fmt: skip
def test_every_strategy(
    digits: DataSplits, dss: dict[str, Any], objective: set[str], tmp_path: Path
) -> None:
    made = _once(_config(**dss), splits=digits, output=tmp_path)
    record = read_json(tmp_path / "selection.json")
    assert set(record["objective"]) == objective
    assert len(set(record["indices"])) == len(record["weights"]) == 30
    assert min(record["indices"]) >= 0 and max(record["indices"]) < 150
    assert record["strategy"] == made.report.strategy and record["pool"]["size"] == 150
    assert 0 <= record["accuracy"]["subset"] <= 1 and 0 <= record["accuracy"]["pool"] <= 1
    assert set(record["seconds"]) == {"weights", "gradients", "selection", "total"}
    assert record["peak_memory_bytes"]["process"] > 0 and record["gradient_bytes"] > 0
    assert record["config"]["dss_args"]["fraction"] == 0.2 and "torch" in str(record["provenance"])
    assert record["weights_from"] == "untrained"
    told = any("an untrained net selects" in note for note in record["notes"])
    assert told == (dss["type"] not in ("RS2", "Random"))  # which read labels alone
    with np.load(tmp_path / "selection.npz") as arrays:
        assert arrays["indices"].tolist() == record["indices"]
        assert arrays["weights"].dtype == np.float32
        np.testing.assert_allclose(arrays["weights"], record["weights"], rtol=1e-6)
        assert ("scores" in arrays) == (record["scores"] is not None)


def test_what_is_selected_is_what_a_run_trains_on(digits: DataSplits) -> None:
    """The first selection of a run with a warm start, and the command's, are the same."""
    config = _config(type="CRAIG", selector="fast", warm_start=WARM)
    chosen: list[list[int]] = []
    from lipt_cords.experiments import assemble as assembly

    original = assembly.choose_subset

    def spy(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        chosen.append(made[0].indices.tolist())
        return made

    assembly.choose_subset = spy
    try:
        run(config, splits=digits)
    finally:
        assembly.choose_subset = original
    assert chosen == [_once(config, splits=digits).selection.indices.tolist()]


PILOT = {"cut": "auto", "pilot": 0.5, "pilot_cuts": [0.1, 0.3]}


@pytest.mark.parametrize(
    ("dss", "by"),
    [
        ({"type": "CRAIG", "selector": "fast", "warm_start": WARM}, "warm start"),
        ({"type": "Stratified", "warm_start": WARM, "options": PILOT}, "warm start"),
        ({"type": "Curriculum", "warm_start": WARM}, "warm start"),
        ({"type": "GradMatch", "selector": "fast", "kappa": 0.5}, "full-data epochs"),
        ({"type": "GLISTER", "selector": "fast"}, "no model"),
        ({"type": "Covering", "fraction": 0.3}, "no model"),
        ({"type": "Random", "selector": "fast"}, "no model"),
        ({"type": "RS2"}, "no model"),
        pytest.param({"type": "GLISTER", "warm_start": WARM}, "warm start", marks=needs_cords),
        pytest.param({"type": "GradMatch", "kappa": 0.5}, "full-data epochs", marks=needs_cords),
        pytest.param({"type": "CRAIG"}, "no model", marks=needs_cords),
    ],
)
def test_as_train_is_the_first_subset_of_the_training(
    digits: DataSplits, dss: dict[str, Any], by: str, tmp_path: Path
) -> None:
    config = _config(select_every=1, **dss)
    made = _once(config, as_train=True, splits=digits, output=tmp_path / "selected")
    added: list[tuple[SubsetHistory, tuple[list[int], list[float]]]] = []
    original = SubsetHistory.add

    def spy(history: SubsetHistory, epoch: int, indices: Any, weights: Any, *rest: Any) -> None:
        added.append((history, (indices.tolist(), weights.tolist())))
        original(history, epoch, indices, weights, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubsetHistory, "add", spy)
        run(config, splits=digits)
    last, _ = added[-1]
    first, *_ = [subset for history, subset in added if history is last]  # trials have their own
    assert (made.selection.indices.tolist(), made.selection.weights.tolist()) == first
    assert made.weights_from == by
    record = read_json(tmp_path / "selected" / "selection.json")
    assert record["as_train"] and len(record["indices"]) == len(first[0])


def test_as_train_takes_no_checkpoint(digits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--checkpoint has no place: leave one of them out"):
        select_once(_config(), as_train=True, checkpoint=tmp_path, splits=digits)
    with pytest.raises(ValueError, match="selects nothing"):
        select_once(_config(type="Full"), as_train=True, splits=digits)


def test_weights_from_a_warm_start_and_from_a_run(digits: DataSplits, tmp_path: Path) -> None:
    config = _config(type="GradMatch", selector="fast", warm_start=WARM)
    fit_warm_start(config, output=tmp_path / "warm")
    from_files = _once(config, checkpoint=tmp_path / "warm", splits=digits)
    fitted = _once(config, splits=digits)
    assert (from_files.weights_from, fitted.weights_from) == ("checkpoint", "warm start")
    assert "was not run" in from_files.notes[0]
    assert torch.equal(from_files.selection.indices, fitted.selection.indices)
    assert torch.equal(from_files.selection.weights, fitted.selection.weights)
    merged = tmp_path / "warm" / "merged.safetensors"
    assert _once(config, checkpoint=merged, splits=digits).report.pool_accuracy == (
        fitted.report.pool_accuracy
    )
    run(config, splits=digits, output=tmp_path / "run")
    trained = _once(config, checkpoint=tmp_path / "run", splits=digits)
    assert trained.report.pool_accuracy != fitted.report.pool_accuracy


def test_scores_from_what_the_workers_saw(digits: DataSplits, tmp_path: Path) -> None:
    warm = {**WARM, "local_steps": 10, "log_samples": True}
    options = {"score": "aum", "cut": 0.2}
    config = _config(
        type="Stratified", selection_type="Supervised", warm_start=warm, options=options
    )
    result = fit_warm_start(config, output=tmp_path / "warm", splits=digits)
    assert result is not None
    scores = result.dynamics.score("aum")
    for checkpoint in (None, tmp_path / "warm"):
        chosen = _once(config, checkpoint=checkpoint, splits=digits).selection
        assert chosen.scores is not None
        assert torch.equal(chosen.scores, scores[chosen.indices].float())
        assert scores[chosen.indices].max() <= scores.sort().values[-31]
    merged = tmp_path / "warm" / "merged.safetensors"
    with pytest.raises(
        ValueError, match=r"'aum' reads .* and .*merged.safetensors is not the directory of one"
    ):
        _once(config, checkpoint=merged, splits=digits)


def test_what_cannot_be_selected(digits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="selects nothing"):
        select_once(_config(type="Full"), splits=digits)
    nowhere = {"dataset": {"name": "imagefolder:nowhere"}, "model": {"architecture": "resnet9"}}
    with pytest.raises(ValueError, match="unknown model 'resnet9'"):  # before data are read
        select_once(_config(type="Covering").updated(**nowhere))
    with pytest.raises(ValueError, match="no weights at"):
        select_once(_config(), checkpoint=tmp_path / "none.pt", splits=digits)
    with pytest.raises(ValueError, match="unknown selection_type of EL2N 'PerClas'"):
        select_once(_config(type="EL2N", selection_type="PerClas"), splits=digits)
    with pytest.raises(ValueError, match="unknown option of selector 'stratified' 'cutt'"):
        select_once(_config(type="Stratified", options={"cutt": 0.1}), splits=digits)


def test_the_command(
    digits: DataSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "dataset: {name: digits, limit: 150}\n"
        "dss_args: {type: CRAIG, fraction: 0.2}\n"
        "train_args: {device: cpu}\n"
    )
    weights = tmp_path / "net.pt"
    torch.save(build_net(_config(), digits).state_dict(), weights)
    output = tmp_path / "out"
    command = ["select", str(config), "--output", str(output)]
    assert main([*command, "--checkpoint", str(weights)]) == 0
    shown = capsys.readouterr().out
    assert "30 of 150 by CRAIG" in shown and "facility location value" in shown
    assert "classified correctly, subset" in shown and "selection.npz" in shown
    other = [*command, "--set", "dss_args.type=Importance", "--json"]
    assert main(other) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "another selection (checkpoint is " in said and "replace it by --overwrite" in said
    assert main([*other, "--overwrite"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["strategy"] == "Importance" and printed["weights_from"] == "untrained"
    assert main([*command, "--overwrite", "--checkpoint", str(tmp_path / "absent.pt")]) == 2
    assert "no weights at" in capsys.readouterr().err.replace("\n", " ")


def test_a_number_of_samples_is_met_exactly(digits: DataSplits) -> None:
    for samples in (1, 7, 149, 150):
        assert (
            len(_once(_config(type="Random"), splits=digits, samples=samples).selection) == samples
        )
    for as_train in (False, True):
        made = _once(_config(type="Covering"), splits=digits, samples=13, as_train=as_train)
        assert len(made.selection) == 13


def test_a_number_of_samples_that_cannot_be_met_is_refused(
    digits: DataSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="between 1 and the pool's 150 samples, received 151"):
        select_once(_config(type="Random"), splits=digits, samples=151, output=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    (tmp_path / "c.yaml").write_text("dss_args: {type: Random}\n")
    command = ["select", str(tmp_path / "c.yaml"), "--samples", "5", "--fraction", "5%"]
    assert main(command) == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_number_of_samples_belongs_to_what_was_asked_for(
    digits: DataSplits, tmp_path: Path
) -> None:
    config = _config(type="Random")
    for _ in range(2):
        _once(config, splits=digits, samples=7, output=tmp_path)
    with pytest.raises(ValueError, match="another selection .samples is 7"):
        select_once(config, splits=digits, output=tmp_path)


def test_an_output_is_written_over_by_the_same_selection_alone(
    digits: DataSplits, tmp_path: Path
) -> None:
    config, other = _config(type="Random"), _config(type="Random", fraction=0.3)
    for _ in range(2):
        _once(config, splits=digits, output=tmp_path)
    with pytest.raises(ValueError, match=r"another selection \(config.dss_args.fraction is 0.2 "):
        select_once(other, splits=digits, output=tmp_path)
    with pytest.raises(ValueError, match="selection.json is of lipt-cords select: choose another"):
        run(config, splits=digits, output=tmp_path)
    assert len(read_json(tmp_path / "selection.json")["indices"]) == 30
    _once(other, splits=digits, output=tmp_path, overwrite=True)
    assert len(read_json(tmp_path / "selection.json")["indices"]) == 45
    (tmp_path / "selection.json").write_text("{")
    with pytest.raises(ValueError, match="selection.json is not valid JSON .*by --overwrite"):
        select_once(other, splits=digits, output=tmp_path)
    run(config, splits=digits, output=tmp_path / "run")
    with pytest.raises(ValueError, match="results.json is of a run: choose another --output"):
        select_once(config, splits=digits, output=tmp_path / "run", overwrite=True)


def mostly_right(digits: DataSplits) -> tuple[torch.nn.Module, float]:
    """A net that was trained until it knows three quarters of the pool, and its share."""
    model = build_net(_config(), digits)
    inputs, labels = default_collate([digits.train[k] for k in range(150)])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.train()(inputs), labels).backward()
        optimizer.step()
        with torch.no_grad():
            right = (model.eval()(inputs).argmax(1) == labels).float().mean().item()
        if right >= 0.75:
            return model, right
    raise AssertionError("the net learned nothing")


def test_the_alarm_shows_in_the_command(
    digits: DataSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is mostly right; the selector of the largest errors takes the rest."""
    model, right = mostly_right(digits)
    weights = tmp_path / "net.pt"
    torch.save(model.state_dict(), weights)
    config = tmp_path / "config.yaml"
    config.write_text(
        "dataset: {name: digits, limit: 150}\n"
        "dss_args: {type: EL2N, fraction: 0.2, selection_type: Supervised}\n"
        "train_args: {device: cpu}\n"
    )
    command = ["select", str(config), "--output", str(tmp_path / "out")]
    assert main([*command, "--checkpoint", str(weights)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    warning = (
        r"warning: the model classifies ([\d.]+)% of the subset correctly, but ([\d.]+)% of the"
    )
    found = re.search(warning, said)
    assert found is not None and float(found[1]) < 30
    assert float(found[2]) == pytest.approx(100 * right, abs=5)
    gradients = last_layer_gradients(model, digits.train)
    chosen = select("random", gradients.labels, 30).indices
    assert not subset_accuracy(gradients, chosen).far_lower


def test_a_list_that_has_changed_makes_another_selection(tmp_path: Path) -> None:
    gone, split = tmp_path / "gone.csv", tmp_path / "first/split.json"
    gone.write_text("sample\nall/3\n")
    config = _config(type="Random").updated(dataset={"without": gone})
    _once(config, output=tmp_path / "first")
    _once(config, output=tmp_path / "first")  # the same again
    gone.write_text("sample\nall/4\n")
    with pytest.raises(ValueError, match=r"another selection \(files.without is .*--overwrite"):
        select_once(config, output=tmp_path / "first")
    _once(config, output=tmp_path / "first", overwrite=True)

    divided = _config(type="Random").updated(dataset={"split": split})
    _once(divided, output=tmp_path / "second")
    record = json.loads(split.read_text())
    record["train"].pop()
    split.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"another selection \(files.split is "):
        select_once(divided, output=tmp_path / "second")
