"""Difficulty from training dynamics: how a net saw its own training samples, visit by visit.

The log costs no pass: every training step has the logits of its samples anyway. A warm start with
``log_samples=True`` makes one; scores are functions of it, found by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.arrays import as_tensor
from lipt_cords.base.errors import unknown_name
from lipt_cords.base.messages import travels
from lipt_cords.base.registry import Registry
from lipt_cords.selectors.checks import check_scores


@travels
@dataclass(frozen=True)
class TrainingDynamics:
    """What was seen of N samples in at most V visits of each; on the CPU.

    A visit is one training step on a sample. Row i holds its visits in order: ``counts[i]`` of
    them, then NaN.

    Attributes:
        probabilities: of the label, in [0, 1], shape (N, V), float32.
        margins: logit of the label minus the largest other logit, shape (N, V), float32.
        counts: visits of each sample, shape (N,), int64.
    """

    probabilities: Tensor
    margins: Tensor
    counts: Tensor

    @property
    def passes(self) -> int:
        """Passes of a sample that the log took beyond the training: none."""
        return 0

    @property
    def nbytes(self) -> int:
        """Memory of the log: 8 bytes a sample and visit, and 8 a sample."""
        return sum(getattr(self, one.name).nbytes for one in fields(self))

    @property
    def visited(self) -> Tensor:
        """Whether there was such a visit, shape (N, V), bool."""
        return torch.arange(self.margins.shape[1]) < self.counts[:, None]

    @property
    def right(self) -> Tensor:
        """Whether the label had strictly the largest logit at a visit, shape (N, V), bool."""
        return self.margins > 0

    @property
    def unseen(self) -> Tensor:
        """Indices of the samples without any visit, ascending."""
        return (self.counts == 0).nonzero().flatten()

    def of(self, indices: Any) -> TrainingDynamics:
        """The log of some samples alone, such as those of a subset.

        Args:
            indices: in [0, N).

        Raises:
            ValueError: indices outside of the log, or none.
        """
        rows = as_tensor("indices", indices).to("cpu", torch.int64).flatten()
        samples = len(self.counts)
        if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= samples:
            raise ValueError(
                f"expected indices of logged samples, in [0, {samples}), received "
                + (f"{int(rows.min())} to {int(rows.max())}" if len(rows) else "none")
            )
        return TrainingDynamics(self.probabilities[rows], self.margins[rows], self.counts[rows])

    def score(self, name: str, **options: Any) -> Tensor:
        """One score a sample, for ``select(..., scores=...)``.

        Args:
            name: ``"confidence"``, ``"variability"``, ``"dual"``, ``"aum"``, ``"forgetting"``, or
                another registered one.
            **options: of that score, such as ``window`` of ``"dual"``.

        Returns:
            (N,) float64; larger is harder, or less certain.

        Raises:
            ValueError: an unknown score or option; samples with fewer visits than the score needs,
                which are named; a score that is not one finite number a sample.

        >>> margins = torch.tensor([[3.0, 4.0], [-1.0, 2.0]])
        >>> seen = TrainingDynamics(margins.sigmoid(), margins, torch.tensor([2, 2]))
        >>> seen.score("aum")
        tensor([-3.5000, -0.5000], dtype=torch.float64)
        """
        check_dynamics_score(name, options)
        entry = DYNAMICS_SCORES.entry(name)
        needed = entry.facts["visits"]
        few = (self.counts < needed).nonzero().flatten()
        if len(few):
            shown = ", ".join(map(str, few[:5].tolist())) + (", ..." if len(few) > 5 else "")
            raise ValueError(
                f"dynamics score {name!r} needs {needed} visit(s) of every sample, and "
                f"{len(few)} of {len(self.counts)} have fewer: {shown}. They were in no shard "
                "(shard_fraction, forget), their worker was lost or is not finite, or epochs are "
                "too few. Score the others by dynamics.of(indices).score(...)"
            )
        found = as_tensor(f"dynamics score {name!r}", entry.make(self, **options))
        return check_scores(f"dynamics score {name!r}", found, len(self.counts))


DynamicsScore = Callable[..., Tensor]
DYNAMICS_SCORES: Registry[DynamicsScore] = Registry("dynamics score", takes=("dynamics",), visits=1)
"""All scores of training dynamics: functions of a log of N samples, larger for harder ones.

