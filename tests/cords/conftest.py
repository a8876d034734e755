"""Fixtures of the plug-in's tests."""

from __future__ import annotations

import pytest
from plugin_material import FakeWarmStart, Problem, compile_once

from lipt_cords.cords.patches import disable, enable


@pytest.fixture
def plugged():
    enable()
    yield
    disable()


@pytest.fixture
def fake_warm_start(monkeypatch):
    """Each of many loaders would train for a second: one of them does so, end to end."""
    FakeWarmStart.fits = []
    monkeypatch.setattr("lipt_cords.warmstart.warm_start.LiPTWarmStart", FakeWarmStart)
    return FakeWarmStart.fits


@pytest.fixture
def problem():
    return Problem()


@pytest.fixture
def adaptive():
    """CORDS's package of adaptive loaders."""
    import importlib

    from lipt_cords.cords.importing import import_cords

    import_cords()
    compile_once()
    return importlib.import_module("cords.utils.data.dataloader.SL.adaptive")


@pytest.fixture
def build(plugged, adaptive, problem):
    """Build one of CORDS's loaders with the plug-in enabled and some options changed."""

    def run(strategy="GLISTER", **changes):
        return problem.build(getattr(adaptive, f"{strategy}DataLoader"), **changes)

    return run
