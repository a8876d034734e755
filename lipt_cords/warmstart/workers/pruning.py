"""One worker's pruning: once, before a given step, and kept from there on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipt_cords.base.randomness import generator
from lipt_cords.base.registry import is_foreign
from lipt_cords.data.batches import Inputs
from lipt_cords.models.heads import find_head
from lipt_cords.models.losses import LossFunction
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.sparsity import (
    SPARSITIES,
    Masks,
    PruningMoment,
    prunable_weights,
)


class Pruning:
    """Prunes once, before a given step, and applies the masks from there on.

    Args:
        model: the worker's copy, whose weights are changed.
        head: name of its linear head, which stays dense.
        config: ``sparsity``, ``density``, ``densities``, ``prune_after``.
        loss: mean loss of (logits, labels).
        steps: of the round; ``prune_after`` is a share of them.
        names: names from which the draws of a random mask derive, in addition to the seed.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str,
        *,
        config: WarmStartConfig,
        loss: LossFunction,
        steps: int,
        names: tuple[str | int, ...],
    ) -> None:
        self._model, self._head, self._config = model, head, config
        self._loss, self._names = loss, names
        self.masks: Masks | None = None
        wanted = config.sparsity != "none" and config.density < 1
        self._at = int(config.prune_after * steps) if wanted else -1

    @property
    def density(self) -> float:
        """Share of the prunable weights that is kept."""
        return self.masks.density if self.masks is not None else 1.0

    def before(self, step: int, inputs: Inputs, labels: Tensor) -> int:
        """Prune at the planned step; returns the number of samples whose gradients it computed.

        Raises:
            ValueError: the scores of a sparsity do not fit the weights, or are not finite.
        """
        if step != self._at:
            return 0
        head = find_head(self._model, head=self._head).module
        weights = prunable_weights(self._model, head)
        if not weights:
            return 0
        draws = generator(self._config.seed, *self._names, "prune")
        moment = PruningMoment(self._model, weights, (inputs, labels), self._loss, draws)
        scores = SPARSITIES[self._config.sparsity](weights, moment)
        _check_scores(self._config.sparsity, scores, weights)
        self.masks = Masks(weights, scores, self._config.density, self._config.densities)
        self.masks.apply()
        return moment.passes

    def keep(self) -> None:
        """Set pruned elements that the optimizer changed back to zero."""
        if self.masks is not None:
            self.masks.apply()


def _check_scores(name: str, scores: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if not isinstance(scores, list | tuple) or not all(isinstance(s, Tensor) for s in scores):
        raise ValueError(
            f"sparsity {name!r} returned a {type(scores).__name__}: expected a list of tensors, "
            "one a weight, in its shape"
        )
    given = [tuple(score.shape) for score in scores]
    if given != [tuple(weight.shape) for weight in weights]:
        raise ValueError(
            f"sparsity {name!r} must return one tensor a weight, in its shape: expected "
            f"{[tuple(weight.shape) for weight in weights][:3]}..., received {given[:3]}..."
        )
    if is_foreign(SPARSITIES.entry(name).module) and not all(
        bool(s.isfinite().all()) for s in scores
    ):
        raise ValueError(f"sparsity {name!r} returned NaN or infinite scores: expected finite ones")
