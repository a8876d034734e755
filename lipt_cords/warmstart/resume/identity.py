"""What a run is: all that its bits depend on, as a description and a hash.

Ranks compare it before anyone trains, and files carry its hash, so that nothing of another run,
another version or other data is ever merged.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import tensor_state
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.resume.folder import digest

UNRELATED = {
    "device", "progress", "work_dir", "launch", "processes", "max_restarts", "min_workers",
    "worker_timeout", "join_timeout", "keep_workers", "start_from", "memory_budget",
    "memory_bandwidth",
}  # fmt: skip
"""Options that change how or where a run is made, but not its weights."""


def describe_run(
    config: WarmStartConfig, model: nn.Module, samples: int, device: torch.device
) -> dict[str, Any]:
    """All that ranks must have in common: options, architecture, size of the data, versions."""
    options = config.model_dump(mode="json", exclude=UNRELATED)
    shapes = [(name, tuple(t.shape), str(t.dtype)) for name, t in tensor_state(model).items()]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # strides, activations, dropout
    return {
        **options,
        "architecture": hashlib.sha256(repr((shapes, trained, layers)).encode()).hexdigest()[:16],
        "size of the data": samples,
        "kind of device": device.type,
        "torch": torch.__version__,
        "code of lipt_cords": code_hash(),
    }


def complete_description(
    description: Mapping[str, Any],
    weights: str,
    labels: Tensor,
    shards: Sequence[Tensor],
    behaviour: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """What rank 0 knows beside: digest of the initial weights, labels, shards; what it tried."""
    named = {f"{number:05d}": shard for number, shard in enumerate(shards)}
    return {
        **description,
        "initial weights": weights,
        "labels": digest({"labels": labels})[:16],
        "shards": digest(named)[:16],
        **(behaviour or {}),
    }


def describe_loss(loss: LossFunction | None) -> str:
    """What can be said of a loss: its name, and its options and weights if it is a module."""
    if loss is None:
        return "cross-entropy"
    if not isinstance(loss, nn.Module):
        return str(getattr(loss, "__qualname__", type(loss).__qualname__))
    plain = {k: v for k, v in vars(loss).items() if isinstance(v, bool | int | float | str)}
    plain.pop("training", None)
    return f"{type(loss).__qualname__} {sorted(plain.items())} {digest(loss.state_dict())[:16]}"


def hash_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_hash() -> str:
    """A hash of this package's source, so that ranks of two versions notice each other."""
    root = Path(__file__).resolve().parents[2]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()[:16]
