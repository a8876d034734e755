"""Checks of input before any work: what was expected, what came, what to do."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from lipt_cords.models.gradients import LastLayerGradients

_CHUNK_ELEMENTS = 1 << 22


def check_budget(budget: Any, size: int) -> int:
    """An integer in 1..N.

    >>> check_budget(5, 3)
    Traceback (most recent call last):
    ValueError: expected a budget between 1 and the pool's 3 samples, received 5
    """
    number = _integer("budget", budget)
    if not 1 <= number <= size:
        raise ValueError(
            f"expected a budget between 1 and the pool's {size} samples, received {number}"
        )
    return number


def check_positive(name: str, value: Any) -> int:
    """An integer of at least 1."""
    number = _integer(name, value)
    if number < 1:
        raise ValueError(f"expected {name} of at least 1, received {number}")
    return number


def check_fraction(name: str, value: float, *, below: float = 1.0) -> float:
    """A number in [0, below)."""
    if not 0.0 <= float(value) < below:
        raise ValueError(f"expected {name} in [0, {below}), received {value}")
    return float(value)


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(
            f"expected an integer {name}, received {value!r} ({type(value).__name__})"
        ) from None


def check_labels(labels: Tensor) -> Tensor:
    """Labels as (N,) int64 on the CPU."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"expected integer labels of shape (N,), received {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if labels.numel() == 0:
        raise ValueError("expected a pool of at least one sample, received an empty one")
    return labels.detach().to("cpu", torch.int64)


def check_finite(gradients: LastLayerGradients, name: str, linear_layer: bool = True) -> None:
    """Matching numbers of rows, and no NaN or infinity in what will be used.

    Raises:
        ValueError: naming the first rows that are not finite.
    """
    sizes = {
        "logit_grads": gradients.logit_grads.shape[0],
        "embeddings": gradients.embeddings.shape[0],
        "labels": gradients.labels.shape[0],
        "logits": gradients.logits.shape[0],
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected {name} of one length, received {sizes}: rebuild them together")
    used = {"logit_grads": gradients.logit_grads}
    if linear_layer:
        used["embeddings"] = gradients.embeddings
    for part, values in used.items():
        rows = _bad_rows(values)
        if rows:
            shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
            raise ValueError(
                f"expected finite {name}, received NaN or infinity in {len(rows)} row(s) of "
                f"{part}: {shown}. Check the model's weights and these samples"
            )


def check_scores(name: str, scores: Tensor, size: int) -> Tensor:
    """One finite score a sample, as (N,) float64 on the CPU."""
    scores = torch.as_tensor(scores).detach().to("cpu", torch.float64)
    if scores.shape != (size,):
        raise ValueError(f"expected {name} of shape ({size},), received {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        rows = torch.nonzero(~torch.isfinite(scores)).flatten()[:5].tolist()
        raise ValueError(f"expected finite {name}, received NaN or infinity in rows {rows}")
    return scores


def _bad_rows(values: Tensor) -> list[int]:
    """Rows holding NaN or infinity, read in chunks: the tensor may be mapped from a file."""
    bad: list[int] = []
    width = max(1, values[:1].numel())
    step = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, values.shape[0], step):
        chunk = values[start : start + step]
        if bool(torch.isfinite(chunk.sum(dtype=torch.float32))):
            continue  # a finite sum has finite terms
        finite = torch.isfinite(chunk).flatten(1).all(dim=1)
        bad.extend((torch.nonzero(~finite).flatten() + start).tolist())
    return bad


def check_validation(
    pool: LastLayerGradients | None, validation: LastLayerGradients, linear_layer: bool
) -> None:
    """Validation gradients of the same head as the pool's."""
    if len(validation.labels) == 0:
        raise ValueError("expected validation gradients of at least one sample, received none")
    check_finite(validation, "validation gradients", linear_layer)
    if pool is None:
        return
    for name, mine, theirs in (
        ("classes", pool.logit_grads.shape[1], validation.logit_grads.shape[1]),
        ("embedding widths", pool.embeddings.shape[1], validation.embeddings.shape[1]),
        ("devices", pool.logit_grads.device, validation.logit_grads.device),
    ):
        if mine != theirs:
            raise ValueError(
                f"expected pool and validation gradients of one model, received {name} "
                f"{mine} and {theirs}: compute both with the same model and device"
            )
