"""Seeds and generators: every draw comes from one seed and a name, equal on all launchers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lipt_cords.base.devices import preserved_random_states


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive an independent 63-bit seed for one named use of randomness.

    >>> derive_seed(0, "worker", 1) != derive_seed(0, "worker", 2)
    True
    >>> derive_seed(0, "worker", 1) == derive_seed(0, "worker", 1)
    True
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """An explicit generator for one named use of randomness."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the global random states of torch, numpy and random on exit."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with preserved_random_states():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def seed_global_states(value: int) -> None:
    """Seed torch, numpy and random; only call it inside :func:`preserved_rng`."""
    torch.manual_seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002
    random.seed(value)


@contextmanager
def isolated_rng(seed: int, *names: str | int) -> Iterator[None]:
    """Seed the global random states inside, and restore the caller's afterwards.

    For code that draws only from global state: dropout, a user's random transforms, CORDS.
    """
    with preserved_rng():
        seed_global_states(derive_seed(seed, *names))
        yield
