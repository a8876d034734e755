"""How much of the hard tail to cut, by the accuracy that a random subset is expected to reach."""

from __future__ import annotations

from typing import Any

from lipt_cords.selectors.base import SelectionProblem
from lipt_cords.selectors.checks import check_fraction

_HIGHEST = 0.5
_NEUTRAL_ACCURACY = 0.72
_SLOPE = 1.25
_REFERENCE_PER_CLASS = 100.0
_LEARNING_CURVE = 0.17


def suggested_cut(expected_accuracy: float) -> float:
    """The cut for a budget whose random subset reaches a given accuracy.

    A straight line through what was measured: half at 32 % (1 % of CIFAR-10), 30 % at 48 % (5 %),
    20 % at 53 % (10 %), none at 76 % and above (Fashion-MNIST from 1 %). A task that the budget
    already covers has only its hard samples left to teach; one that it does not cover is learnt
    from the easy ones.

    Args:
        expected_accuracy: in [0, 1].

    Returns:
        A fraction in [0, 0.5], to one digit.

    >>> [suggested_cut(a) for a in (0.32, 0.48, 0.53, 0.76, 0.82)]
    [0.5, 0.3, 0.2, 0.0, 0.0]
    """
    line = _SLOPE * (_NEUTRAL_ACCURACY - expected_accuracy)
    return round(min(_HIGHEST, max(0.0, line)), 1)


def estimated_accuracy(accuracy: float, budget_per_class: float) -> float:
    """What a random subset will roughly reach, guessed from the model that scored.

    The error falls with the subset's size like size^-0.17, which fits both data sets of
    `suggested_cut`, and is taken to equal the scoring model's at 100 samples a class. Crude: a
    known accuracy, or a pilot, is better evidence.

    >>> round(estimated_accuracy(0.536, 20), 2), round(estimated_accuracy(0.796, 20), 2)
    (0.39, 0.73)
    """
    error = (1.0 - accuracy) * float((budget_per_class / _REFERENCE_PER_CLASS) ** -_LEARNING_CURVE)
    return 1.0 - min(1.0, error)


def chosen_by_rule(
    problem: SelectionProblem, accuracy: float | None, expected_accuracy: float | None
) -> tuple[float, dict[str, Any]]:
    """The suggested cut and the evidence for it."""
    if expected_accuracy is not None:
        expected = check_fraction("expected_accuracy", expected_accuracy, below=1.0 + 1e-9)
        return suggested_cut(expected), {"evidence": "expected_accuracy", "expected": expected}
    source = "accuracy"
    if accuracy is None:
        val_gradients = problem.validation
        source = "pool accuracy" if val_gradients is None else "validation accuracy"
        judged = problem.gradients if val_gradients is None else val_gradients
        accuracy = float(judged.correct().float().mean())
    accuracy = check_fraction("accuracy", accuracy, below=1.0 + 1e-9)
    classes = int(problem.labels.unique().numel())  # type: ignore[no-untyped-call]
    expected = estimated_accuracy(accuracy, problem.budget / classes)
    return suggested_cut(expected), {
        "evidence": source,
        "accuracy": accuracy,
        "expected": expected,
    }
