"""The identity of a run: all on which its bits depend, as a description and a hash.

Ranks compare it before training, and files hold its hash, so files of another run, another version
or other data are never merged.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.base.registry import Registry
from lipt_cords.models.described import without_addresses
from lipt_cords.models.modes import kept_in_eval
from lipt_cords.models.state import digest, tensor_state
from lipt_cords.training.optimizers import OPTIMIZERS
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.codecs import CODECS
from lipt_cords.warmstart.merge.outer import OUTER_STEPS
from lipt_cords.warmstart.merge.soup import SOUPS
from lipt_cords.warmstart.workers.augment import AUGMENTATIONS
from lipt_cords.warmstart.workers.sparsity import SPARSITIES

UNRELATED = {
    "device", "progress", "work_dir", "launch", "processes", "max_restarts", "min_workers",
    "worker_timeout", "join_timeout", "keep_workers", "start_from", "memory_budget",
    "memory_bandwidth",
}  # fmt: skip
"""Options that do not change the weights of a run."""
DECIDES_BITS = (
    "base/devices.py", "base/randomness.py", "data", "models", "training/cheaper",
    "training/evaluation.py", "training/muon.py",
    "training/optimizers.py", "training/schedules.py", "training/step.py",
    "warmstart/common_start.py", "warmstart/early_bird.py", "warmstart/lipt.py",
    "warmstart/merge", "warmstart/one_rank.py", "warmstart/plan.py", "warmstart/prepare",
    "warmstart/ranks/exchange.py", "warmstart/ranks/ranks.py",
    "warmstart/resume", "warmstart/round_inputs.py", "warmstart/run.py", "warmstart/team.py",
    "warmstart/watch/probe.py", "warmstart/watch/readings.py",
    "warmstart/watch/sample_log.py", "warmstart/watch/stability.py", "warmstart/watch/stop.py",
    "warmstart/watch/stop_rule.py", "warmstart/worker_results.py", "warmstart/workers",
)  # fmt: skip
"""Files and folders of this package on which the bits or the files of a warm start depend."""
KINDS: dict[str, Registry[Any]] = {
    "augmentation": AUGMENTATIONS,
    "codec": CODECS,
    "optimizer": OPTIMIZERS,
    "outer": OUTER_STEPS,
    "soup": SOUPS,
    "sparsity": SPARSITIES,
}
"""Options that are names in a registry, which a user's module may have registered."""


def describe_run(
    config: WarmStartConfig, model: nn.Module, samples: int, device: torch.device
) -> dict[str, Any]:
    """What all ranks must share: options, architecture, size of the data, versions."""
    options = config.model_dump(mode="json", exclude=UNRELATED)
    shapes = [(name, tuple(t.shape), str(t.dtype)) for name, t in tensor_state(model).items()]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    layers = without_addresses(repr(model))  # strides, activations, dropout
    net = (shapes, trained, layers, kept_in_eval(model))
    description = {
        **options,
        "architecture": hashlib.sha256(repr(net).encode()).hexdigest()[:16],
        "size of the data": samples,
        "kind of device": device.type,
        "torch": torch.__version__,
        "code of the warm start": code_hash(DECIDES_BITS),
    }
    for option, registry in KINDS.items():
        description |= registry.foreign_code(getattr(config, option))
    return description


def complete_description(
    description: Mapping[str, Any],
    weights: str,
    labels: Tensor,
    shards: Sequence[Tensor],
    behaviour: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The description, with what only rank 0 knows: digests of weights, labels and shards."""
    named = {f"{number:05d}": shard for number, shard in enumerate(shards)}
    return {
        **description,
        "initial weights": weights,
        "labels": digest({"labels": labels})[:16],
        "shards": digest(named)[:16],
        **(behaviour or {}),
    }


def hash_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_hash(parts: tuple[str, ...] = (".",)) -> str:
    """A hash of this package's source.

    Args:
        parts: files and folders of the package; by default all of it.
    """
    root = Path(__file__).resolve().parents[2]
    paths = {path for part in parts for path in _sources(root / part)}
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:16]


def _sources(place: Path) -> list[Path]:
    return list(place.rglob("*.py")) if place.is_dir() else [place]
