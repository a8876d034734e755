"""The doctor: finds what is there, names the remedy for what is not, and runs a real check."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lipt_cords.cli.doctor import Check, Diagnosis, diagnose


def check_of(diagnosis: Diagnosis, part: str, name: str) -> Check:
    (check,) = [one for one in diagnosis.checks if (one.part, one.name) == (part, name)]
    return check


def test_a_working_installation(tmp_path: Path) -> None:
    diagnosis = diagnose(str(tmp_path))
    assert diagnosis.healthy
    assert check_of(diagnosis, "core", "warm start and selection").status == "ok"
    gloo = "ok" if torch.distributed.is_gloo_available() else "absent"
    assert check_of(diagnosis, "backend", "gloo").status == gloo
    assert check_of(diagnosis, "data", "digits").status == "ok"
    missing = check_of(diagnosis, "data", "cifar100")
    assert missing.status == "absent" and "--download" in str(missing.remedy)
    assert json.loads(json.dumps(diagnosis.to_dict()))["healthy"] is True


def test_what_is_missing_names_its_command_and_the_core_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch_pruning", "cords"):  # Python's own mark of a module that is not there
        monkeypatch.setitem(sys.modules, name, None)
    diagnosis = diagnose()
    prune, cords = check_of(diagnosis, "extra", "prune"), check_of(diagnosis, "cords", "cords")
    assert prune.status == "absent" and prune.remedy == "pip install 'lipt-cords[prune]'"
    assert cords.status == "absent" and "--no-deps cords==0.0.4" in str(cords.remedy)
    assert diagnosis.healthy


def test_what_is_broken_is_no_crash_and_only_the_core_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cords").mkdir()
    broken = 'raise ImportError("dotmap is needed\\nsecond line")'
    (tmp_path / "cords" / "__init__.py").write_text(broken)
    for name in [one for one in sys.modules if one.partition(".")[0] == "cords"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))

    def refuse(*arguments: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    diagnosis = diagnose()
    cords = check_of(diagnosis, "cords", "cords")
    assert (cords.status, cords.detail) == ("broken", "ImportError: dotmap is needed")
    assert diagnosis.healthy
    monkeypatch.setattr("torchvision.ops.nms", refuse)
    diagnosis = diagnose()
    assert not diagnosis.healthy
    (check,) = [c for c in diagnosis.checks if c.status == "broken" and c.part == "core"]
    assert check.name == "torchvision" and "pip install" in str(check.remedy)
