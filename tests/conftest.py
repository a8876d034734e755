"""One profile of hypothesis for all tests, and the order of their files."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run. How long one takes says how busy the machine is, and no more.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

collect_ignore = ["support"]
"""These are read by tests; whoever looks into them for doctests would register what they add."""

LONGEST = (
    "pages/test_docs.py", "ranks/test_faults.py", "devices/test_emulated.py",
    "ranks/test_launch.py", "memory/test_planner.py", "cheaper/test_cheaper_steps.py",
    "test_local_processes.py", "cords/test_importing.py", "warmstart/test_ticket.py",
    "warmstart/test_lipt.py", "experiments/test_compare.py", "unlearning/test_forget.py",
    "cheaper/test_paths.py",
)  # fmt: skip
"""Files that begin first, so that none is left alone at the end when processes share them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulated-device",
        action="store_true",
        help="let device='auto' mean an accelerator that is emulated on the CPU (README of tests)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--emulated-device"):
        import emulated_device

        emulated_device.switch_on()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the sort keeps the order of all others."""

    def place(item: pytest.Item) -> int:
        path = item.nodeid.partition("::")[0]
        return next((n for n, name in enumerate(LONGEST) if path.endswith(name)), len(LONGEST))

    items.sort(key=place)
