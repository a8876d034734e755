"""The replay of DeltaGrad: a training is walked through again, and most of its steps corrected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipt_cords.warmstart.lbfgs import CompactHessian

logger = logging.getLogger(__name__)

MeanGradient = Callable[[Tensor, Tensor], Tensor]
"""Of flat weights and samples: the mean gradient of the samples' losses."""


@dataclass(frozen=True)
class Replay:
    """What a change took.

    Attributes:
        explicit: steps whose gradients were computed.
        steps: all steps that were replayed.
        sample_gradients: gradients of samples that were computed.
        retraining_gradients: as many as training anew would compute.
        curvature: the largest that was seen: the gradient's change over the distance. Times ``lr``
            it must stay below 2.
    """

    explicit: int
    steps: int
    sample_gradients: int
    retraining_gradients: int
    curvature: float


@dataclass(frozen=True)
class Rule:
    """Which steps are computed, and what plain SGD does with a gradient."""

    lr: float
    l2: float
    period: int
    burn_in: int
    memory: int
    tolerance: float


@dataclass(frozen=True)
class Trained:
    """A training, step by step.

    Attributes:
        start: flat weights before it, shape (d,).
        batches: samples of every step.
        weights: before every step, shape (steps, d).
        gradients: mean data gradients of every step, shape (steps, d).
        final: weights after it, shape (d,).
    """

    start: Tensor
    batches: list[Tensor]
    weights: Tensor
    gradients: Tensor
    final: Tensor


def train(
    start: Tensor, batches: list[Tensor], mean_gradient: MeanGradient, rule: Rule, *, keep: bool
) -> Trained:
    """Plain SGD; batches without samples are passed over.

    Args:
        keep: hold the weights and gradients of every step; there are none otherwise.
    """
    now = start.clone()
    weights = torch.empty(len(batches) if keep else 0, len(now), dtype=now.dtype)
    gradients = torch.empty_like(weights)
    for step, batch in enumerate(batches):
        if len(batch) == 0:
            continue
        gradient = mean_gradient(now, batch)
        if keep:
            weights[step], gradients[step] = now, gradient
        now = now - rule.lr * (gradient + rule.l2 * now)
    return Trained(start, batches, weights, gradients, now)


def replay(
    known: Trained,
    gone: list[Tensor],
    come: list[Tensor],
    present: list[Tensor],
    mean_gradient: MeanGradient,
    rule: Rule,
) -> tuple[Tensor, Replay]:
    """The weights that the training ends with when its batches are others.

    It is always the training itself that is corrected, with all that has changed since, and never
    an earlier replay: errors of one request do not go into the next one.

    Args:
        known: the training.
        gone: of every step, its samples that have left.
        come: of every step, samples that were not in its batch and now are.
        present: of every step, its samples now.
        mean_gradient: of the loss.
        rule: which steps are computed.
    """
    hessian, now = CompactHessian(rule.memory), known.start.clone()
    explicit = computed = 0
    trusted, curvature = True, 0.0
    for step, batch in enumerate(present):
        out, new, before = gone[step], come[step], len(known.batches[step])
        if len(batch) == 0:
            continue
        moved, gradient = now - known.weights[step], known.gradients[step]
        still = float(moved.norm()) == 0.0
        due = step < rule.burn_in or (step - rule.burn_in) % rule.period == 0
        if still and not len(out) and not len(new):
            data = gradient  # the very step that was taken
        elif due or not trusted or len(hessian) < rule.memory or len(batch) <= len(out):
            data = mean_gradient(now, batch)
            whole = (len(batch) * data + _sum(mean_gradient, now, out, new)) / before
            computed += len(batch) + len(out) + len(new)
            explicit += 1
            change = whole - gradient + rule.l2 * moved
            trusted = _agrees(hessian, moved, change, rule)
            if not still:
                curvature = max(curvature, float(change.norm() / moved.norm()))
                hessian.add(moved, change)
        else:
            data = hessian.product(moved) + gradient - rule.l2 * moved
            if len(out) or len(new):
                theirs = _sum(mean_gradient, now, out, new)
                data = (before * data - theirs) / len(batch)
                computed += len(out) + len(new)
        now = now - rule.lr * (data + rule.l2 * now)
    if rule.lr * curvature > 2:
        logger.warning(
            "lr x curvature = %.1f, above 2: steps overshoot, and the replay drifts away from "
            "training anew; lower lr (received %g), or standardise the inputs",
            rule.lr * curvature, rule.lr,
        )  # fmt: skip
    return now, Replay(explicit, len(present), computed, sum(map(len, present)), curvature)


def _sum(mean_gradient: MeanGradient, now: Tensor, out: Tensor, new: Tensor) -> Tensor:
    """The sum of gradients of samples that have left, less that of samples that have come."""
    total = torch.zeros_like(now)
    if len(out):
        total += len(out) * mean_gradient(now, out)
    if len(new):
        total -= len(new) * mean_gradient(now, new)
    return total


def _agrees(hessian: CompactHessian, moved: Tensor, change: Tensor, rule: Rule) -> bool:
    """Whether the Hessian predicts how the gradient has changed."""
    size = float(change.norm())
    if len(hessian) < rule.memory or size == 0.0:
        return True
    return float((hessian.product(moved) - change).norm()) <= rule.tolerance * size
