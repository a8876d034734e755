"""CRAIG: samples whose gradients stand nearest to all the others, weighted by how many."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lipt_cords.base.errors import unknown_name
from lipt_cords.selectors.atoms import Atoms, BatchAtoms, FactoredAtoms
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.craig.facility import Distances, Facilities, assigned, greedy_facilities
from lipt_cords.selectors.grouping import fewest_batches, groups_of, spread_batches
from lipt_cords.selectors.memory import byte_limit, refuse

Engine = Literal["torch", "submodlib"]
ENGINE_NAMES = ("torch", "submodlib")


@register_selector("craig", spelling="CRAIG")
def craig(problem: SelectionProblem, *, engine: Engine = "torch") -> Choice:
    """Facility location over squared distances between gradients.

    Per group, greedily maximises ``sum_j max_{i in S} (D_max - D_ij)`` with
    ``D_ij = |G_i - G_j|^2`` and D_max the group's largest (Mirzasoleiman et al., ICML 2020, as
    CORDS poses it). A chosen sample's weight is the number of samples nearest to it.

    Args:
        problem: the pool's gradients.
        engine: ``"torch"``, this package's greedy; ``"submodlib"``, the reference, which holds the
            whole float32 kernel.

    Returns:
        Samples in order of choice, their weights (see `Selection`); scores are the gains.
        ``info["groups"]`` gives the value reached.

    Raises:
        ValueError: unknown engine; a kernel for submodlib over the memory limit.
    """
    if engine not in ENGINE_NAMES:
        raise unknown_name("engine of CRAIG", engine, ENGINE_NAMES)
    limit = byte_limit(problem)
    pool, linear = problem.gradients, problem.linear_layer
    if problem.per == "batch":
        batches = BatchAtoms(pool, problem.batch_size, linear, limit)
        found, summary = fewest_batches(
            problem,
            lambda count: _located(batches, count, engine, limit),
            lambda answer: torch.tensor(answer[0].picks),
        )
        picks, gains = torch.tensor(found.picks), torch.tensor(found.gains)
        indices, spread, scores, cut = spread_batches(problem, picks, found.sizes, gains)
        return Choice(indices, spread, scores, {"groups": [summary], "samples_cut": cut})
    parts, weights, scores_of, summaries = [], [], [], []
    for group in groups_of(problem):
        atoms = FactoredAtoms.of(pool, group.members, linear, limit // 4)
        found, summary = _located(atoms, group.budget, engine, limit - limit // 4)
        parts.append(group.members[found.picks])
        weights.append(found.sizes.cpu())
        scores_of.append(torch.tensor(found.gains))
        summaries.append({"label": group.label, **summary})
    scaled: Tensor = torch.cat(weights) * (problem.budget / len(problem))
    return Choice(torch.cat(parts), scaled, torch.cat(scores_of), {"groups": summaries})


def _located(
    atoms: Atoms, budget: int, engine: Engine, limit: int
) -> tuple[Facilities, dict[str, Any]]:
    distances = Distances(atoms, limit)
    if engine == "torch":
        found = greedy_facilities(distances, budget)
    else:
        found = _by_submodlib(distances, budget, limit)
    return found, {
        "candidates": len(atoms),
        "budget": budget,
        "value": found.value,
        "knob": "none" if distances.kept else "distances recomputed in blocks",
    }


def _by_submodlib(distances: Distances, budget: int, limit: int) -> Facilities:
    import numpy as np
    from submodlib import FacilityLocationFunction

    n = len(distances)
    if 16 * n * n > limit:
        raise refuse(
            f"the submodlib engine on {n} samples",
            16 * n * n,
            limit,
            "use engine='torch', select per='class', or raise memory_limit=",
        )
    if budget >= n:
        # submodlib refuses to choose everything; any order has the same value.
        return greedy_facilities(distances, budget)
    kernel = distances.similarities().cpu().numpy().astype(np.float32)
    function = FacilityLocationFunction(n=n, mode="dense", separate_rep=False, sijs=kernel)
    chosen = function.maximize(
        budget=budget,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    found = Facilities(
        picks=[int(pick) for pick, _ in chosen], gains=[float(gain) for _, gain in chosen]
    )
    return assigned(found, distances)
