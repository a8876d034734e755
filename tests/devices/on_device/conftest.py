"""These tests need the emulated accelerator: ``pytest --emulated-device``.

With ``LIPT_CORDS_NO_FLOAT64=1`` it has no float64, as MPS.
"""

from __future__ import annotations

import os

import pytest
import torch


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.getoption("--emulated-device") else True


def pytest_collection_finish(session: pytest.Session) -> None:
    if os.environ.get("LIPT_CORDS_NO_FLOAT64"):
        torch.emulated.has_float64 = False  # type: ignore[attr-defined]
