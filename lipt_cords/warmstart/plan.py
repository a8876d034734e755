"""Who gets what: the shards, and what was found out about model and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class FitPlan:
    """What rank 0 found out and decided for everyone.

    Attributes:
        head: name of the linear head.
        shards: indices of every worker's samples.
        classes_missing: for every worker, the classes that its shard lacks.
        changing: whether items of the training set differ between reads. Decided by items of the
            whole set, for all ranks, because it decides what a rank trains on.
        unknown: what could not be compared with other ranks and other runs, and why.
    """

    head: str
    shards: list[Tensor]
    classes_missing: list[list[int]]
    changing: bool | None = None
    unknown: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the report says about shards and comparisons."""
        uncompared = [f"not compared with other ranks and runs: {one}" for one in self.unknown]
        lacking = [worker for worker, classes in enumerate(self.classes_missing) if classes]
        if not lacking:
            return uncompared
        named = ", ".join(
            f"worker {worker}: {_shortened(self.classes_missing[worker])}" for worker in lacking[:5]
        )
        more = f", and {len(lacking) - 5} more workers" if len(lacking) > 5 else ""
        return [f"shards without samples of some classes ({named}{more})", *uncompared]


def _shortened(classes: Sequence[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
