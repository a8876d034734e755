"""What a subset is worth to a ridge regression: the evidence for a cut, in place of trainings.

As in best window selection (Choi et al., ICML 2024): a regression on the candidate subset is judged
on samples outside of it. Here samples of the subset itself are judged too, by their leave-one-out
predictions, so that subsets of easy samples are not judged on harder ones than others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.trials import Trial

JUDGES = 5_000
STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Over the mean squared length of the subset's rows."""
TOLD_APART = 0.5
"""Standard errors by which two subsets must differ, which the same samples judge."""


@dataclass(frozen=True)
class SubsetJudge:
    """Accuracy of a ridge regression on a subset; a ``pilot`` for selectors that take one.

    Of cuts that it does not tell apart `covering` takes the largest: nets that are trained from
    scratch on the subset gain more from easy samples than a regression on features does.

    Attributes:
        rows: (N, F) float32, such as those of a kernel's landmarks.
        labels: (N,) int64.
        judges: (J,) int64, positions that are judged.
    """

    rows: Tensor
    labels: Tensor
    judges: Tensor
    pool: Tensor | None = None
    """(n,) int64, the positions that candidates are taken from; None: they are positions."""

    def within(self, pool: Tensor) -> SubsetJudge:
        """The same judge of candidates that are positions in a part of the pool."""
        return replace(self, pool=pool)

    @classmethod
    def of_pool(cls, rows: Tensor, labels: Tensor, seed: int = 0) -> SubsetJudge:
        """Judges drawn from the pool: at most 5,000."""
        drawn = torch.randperm(len(rows), generator=generator(seed, "judges"))[:JUDGES]
        return cls(rows, labels, drawn.sort().values)

    @classmethod
    def held_out(
        cls, rows: Tensor, labels: Tensor, other_rows: Tensor, other_labels: Tensor
    ) -> SubsetJudge:
        """Judges that are no samples of the pool: their rows follow those of the pool."""
        judges = torch.arange(len(rows), len(rows) + len(other_rows))
        return cls(torch.cat([rows, other_rows]), torch.cat([labels, other_labels]), judges)

    @cached_property
    def _judged(self) -> Tensor:
        """(J, F) float64, rows that are judged."""
        return self.rows[self.judges].double()

    def __call__(self, indices: Tensor) -> Trial:
        """Accuracy of the best strength of three on the judges, and half its standard error."""
        worth = self._accuracy(indices)
        return Trial(worth, error=TOLD_APART * math.sqrt(worth * (1 - worth) / len(self.judges)))

    def _accuracy(self, indices: Tensor) -> float:
        indices = indices if self.pool is None else self.pool[indices]
        chosen = self.rows[indices].double()
        classes, columns = torch.unique(self.labels[indices], return_inverse=True)
        targets = torch.nn.functional.one_hot(columns, len(classes)).double()
        mean, target = chosen.mean(dim=0), targets.mean(dim=0)
        chosen, targets = chosen - mean, targets - target
        truth = self.labels[self.judges]
        place = torch.full((len(self.labels),), -1)
        place[indices] = torch.arange(len(indices))
        own = place[self.judges]
        inside = own >= 0
        own = own[inside]
        scale = float(chosen.square().sum(dim=1).mean())
        if scale == 0:  # equal rows predict the most frequent class
            return float((classes[target.argmax()] == truth).double().mean())
        few = len(chosen) < chosen.shape[1]
        fits, products = (_dual, chosen @ chosen.T) if few else (_primal, chosen.T @ chosen)
        fitting = [fits(chosen, targets, products, one * scale, own) for one in STRENGTHS]
        solutions = torch.cat([solution for solution, _ in fitting], dim=1)
        answers = self._judged @ solutions + (target.repeat(len(fitting)) - mean @ solutions)
        best = 0.0
        for predicted, (_, leverages) in zip(
            answers.chunk(len(fitting), dim=1), fitting, strict=True
        ):
            h = (leverages + 1 / len(chosen)).clamp(max=1 - 1e-9)[:, None]
            fitted = targets[own] + target
            predicted[inside] = fitted - (fitted - predicted[inside]) / (1 - h)
            right = classes[predicted.argmax(dim=1)] == truth
            best = max(best, float(right.double().mean()))
        return best


def _primal(
    rows: Tensor, targets: Tensor, products: Tensor, penalty: float, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Coefficients (F, C) of a ridge regression, and the leverages of the rows at ``own``."""
    factor = _factor(products, penalty)
    halves = torch.linalg.solve_triangular(factor, rows[own].T, upper=False)
    return torch.cholesky_solve(rows.T @ targets, factor), halves.square().sum(dim=0)


def _dual(
    rows: Tensor, targets: Tensor, products: Tensor, penalty: float, own: Tensor
) -> tuple[Tensor, Tensor]:
    """The same where there are fewer rows than features."""
    factor = _factor(products, penalty)
    solved = torch.cholesky_solve(targets, factor)
    leverages = torch.cholesky_solve(products[:, own], factor)[own, torch.arange(len(own))]
    return rows.T @ solved, leverages


def _factor(products: Tensor, penalty: float) -> Tensor:
    shifted = products.clone()
    shifted.diagonal().add_(penalty)
    factor: Tensor = torch.linalg.cholesky(shifted)
    return factor
