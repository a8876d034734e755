"""Checks of input before any work: what was expected, what came, what to do."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipt_cords.base.arrays import as_tensor
from lipt_cords.base.devices import with_float64
from lipt_cords.models.gradients import LastLayerGradients

LARGEST_NORM = 1e15
"""Of a gradient, and of an embedding: sums of squares and products of 10^8 of them are still finite
in float32."""
_CHUNK_ELEMENTS = 1 << 22
_CHUNK_ROWS = 1 << 14


def check_budget(budget: Any, size: int) -> int:
    """A number of samples, in 1..N: the budget itself, or a fraction of all, rounded.

    >>> check_budget(30, 1000), check_budget(0.05, 1000), check_budget(1.0, 1000)
    (30, 50, 1000)
    >>> check_budget(5, 3)
    Traceback (most recent call last):
    ValueError: expected a budget between 1 and the pool's 3 samples, received 5
    """
    wrong = f"expected as budget a whole number or a fraction in (0, 1], received {budget!r}"
    if isinstance(budget, float | np.floating):
        if not 0 < budget <= 1:
            raise ValueError(wrong)
        return max(1, round(float(budget) * size))
    try:
        number = _integer("budget", budget)
    except ValueError:
        raise ValueError(wrong) from None
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


def check_labels(labels: Any) -> Tensor:
    """Labels as (N,) int64 on the CPU."""
    tensor = as_tensor("labels", labels)
    if tensor.ndim != 1 or tensor.is_floating_point():
        raise ValueError(
            f"expected integer labels of shape (N,), received {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    if tensor.numel() == 0:
        raise ValueError("expected a pool of at least one sample, received an empty one")
    return tensor.to("cpu", torch.int64)


def check_gradients(
    gradients: LastLayerGradients, name: str, linear_layer: bool = True
) -> LastLayerGradients:
    """The gradients as float32 tensors that selectors can square and add up.

    They are on one device, that of the logit gradients, or on the CPU if that lacks float64.

    Args:
        gradients: of any floating-point precision, with any strides, as tensors or arrays. What
            is float32 already is not copied.
        name: what they are called in errors.
        linear_layer: whether the embeddings will be used.

    Raises:
        ValueError: shapes that do not match; rows, which are named, that hold NaN or infinity, or
            whose gradient or embedding is longer than `LARGEST_NORM`.
    """
    parts = {
        part: as_tensor(f"{part} of {name}", getattr(gradients, part))
        for part in ("logit_grads", "embeddings", "labels", "logits")
    }
    for part, values in parts.items():
        if values.ndim != (1 if part == "labels" else 2):
            shape = "(N,)" if part == "labels" else "(N, width)"
            raise ValueError(
                f"expected {part} of {name} of shape {shape}, received {tuple(values.shape)}"
            )
    sizes = {part: len(values) for part, values in parts.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected {name} of one length, received {sizes}: rebuild them together")
    indices = gradients.indices
    if indices is not None:
        indices = as_tensor(f"indices of {name}", indices).cpu()
        if indices.shape != (sizes["labels"],) or indices.is_floating_point():
            raise ValueError(
                f"expected integer indices of {name} of shape ({sizes['labels']},), received "
                f"{indices.dtype} of shape {tuple(indices.shape)}"
            )
        indices = indices.to(torch.int64)
    if parts["labels"].is_floating_point():
        raise ValueError(f"expected integer labels of {name}, received {parts['labels'].dtype}")
    device = with_float64(parts["logit_grads"].device)  # in which selectors decide
    floats = {
        part: parts[part].to(device, torch.float32)
        for part in ("logit_grads", "embeddings", "logits")
    }
    labels = parts["labels"].to(device, torch.int64)
    ready = LastLayerGradients(**floats, labels=labels, indices=indices)
    _check_rows(ready, name, linear_layer)
    return ready


def _check_rows(gradients: LastLayerGradients, name: str, linear_layer: bool) -> None:
    """Read in chunks: the tensors may be mapped from files."""
    used = {"logit_grads": gradients.logit_grads}
    if linear_layer:
        used["embeddings"] = gradients.embeddings
    bounds = []
    for part, values in used.items():
        rows, largest = _bad_rows(values)
        if rows:
            raise ValueError(
                f"expected finite {name}, received NaN or infinity in {len(rows)} row(s) of "
                f"{part}: {_shown(rows)}. Check the model's weights and these samples"
            )
        bounds.append(largest * values.shape[1] ** 0.5)
    if bounds[0] * (1 + sum(bounds[1:])) < LARGEST_NORM and max(bounds) < LARGEST_NORM:
        return
    lengths = []
    for start in range(0, len(gradients), _CHUNK_ROWS):
        some = slice(start, start + _CHUNK_ROWS)
        norms = torch.linalg.vector_norm(gradients.logit_grads[some], dim=1, dtype=torch.float64)
        if linear_layer:
            widths = torch.linalg.vector_norm(
                gradients.embeddings[some], dim=1, dtype=torch.float64
            )
            norms = torch.maximum(norms * (1 + widths.square()).sqrt(), widths)
        lengths.append(norms.cpu())
    every = torch.cat(lengths)
    rows = torch.nonzero(every > LARGEST_NORM).flatten().tolist()
    if rows:
        raise ValueError(
            f"expected {name} and embeddings of norms up to {LARGEST_NORM:.0e}, whose products "
            f"float32 can hold, received larger ones in {len(rows)} row(s): {_shown(rows)} (the "
            f"largest is {float(every.max()):.1e}). The model has diverged, or the inputs of its "
            "head are not scaled: lower the learning rate, or normalise"
        )


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def check_scores(name: str, scores: Any, size: int) -> Tensor:
    """One finite score a sample, as (N,) float64 on the CPU."""
    values = as_tensor(name, scores).to("cpu", torch.float64)
    if values.shape != (size,):
        raise ValueError(
            f"expected {name} of shape ({size},), one a sample that is chosen from, received "
            f"{tuple(values.shape)}. Scores of a whole data set belong to a part of it by "
            "scores[gradients.indices]"
        )
    if not bool(torch.isfinite(values).all()):
        rows = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
        raise ValueError(
            f"expected finite {name}, received NaN or infinity in {len(rows)} row(s): "
            f"{_shown(rows)}. Check the model that scored and these samples"
        )
    return values


def check_classes(gradients: LastLayerGradients, name: str) -> None:
    """Labels that are outputs of the head."""
    labels, classes = gradients.labels, gradients.logits.shape[1]
    rows = torch.nonzero((labels < 0) | (labels >= classes)).flatten().tolist()
    if rows:
        raise ValueError(
            f"expected labels of {name} in [0, {classes}), the outputs of the head, received "
            f"{int(labels[rows[0]])} in row {rows[0]} ({len(rows)} such row(s))"
        )


def _bad_rows(values: Tensor) -> tuple[list[int], float]:
    """Rows holding NaN or infinity, and the largest magnitude where there are none."""
    bad: list[int] = []
    largest = 0.0
    step = max(1, _CHUNK_ELEMENTS // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        chunk = values[start : start + step]
        if not chunk.numel():
            continue
        low, high = torch.aminmax(chunk)  # NaN if any is
        most = max(-float(low), float(high))
        if math.isfinite(most):
            largest = max(largest, most)
            continue
        finite = torch.isfinite(chunk).all(dim=1)
        bad.extend((torch.nonzero(~finite).flatten() + start).tolist())
    return bad, largest


def check_validation(
    pool: LastLayerGradients | None, validation: LastLayerGradients, linear_layer: bool
) -> LastLayerGradients:
    """Validation gradients of the same head as the pool's, with finite logits too."""
    if len(validation.labels) == 0:
        raise ValueError("expected validation gradients of at least one sample, received none")
    validation = check_gradients(validation, "validation gradients", linear_layer)
    rows, _ = _bad_rows(validation.logits)
    if rows:
        raise ValueError(
            f"expected finite validation logits, received NaN or infinity in {len(rows)} row(s): "
            f"{_shown(rows)}. Check the model's weights and these samples"
        )
    if pool is None:
        return validation
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
    return validation
