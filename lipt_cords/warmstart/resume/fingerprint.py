"""The fingerprint of a run: values of data, model and loss on a few samples.

It distinguishes runs with the same options and names: inputs, held-out data, attributes of a model
and constants of a loss are not part of any name. What cannot be tried is skipped and named, and so
is what gives different values at every try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.messages import travels
from lipt_cords.data.batches import Inputs
from lipt_cords.data.source import BatchSource
from lipt_cords.data.steadiness import spread
from lipt_cords.models.copies import copy_model
from lipt_cords.models.described import first_that_works, loss_value, rounded, steady
from lipt_cords.models.heads import run_model, undisturbed
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.outputs import tensors_in
from lipt_cords.models.state import digest, tensor_state

INPUTS, HELD_OUT = "some of the training inputs", "some of the held-out data"
LOSS, OUTPUTS = "value of the loss", "value of the model's outputs"
SAMPLES = 16
"""Samples that are compared; they are spread evenly over a data set."""
TRIED = 4
"""Samples on which the model is tried, on the CPU."""
_ONLY = ""


@travels
@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint that one rank computed.

    Attributes:
        weights: digest of the weights behind the outputs; it may differ between ranks.
        values: by name; None where there is none. In their order a cause comes before its effects.
        unknown: why some values are missing.
    """

    weights: str
    values: dict[str, str | None] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def difference(self, other: Fingerprint) -> str | None:
        """The first value that differs on another rank, in words; None if all agree."""
        for name in sorted(self.values):
            mine, theirs = self.values[name], other.values.get(name)
            comparable = name != OUTPUTS or self.weights == other.weights
            if comparable and None not in (mine, theirs) and mine != theirs:
                return f"{name} is {theirs!r} there and {mine!r} here"
        return None


def fingerprint(
    model: nn.Module,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
    loss: LossFunction | None,
    *,
    classes: int,
    seed: int,
    device: torch.device,
) -> Fingerprint:
    """Read a few samples and try model and loss on them, without changing anything.

    Args:
        model: as it was given.
        dataset: the training set.
        val_dataset: held-out data, or None.
        loss: as it was given.
        classes: outputs of the model.
        seed: of random transforms, so that all ranks get the same samples.
        device: where to try a loss that cannot be tried on the CPU.
    """
    found = Fingerprint(digest(tensor_state(model))[:16])

    def note(name: str, compute: Callable[[], str]) -> None:
        value = steady(compute, seed)
        if isinstance(value, Exception):
            reason = str(value).partition("\n")[0][:200]
            found.unknown.append(f"{name} ({type(value).__name__}: {reason})")
        found.values[name] = None if isinstance(value, Exception) else value

    read: list[Inputs] = []

    def sample_of(data: Dataset[Any]) -> str:
        indices = spread(len(data), SAMPLES)  # type: ignore[arg-type]
        source = BatchSource(data, indices, cache_bytes=0)
        inputs, labels = next(source.batches(batch_size=SAMPLES))
        read.append(inputs)
        return digest({**dict(sorted(_columns(inputs).items())), "labels": labels})[:16]

    note(INPUTS, lambda: sample_of(dataset))
    if found.values[INPUTS] is not None:
        few = {name: value[:TRIED] for name, value in _columns(read[0]).items()}
        note(OUTPUTS, lambda: _outputs(model, few))
    if val_dataset is not None:
        held_out = val_dataset
        note(HELD_OUT, lambda: sample_of(held_out))
    note(LOSS, lambda: loss_value(loss, classes, seed, device))
    return found


def require_alike(found: list[Fingerprint]) -> None:
    """Check that all ranks computed the same fingerprint.

    Raises:
        ValueError: a rank has other data, another model or another loss; it is named.
    """
    for rank, one in enumerate(found):
        if (differing := found[0].difference(one)) is not None:
            raise ValueError(
                f"rank {rank} differs from rank 0: {differing}. Give every rank the same data in "
                "the same order, the same model and the same loss"
            )


def _columns(inputs: Inputs) -> dict[str, Tensor]:
    return {_ONLY: inputs} if isinstance(inputs, Tensor) else inputs


def _outputs(model: nn.Module, columns: dict[str, Tensor]) -> str:
    """Outputs of a copy of the model on the CPU, in float64 if possible: its rounding is small."""

    def outputs(wide: bool) -> str:
        scratch = copy_model(model).cpu()
        given = columns
        if wide:
            scratch = scratch.double()
            given = {name: _widened(value) for name, value in columns.items()}
        with undisturbed(scratch):
            output = run_model(scratch, given.get(_ONLY, given))
            return rounded(torch.cat([one.flatten() for _, one in tensors_in(output)]))

    return first_that_works([lambda: outputs(True), lambda: outputs(False)])


def _widened(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
