"""The replay of DeltaGrad: the steps of a training again, most of them corrected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipt_cords.warmstart.unlearning.lbfgs import CompactHessian

logger = logging.getLogger(__name__)

MeanGradient = Callable[[Tensor, Tensor], Tensor]
"""Of flat weights and samples: the mean gradient of the samples' losses."""


FAR = 3.0
"""Drift above which a replay warns; the final distance is about 30 times less: errors cancel."""


@dataclass(frozen=True)
class Replay:
    """The cost of a change.

    Attributes:
        explicit: steps whose gradients were computed; all of them where retraining was cheaper.
        steps: all steps.
        sample_gradients: gradients of single samples that were computed.
        retraining_gradients: the same number for retraining.
        drift: the Hessian's errors, seen at computed steps and added up over the others, over the
            change of the weights. They partly cancel: on linear heads the measured distance to
            retraining was a twentieth to a fortieth of it. 0 if nothing was predicted.
    """

    explicit: int
    steps: int
    sample_gradients: int
    retraining_gradients: int
    drift: float


@dataclass(frozen=True)
class Rule:
    """The options of plain SGD, and which steps are computed."""

    lr: float
    l2: float
    period: int
    burn_in: int
    memory: int
    tolerance: float


@dataclass(frozen=True)
class RecordedTraining:
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


def train_sgd(
    start: Tensor, batches: list[Tensor], mean_gradient: MeanGradient, rule: Rule, *, keep: bool
) -> RecordedTraining:
    """Plain SGD; batches without samples are skipped.

    Args:
        keep: whether to store the weights and gradients of every step.
    """
    now = start.clone()
    weights = torch.zeros(len(batches) if keep else 0, len(now), dtype=now.dtype)
    gradients = torch.zeros_like(weights)
    for step, batch in enumerate(batches):
        if keep:
            weights[step] = now
        if len(batch) == 0:
            continue
        gradient = mean_gradient(now, batch)
        if keep:
            gradients[step] = gradient
        now = now - rule.lr * (gradient + rule.l2 * now)
    return RecordedTraining(start, batches, weights, gradients, now)


def replay(
    known: RecordedTraining,
    gone: list[Tensor],
    come: list[Tensor],
    present: list[Tensor],
    mean_gradient: MeanGradient,
    rule: Rule,
) -> tuple[Tensor, Replay]:
    """The final weights of the training with changed batches.

    Every request corrects the training itself, by all changes so far, and never an earlier replay:
    so errors do not add up over requests. Where retraining is cheaper, that is done.

    Args:
        known: the recorded training.
        gone: for every step, the samples that were removed.
        come: for every step, the samples that were added.
        present: for every step, its present samples.
        mean_gradient: of the loss.
        rule: which steps are computed.
    """
    total = sum(map(len, present))
    corrections = sum(map(len, gone)) + sum(map(len, come))
    due = sum(len(batch) for step, batch in enumerate(present) if _due(step, rule))
    if rule.period > 1 and corrections + due >= total:
        anew = train_sgd(known.start, present, mean_gradient, rule, keep=False)
        return anew.final, Replay(len(present), len(present), total, total, 0.0)
    hessian, now = CompactHessian(rule.memory), known.start.clone()
    explicit = computed = predicted = 0
    trusted = True
    errors: list[float] = []
    for step, batch in enumerate(present):
        out, new, before = gone[step], come[step], len(known.batches[step])
        if len(batch) == 0:
            continue
        moved, gradient = now - known.weights[step], known.gradients[step]
        still = float(moved.norm()) == 0.0
        if still and not len(out) and not len(new):
            data = gradient  # exactly the recorded step
        elif before == 0:  # nothing to correct: the batch was empty
            data = mean_gradient(now, batch)
            computed, explicit = computed + len(batch), explicit + 1
        elif _due(step, rule) or not trusted or len(hessian) < rule.memory:
            data = mean_gradient(now, batch)
            whole = (len(batch) * data + _sum(mean_gradient, now, out, new)) / before
            computed += len(batch) + len(out) + len(new)
            explicit += 1
            change = whole - gradient + rule.l2 * moved
            trusted = True
            if len(hessian) == rule.memory and not still:
                errors.append(float((hessian.product(moved) - change).norm()))
                trusted = errors[-1] <= rule.tolerance * float(change.norm())
            hessian.add(moved, change)
        else:
            data = hessian.product(moved) + gradient - rule.l2 * moved
            predicted += 1
            if len(out) or len(new):
                theirs = _sum(mean_gradient, now, out, new)
                data = (before * data - theirs) / len(batch)
                computed += len(out) + len(new)
        now = now - rule.lr * (data + rule.l2 * now)
    drift = _drift(errors, predicted, float((now - known.final).norm()), rule)
    return now, Replay(explicit, len(present), computed, total, drift)


def _due(step: int, rule: Rule) -> bool:
    return step < rule.burn_in or (step - rule.burn_in) % rule.period == 0


def _drift(errors: list[float], predicted: int, moved: float, rule: Rule) -> float:
    """Errors added up over the predicted steps, over the change of the weights; warns if large."""
    if not errors or predicted == 0 or moved == 0.0:
        return 0.0
    drift = rule.lr * predicted * sum(errors) / len(errors) / moved
    if drift > FAR:
        logger.warning(
            "the replay may be far from retraining: its Hessian's errors add up to %.1f times "
            "the change, and above %g a tenth of it may be left; distance() measures. Standardise "
            "the inputs, or lower lr (received %g), period or tolerance",
            drift, FAR, rule.lr,
        )  # fmt: skip
    return drift


def _sum(mean_gradient: MeanGradient, now: Tensor, out: Tensor, new: Tensor) -> Tensor:
    """The sum of gradients of removed samples, minus that of added samples."""
    total = torch.zeros_like(now)
    if len(out):
        total += len(out) * mean_gradient(now, out)
    if len(new):
        total -= len(new) * mean_gradient(now, new)
    return total
