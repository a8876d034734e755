"""The passes of a warm start before it runs: they follow from the options."""

from __future__ import annotations

from dataclasses import dataclass

from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.worker import local_steps


@dataclass(frozen=True)
class Forecast:
    """Sample-passes, forward and backward.

    Attributes:
        passes: of all workers and the common start.
        critical_passes: those that follow one another.
    """

    passes: int
    critical_passes: int


def forecast(config: WarmStartConfig, samples: int) -> Forecast:
    """Passes of a warm start on a pool of that size.

    Exact, except that ``stop_when`` may end it early and a worker may be lost. With several rounds
    and shards of unequal sizes the critical path, on which each round waits for its slowest worker,
    may be longer by a batch a round.

    Args:
        config: the options; of the preset ``lipt`` those that were scaled to the data.
        samples: in the pool.

    Returns:
        The passes.

    >>> once = WarmStartConfig(
    ...     type="lipt-once", num_workers=4, common_steps=10, epochs=2, batch_size=32
    ... )
    >>> forecast(once, 1000)
    Forecast(passes=2320, critical_passes=820)
    """
    common = common_passes(config, samples)
    dealt = round(config.shard_fraction * samples)
    sizes = [
        dealt // config.num_workers + (worker < dealt % config.num_workers)
        for worker in range(config.num_workers)
    ]
    spent = [passes_of(local_steps(config, size), size, config.batch_size) for size in sizes]
    return Forecast(common + sum(spent), common + max(spent))


def common_passes(config: WarmStartConfig, samples: int) -> int:
    """Passes of the common start; its epochs run only over the samples that it needs."""
    needed = min(samples, config.common_steps * config.batch_size)
    return passes_of(config.common_steps, needed, config.batch_size) if needed else 0


def passes_of(steps: int, samples: int, batch_size: int) -> int:
    """Samples in that many steps of shuffled epochs, whose last batch may be short.

    >>> passes_of(5, 100, 40), passes_of(3, 41, 40)
    (180, 123)
    """
    if not samples:
        return 0
    epochs, rest = divmod(steps, steps_per_epoch(samples, batch_size))
    return epochs * samples + rest * batch_size
