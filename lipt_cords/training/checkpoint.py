"""A run's state on disk, complete or absent, so that a resumed run equals an uninterrupted one.

All that decides the next step is stored: weights, optimizer, schedule, the loader's subset and
counters, and the random states, since CORDS and DataLoaders draw from the global ones. Files hold
only tensors and plain values; reading them executes nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipt_cords.base.devices import random_states as random_states_there
from lipt_cords.base.devices import set_random_states as set_random_states_there
from lipt_cords.base.differences import differences
from lipt_cords.base.tensor_files import load_plain, save_plain

logger = logging.getLogger(__name__)

FORMAT = "lipt_cords.checkpoint"
VERSION = 3
"""Since 3 a checkpoint has a checksum; earlier ones cannot be checked, and are not resumed."""


def save_checkpoint(
    path: str | Path, state: Mapping[str, Any], *, identity: Mapping[str, Any]
) -> Path:
    """Write a checkpoint atomically, with its checksum.

    Args:
        path: the file.
        state: tensors, numbers, strings, and dicts, lists or tuples of them.
        identity: the settings of the run; a checkpoint of other settings is refused later.
    """
    payload = {"format": FORMAT, "version": VERSION, "identity": dict(identity), "state": state}
    return save_plain(path, payload)


def load_checkpoint(
    path: str | Path, *, identity: Mapping[str, Any], remedy: str = "delete it and run again"
) -> dict[str, Any]:
    """Read a checkpoint back onto the CPU.

    Args:
        path: the file.
        identity: the settings of the run.
        remedy: what to do about a damaged one.

    Raises:
        ValueError: the file is missing, truncated, damaged, of another program or version, or of
            a run with other settings; the file and the settings are named.
    """
    path = Path(path)
    payload, has_seal = load_plain(
        path,
        what=f"the checkpoint {path}",
        expected="a whole checkpoint",
        remedy=remedy,
    )
    ours = isinstance(payload, dict) and {"version", "identity", "state"} <= payload.keys()
    if not ours or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of lipt_cords: choose another directory")
    if payload["version"] != VERSION:
        raise ValueError(
            f"{path} has checkpoint version {payload['version']}, expected {VERSION}: "
            "resume it with the lipt_cords that wrote it"
        )
    require_seal(path, payload, has_seal, remedy)
    different = list(differences(identity, payload["identity"]))
    if different:
        raise ValueError(
            f"{path} belongs to a run with other settings ({'; '.join(different[:5])}): "
            "resume with the same ones, or choose another directory"
        )
    state: dict[str, Any] = payload["state"]
    return state


def require_seal(path: Path, payload: Mapping[str, Any], has_seal: bool, remedy: str) -> None:
    """Check that a checkpoint has the checksum that it was written with.

    One of an earlier version has none; a warning says so.

    Raises:
        ValueError: the checksum is damaged.
    """
    if has_seal:
        return
    if payload.get("version") in (1, 2):
        logger.warning("%s was written by an earlier version, without a checksum", path)
        return
    raise ValueError(f"{path} has no whole checksum: it is damaged; {remedy}")


def random_states() -> dict[str, Any]:
    """The global random states of torch, numpy and random as tensors and plain values."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, gauss = numpy_state
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), next_gauss],
        "accelerators": list(random_states_there()),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the global random states; only call it inside ``isolated_rng``."""
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))
    set_random_states_there(states["accelerators"])
