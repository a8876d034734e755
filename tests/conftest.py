"""One profile of hypothesis for all tests, and which tests stay together in one process."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run. How long one takes says how busy the machine is, and no more.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together where they share a fixture, which is then made once.

    With ``--dist loadgroup`` all others go, one by one, to whichever process is free.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None and _shares(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares(item: pytest.Item) -> bool:
    defined = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return any(one.scope == "module" for fixtures in defined.values() for one in fixtures)
