"""``model: {timm: ...}`` and ``model: {import: ...}`` in configurations and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lipt_cords.cli.commands import app
from lipt_cords.cords.config import RunConfig, load_config

SMALL: dict[str, Any] = {
    "dataset": {"name": "digits", "limit": 120},
    "dss_args": {"type": "Random", "fraction": 0.2, "kappa": 0, "selector": "fast"},
    "train_args": {"num_epochs": 1, "device": "cpu"},
}


def test_both_spellings_are_one_key_and_round_trip() -> None:
    timm = RunConfig.parse({"model": {"timm": "resnet18"}})
    assert timm.model.architecture == "timm:resnet18" and timm.imports == ()
    own = RunConfig.parse({"model": {"import": "outside_net:make_net", "numclasses": 3}})
    assert own.model.architecture == "outside_net:make_net" and own.imports == ("outside_net",)
    assert own.model.numclasses == 3
    for config in (timm, own):
        assert RunConfig.parse(config.given()) == config


def test_an_override_replaces_the_net_of_the_file() -> None:
    given = {"model": {"architecture": "cnn"}}
    assert RunConfig.parse(given, ["model.timm=resnet18"]).model.architecture == "timm:resnet18"
    given = {"model": {"timm": "resnet18"}}
    assert RunConfig.parse(given, ["model.architecture=cnn"]).model.architecture == "cnn"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"timm": "a", "architecture": "cnn"}, "model names 2 nets, by architecture and by timm"),
        ({"timm": 3}, "expected a name such as resnet18 at model.timm, received 3"),
        ({"import": "make_net"}, "expected my_module:make_net at model.import, received 'make"),
        ({"import": "no_such_module:net"}, "cannot import 'no_such_module'"),
    ],
)
def test_wrong_nets_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunConfig.parse({"model": model})


def test_no_code_refuses_a_module(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": {"import": "outside_net:sized"}}))
    with pytest.raises(ValueError, match="'outside_net', whose code would be executed"):
        load_config(path, code=False)


@pytest.mark.parametrize("model", [{"import": "outside_net:sized"}, {"timm": "test_resnet"}])
def test_a_run_on_the_command_line(model: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "model": model}))
    done = CliRunner().invoke(app, ["train", str(path), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/results.json").is_file()
