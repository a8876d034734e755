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
    """

    head: str
    shards: list[Tensor]
    classes_missing: list[list[int]]
    changing: bool | None = None
    unknown: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the report says about labels, shards and comparisons."""
        uncompared = [f"not compared with other ranks and runs: {one}" for one in self.unknown]
        other = [*self.relabelled, *uncompared]
        lacking = [worker for worker, classes in enumerate(self.classes_missing) if classes]
        if not lacking:
            return other
        named = ", ".join(
            f"worker {worker}: {_shortened(self.classes_missing[worker])}" for worker in lacking[:5]
        )
        more = f", and {len(lacking) - 5} more workers" if len(lacking) > 5 else ""
        return [f"shards without samples of some classes ({named}{more})", *other]


def _shortened(classes: Sequence[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