``visits``: how many visits of every sample a score needs.
"""


def register_dynamics_score(
    name: str, *, visits: int = 1
) -> Callable[[DynamicsScore], DynamicsScore]:
    """Make a function known as a score of training dynamics.

    The function takes `TrainingDynamics` of N samples and returns one number a sample, larger for
    harder ones. Its keyword-only parameters are options of the score. Rows may have different
    numbers of visits: what is behind a row's last one is NaN.

    Args:
        name: must be free; upper and lower case are the same.
        visits: how many visits of every sample it needs.

    Raises:
        ValueError: the name is taken, or the function cannot be called with a log alone.

    >>> @register_dynamics_score("last margin")
    ... def last_margin(dynamics):
    ...     "Minus the margin at the last visit."
    ...     return -dynamics.margins.gather(1, dynamics.counts[:, None] - 1)[:, 0]
    >>> DYNAMICS_SCORES.names()
    ('confidence', 'variability', 'dual', 'aum', 'forgetting', 'last margin')
    >>> DYNAMICS_SCORES.unregister("last margin")
    """
    return DYNAMICS_SCORES.register(name, visits=visits)


def check_dynamics_score(name: str, options: dict[str, Any]) -> None:
    """Refuse an unknown score, or an option that it does not have.

    Raises:
        ValueError: which, and what there is.
    """
    known = DYNAMICS_SCORES.options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of dynamics score {name!r}", option, known)


@register_dynamics_score("confidence")
def confidence(dynamics: TrainingDynamics) -> Tensor:
    """One minus the mean probability of the label (Swayamdipta et al., EMNLP 2020); no pass."""
    return 1 - _mean(dynamics.probabilities, dynamics)


@register_dynamics_score("variability", visits=2)
def variability(dynamics: TrainingDynamics) -> Tensor:
    """Standard deviation of the label's probability (Swayamdipta et al., EMNLP 2020); no pass."""
    values = dynamics.probabilities.double()
    mean = _mean(values, dynamics)
    return _mean((values - mean[:, None]).square(), dynamics).sqrt()


@register_dynamics_score("dual", visits=2)
def dual(dynamics: TrainingDynamics, *, window: int = 10) -> Tensor:
    """Spread of the label's probability times one minus its mean (DUAL, ICML 2025); no pass.

    Both are of the visits in a window, the spread with one degree of freedom less, and the products
    are averaged over all windows of a sample's visits (arXiv 2502.06905).

    Args:
        dynamics: the log.
        window: visits in a window; a sample with fewer visits has one window of all of them.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 2:
        raise ValueError(f"window of dual must be a whole number from 2 on, received {window!r}")
    scores = torch.zeros(len(dynamics.counts), dtype=torch.float64)
    for visits in torch.unique(dynamics.counts).tolist():  # two neighbouring numbers in most logs
        rows, width = dynamics.counts == visits, min(window, visits)
        values = dynamics.probabilities[rows, :visits].double()
        places = range(visits - width + 1)
        for place in places:
            inside = values[:, place : place + width]
            scores[rows] += inside.std(dim=1) * (1 - inside.mean(dim=1)) / len(places)
    return scores


@register_dynamics_score("aum")
def aum(dynamics: TrainingDynamics) -> Tensor:
    """Minus the mean margin, the area under it (AUM; Pleiss et al., NeurIPS 2020); no pass."""
    return -_mean(dynamics.margins, dynamics)


@register_dynamics_score("forgetting")
def forgetting(dynamics: TrainingDynamics) -> Tensor:
    """How often a right sample was wrong at its next visit (Toneva et al., ICLR 2019); no pass.

    A sample that was never right counts V, more than any other can reach.
    """
    right, wrong = dynamics.right, dynamics.visited & ~dynamics.right
    events = (right[:, :-1] & wrong[:, 1:]).sum(dim=1)
    return torch.where(right.any(dim=1), events, dynamics.margins.shape[1]).double()


def _mean(values_NV: Tensor, dynamics: TrainingDynamics) -> Tensor:
    """Mean over the visits of each sample, shape (N,), float64."""
    visited = torch.where(dynamics.visited, values_NV.double(), 0.0)
    return visited.sum(dim=1) / dynamics.counts
