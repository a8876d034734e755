"""The plan of a fit: the shards, and facts about model and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lipt_cords.base.messages import travels


@travels
@dataclass(frozen=True)
class FitPlan:
    """What rank 0 found out and decided for all ranks.

    Attributes:
        head: name of the linear head.
        shards: indices of every worker's samples.
        classes_missing: for every worker, the classes of which its shard has no sample.
        changing: whether items of the training set differ between reads. Tested on items of the
            whole set, once for all ranks, because training depends on it.
        unknown: what could not be compared between ranks and runs, and why.
        relabelled: where the data sets list other labels than their items have.
        in_eval: the modules that stay in eval mode while workers train.
    """

    head: str
    shards: list[Tensor]
    classes_missing: list[list[int]]
    changing: bool | None = None
    unknown: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    in_eval: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the report says about modes, labels, shards and comparisons."""
        uncompared = [f"not compared with other ranks and runs: {one}" for one in self.unknown]
        other = [*self._kept(), *self.relabelled, *uncompared]
        lacking = [worker for worker, classes in enumerate(self.classes_missing) if classes]
        if not lacking:
            return other
        named = ", ".join(
            f"worker {worker}: {_shortened(self.classes_missing[worker])}" for worker in lacking[:5]
        )
        more = f", and {len(lacking) - 5} more workers" if len(lacking) > 5 else ""
        return [f"shards without samples of some classes ({named}{more})", *other]

    def _kept(self) -> list[str]:
        """The outermost of the modules that stay in eval mode, in words."""
        kept = set(self.in_eval)
        outermost = [name for name in self.in_eval if name.rpartition(".")[0] not in kept]
        if not outermost:
            return []
        return [f"in eval mode, as given or since they are frozen, stayed: {_shortened(outermost)}"]


def _shortened(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
