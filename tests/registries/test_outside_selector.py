"""A selector from outside: one file, and it works wherever a built-in one does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crashes import Trainings
from plugin_material import Problem
from programs import run_program
from synthetic import pool

from lipt_cords.base.registry import import_modules
from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.importing import cords_version
from lipt_cords.cords.strategies import split_strategy
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.methods import Method
from lipt_cords.experiments.run import run
from lipt_cords.experiments.select_once import select_once
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors import (
    Choice,
    register_selector,
    select,
    selector_names,
    selector_options,
    unregister_selector,
)
from lipt_cords.selectors.base import needs_validation

MODULE = "outside_selector"
WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "batch_size": 16}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for name in ("nearest", "spread"):
        unregister_selector(name)
    sys.modules.pop(MODULE, None)


def _mapping(**dss: Any) -> dict[str, Any]:
    return {
        "imports": [MODULE],
        "dataset": {"name": "digits", "limit": 150},
        "dss_args": {"type": "nearest", "fraction": 0.2, "select_every": 2, **dss},
        "train_args": {"num_epochs": 2, "device": "cpu"},
        "dataloader": {"batch_size": 16},
    }


def test_in_python() -> None:
    import_modules([MODULE])
    mine, validation = pool(12), pool(6, seed=1)
    chosen = select("nearest", mine, 3, val_gradients=validation, skip=1)
    assert len(chosen) == 3 and chosen.name == "nearest"
    assert selector_options("nearest") == ("skip",) and "nearest" in selector_names()
    with pytest.raises(ValueError, match=r"'nearest' chooses by validation gradients"):
        select("nearest", mine, 3)
    with pytest.raises(ValueError, match="unknown option of selector 'nearest' 'skp'.*'skip'"):
        select("nearest", mine, 3, val_gradients=validation, skp=1)


def test_in_a_configuration_it_gets_validation_gradients() -> None:
    config = RunConfig.parse(_mapping(warm_start=WARM, options={"skip": 2}))
    assert config.imports == (MODULE,) and config.to_dict()["imports"] == [MODULE]
    record = run(config)
    assert record is not None and record.status == "ok" and record.method == "nearest"
    assert record.config["imports"] == [MODULE] and record.costs.selections == 1
    assert config.updated(train_args={"seed": 3}).imports == (MODULE,)
    made = select_once(config)
    assert made is not None and made.report.strategy == "nearest" and len(made.selection) == 30


def test_wrong_options_are_named_before_the_warm_start() -> None:
    config = RunConfig.parse(_mapping(warm_start=WARM, options={"skp": 2}))
    with Trainings() as trained:
        for attempt in (run, select_once):
            with pytest.raises(ValueError, match="selector 'nearest' 'skp'.*Did you mean 'skip'"):
                attempt(config)  # type: ignore[operator]
        with pytest.raises(ValueError, match="selector 'nearest' 'skp'"):
            compare(config, methods=["lipt"], seeds=[0])
    assert trained.begun == 0
    with pytest.raises(ValueError, match="seed is decided by the run"):
        run(RunConfig.parse(_mapping(options={"seed": 2})))


def test_in_comparisons_and_their_processes() -> None:
    config = RunConfig.parse(_mapping(type="GLISTER", selector="fast", warm_start=WARM))
    methods = ["lipt+nearest", "none+nearest/static"]
    results = compare(config, methods=methods, seeds=[0], jobs=2)
    assert [(one["status"], one["error"]) for one in results["runs"]] == [("ok", None)] * 2
    labels = [one["label"] for one in results["methods"]]
    assert labels == ["nearest after LiPT", "nearest, once"]
    assert results["config"]["imports"] == [MODULE]
    assert Method.parse("lipt+nearest").strategy("CRAIG") == "nearest"


def test_from_the_command_line(tmp_path: Path) -> None:
    """In a process of its own, whose working directory holds the module."""
    source = Path(__file__).parents[1] / "support" / f"{MODULE}.py"
    (tmp_path / "mine.py").write_text(source.read_text())
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(_mapping(selector="fast") | {"imports": []}))
    made = run_program(
        "-m", "lipt_cords", "select", path, "--import", "mine", "--json",
        "--output", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    shown = json.loads(made.stdout)
    assert shown["strategy"] == "nearest" and shown["config"]["imports"] == ["mine"]


def test_doctor_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--list", "--json", "--import", MODULE]) == 0
    listed = json.loads(capsys.readouterr().out)["names"]
    names = {(one["kind"], one["name"]): one for one in listed}
    assert names["selector", "glister"]["module"] is None
    mine = names["selector", "nearest"]
    assert mine["module"] == MODULE and mine["line"].startswith("The samples whose embeddings")
    assert main(["doctor", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "selector:" in shown and f"mean of the validation set. ({MODULE})" in shown


def test_names_that_no_module_registered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"type 'nearest'.*imports: \[MODULE\].*--import"):
        RunConfig.parse({"dss_args": {"type": "nearest"}})
    with pytest.raises(ValueError, match=r"unknown method 'lipt\+nearest'.*--import MODULE"):
        Method.parse("lipt+nearest")
    path = tmp_path / "config.yaml"
    path.write_text("dss_args: {type: nearest}\n")
    assert main(["train", str(path), "--import", "no_such_module"]) == 2
    assert "cannot import 'no_such_module'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"expected a list of modules at imports.*'outside'"):
        RunConfig.parse({"imports": "outside"})


def test_wrong_registrations_are_refused() -> None:
    with pytest.raises(ValueError, match="'GLISTER' exists already, registered by lipt_cords"):
        register_selector("GLISTER")
    for name in ("full", "my+own", "a b"):
        with pytest.raises(ValueError, match="cannot be named"):
            register_selector(name)
    with pytest.raises(ValueError, match=r"called as spread\(problem\)"):
        register_selector("spread")(lambda: None)
    with pytest.raises(ValueError, match="leave one of them out"):
        register_selector("spread", needs_validation=True, labels_only=True)


def test_a_fresh_one_is_told_the_epoch() -> None:
    @register_selector("spread", fresh=True, needs_validation=lambda options: "held" in options)
    def spread(problem: Any, *, epoch: int = 0, held: bool = False) -> Choice:
        """Every sample in turn."""
        start = epoch * problem.budget
        seen.append((epoch, problem.validation is not None))
        return Choice(torch.arange(start, start + problem.budget) % len(problem))

    seen: list[tuple[int, bool]] = []
    assert needs_validation("spread", {"held": True}) and not needs_validation("spread", {})
    run(RunConfig.parse(_mapping(type="Spread-Warm", warm_start=WARM)))
    run(RunConfig.parse(_mapping(type="spread", warm_start=WARM, options={"held": True})))
    assert seen == [(0, False), (1, False), (0, True), (1, True)]
    assert split_strategy("SpreadPB-Warm") == ("spread", True, True)


@pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")
def test_in_a_loader_of_cords_it_gets_validation_gradients_too() -> None:
    problem = Problem()
    options: dict[str, Any] = {
        "model": problem.model, "num_classes": 3, "fraction": 0.2, "selector": "Nearest",
        "options": {"skip": 1},
    }  # fmt: skip
    loaders = problem.train_loader, problem.val_loader
    with pytest.raises(ValueError, match="unknown selector .* 'Nearest'.*Import the module"):
        cords_loader("GLISTER", *loaders, options)
    import_modules([MODULE])
    loader = cords_loader("GLISTER", *loaders, options)
    loader.resample()
    report = loader.selection_report
    assert (report.strategy, report.selection_type, report.budget) == ("nearest", "Supervised", 12)
    assert report.gradient_bytes == (60 + 30) * (4 * (3 + 8 + 3) + 8)
    gradients = [last_layer_gradients(problem.model, data) for data in (problem.train, problem.val)]
    chosen = select("nearest", gradients[0], 12, val_gradients=gradients[1], per="all", skip=1)
    assert loader.subset_indices == chosen.indices.tolist()
    with pytest.raises(ValueError, match="selector 'nearest' 'skp'.*'skip'"):
        cords_loader("GLISTER", *loaders, options | {"options": {"skp": 1}})
    with pytest.raises(ValueError, match="'nearest' needs gradients, and RandomDataLoader"):
        cords_loader("Random", *loaders, options)
