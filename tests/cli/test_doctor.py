"""The doctor: finds what is there, names the remedy for what is not, and runs a real check."""

from __future__ import annotations

import json

import pytest

from lipt_cords.cli import doctor
from lipt_cords.cli.doctor import diagnose


def test_a_working_installation(tmp_path: object) -> None:
    diagnosis = diagnose(str(tmp_path))
    checks = {(check.part, check.name): check for check in diagnosis.checks}
    assert diagnosis.healthy
    assert checks["core", "warm start and selection"].status == "ok"
    assert checks["backend", "gloo"].status in ("ok", "absent")
    assert checks["data", "digits"].status == "ok"
    missing = checks["data", "cifar100"]
    assert missing.status == "absent" and "--download" in str(missing.remedy)
    assert json.loads(json.dumps(diagnosis.to_dict()))["healthy"] is True


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "prune", ("no_such_module",))
    check = doctor._extra("prune", doctor.EXTRAS["prune"])
    assert check.status == "absent" and check.remedy == "pip install 'lipt-cords[prune]'"


def test_cords_absent_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipt_cords.cords import importing as cords_plugin

    monkeypatch.setattr(cords_plugin, "cords_version", lambda: None)
    check = doctor._cords()
    assert check.status == "absent" and "--no-deps cords==0.0.4" in str(check.remedy)

    def refuse() -> None:
        raise ImportError("dotmap is needed\nsecond line")

    monkeypatch.setattr(cords_plugin, "cords_version", lambda: "0.0.4")
    monkeypatch.setattr(cords_plugin, "import_cords", refuse)
    check = doctor._cords()
    assert (check.status, check.detail) == ("broken", "ImportError: dotmap is needed")


def test_a_broken_core_is_unhealthy_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(version: str | None) -> str:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "_torchvision", broken)
    diagnosis = diagnose()
    assert not diagnosis.healthy
    (check,) = [c for c in diagnosis.checks if c.status == "broken" and c.part == "core"]
    assert check.name == "torchvision" and "pip install" in str(check.remedy)
