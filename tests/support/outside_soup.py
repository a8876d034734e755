"""Soups from outside: one from the workers' summaries, one with trials."""

from lipt_cords.warmstart import register_soup


@register_soup("lowest loss", reason="its training loss is not among the lowest")
def lowest_loss(workers):
    """The half with the lowest training loss."""
    ranked = sorted(workers, key=lambda one: (one.loss, one.worker))
    return {one.worker: 1 / (1 + place) for place, one in enumerate(ranked[: len(ranked) // 2])}


@register_soup("best pair", needs_validation=True)
def best_pair(workers):
    """The first worker and the one beside whom it is best."""
    first, *others = [one.worker for one in workers]
    reached = []
    for other in others:
        reached.append((yield [first, other]))
    return [first, others[reached.index(max(reached))]]
