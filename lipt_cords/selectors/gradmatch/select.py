"""GradMatch: few samples whose weighted gradients add up to the gradient of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipt_cords.base.errors import unknown_name
from lipt_cords.models.gradients import HeadGradient, LastLayerGradients
from lipt_cords.selectors.atoms import Atoms, BatchAtoms, FactoredAtoms
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_fraction, check_positive
from lipt_cords.selectors.gradmatch.omp import pursue
from lipt_cords.selectors.gradmatch.pursuit import Pursuit
from lipt_cords.selectors.gradmatch.screened import ScreenedAtoms, pursue_screened, screening_bytes
from lipt_cords.selectors.grouping import Group, fewest_batches, groups_of, spread_batches
from lipt_cords.selectors.memory import Scratch, byte_limit, refuse


@dataclass(frozen=True)
class _Options:
    nonnegative: bool
    ridge: float
    tolerance: float
    max_steps: int | None


@register_selector(
    "gradmatch",
    spelling="GradMatch",
    needs_validation=lambda options: options.get("target") == "validation",
)
def gradmatch(
    problem: SelectionProblem,
    *,
    target: Literal["train", "validation"] = "train",
    nonnegative: bool = True,
    ridge: float = 0.0,
    tolerance: float = 1e-4,
    max_steps: int | None = None,
) -> Choice:
    """Samples and weights that match the gradient sum, by orthogonal matching pursuit.

    Per group, minimises ||t - sum_i w_i G_i||^2 + ridge ||w||^2 over few samples, t being the sum
    of the group's gradients (Killamsetty et al., ICML 2021). The sample that correlates most
    with the residual joins, then all weights are solved anew.

    A pursuit can end before the budget is spent: the residual falls below the tolerance, or no
    independent sample is left, since a budget above the rank of the gradients cannot be filled
    by OMP. Then another round matches the same target among the samples not yet chosen, and the
    rounds' weights are mixed in proportion to size x (1 - residual)^2, so the whole still
    matches the target. Samples that no round can use, as they point away from the target, come
    last, by correlation, with weight 0. Nothing is filled at random; ``info["groups"]`` counts
    all three.

    Args:
        problem: with ``target="validation"``, validation gradients are needed.
        target: match the sum of the pool's gradients, or that of the validation set (scaled to
            the pool's size; per class, of the same class, or of all where it has none).
        nonnegative: weights >= 0, as CORDS has them.
        ridge: lambda >= 0, in units of squared gradient norms.
        tolerance: relative residual at which a round ends, in [0, 1).
        max_steps: samples that may join per round, those dropped again counted; None for ten
            times the budget. CORDS takes the budget.

    Returns:
        Samples, their weights (see `Selection`), and per group the relative residual.

    Raises:
        ValueError: an option out of range; no validation gradients for such a target.
    """
    if target not in ("train", "validation"):
        raise unknown_name("target of GradMatch", target, ("train", "validation"))
    if not ridge >= 0:
        raise ValueError(f"expected ridge >= 0, received {ridge}")
    if target == "validation" and problem.validation is None:
        raise ValueError("target='validation' matches val_gradients=: expected them, received none")
    options = _Options(
        nonnegative,
        float(ridge),
        check_fraction("tolerance", tolerance),
        None if max_steps is None else check_positive("max_steps", max_steps),
    )
    val_gradients = problem.validation if target == "validation" else None
    limit = byte_limit(problem)
    pool, linear = problem.gradients, problem.linear_layer
    if problem.per == "batch":
        batches = BatchAtoms(pool, problem.batch_size, linear, limit)
        goal = _validation_goal(val_gradients, None, len(batches))
        picks, weights, summary = fewest_batches(
            problem,
            lambda count: _matched(batches, goal, count, options),
            lambda answer: answer[0],
        )
        indices, spread, _, cut = spread_batches(problem, picks, weights)
        return Choice(indices, spread, info={"groups": [summary], "samples_cut": cut})
    parts, part_weights, summaries = [], [], []
    scratch = Scratch()
    for group in groups_of(problem):
        _check_memory(len(group.members), group.budget, limit)
        goal = _validation_goal(val_gradients, group.label, len(group.members))
        atoms: FactoredAtoms | ScreenedAtoms
        if _screens(problem, group, options, limit):
            atoms, resident = ScreenedAtoms(pool, group.members, linear, goal, scratch), True
        else:
            atoms = FactoredAtoms.of(pool, group.members, linear, limit // 2)
            resident = atoms.resident
        picks, weights, summary = _matched(atoms, goal, group.budget, options)
        parts.append(group.members[picks])
        part_weights.append(weights)
        knob = "none" if resident else "float64 copies in chunks"
        summaries.append({"label": group.label, **summary, "knob": knob})
    weights = torch.cat(part_weights) * (problem.budget / len(problem))
    return Choice(torch.cat(parts), weights, info={"groups": summaries})


def _check_memory(candidates: int, budget: int, limit: int) -> None:
    needed = 8 * min(candidates, budget) * (candidates + min(candidates, budget))
    if needed > limit:
        raise refuse(
            f"GradMatch of {budget} among {candidates} samples",
            needed,
            limit,
            "select per='class' or per='batch', lower the budget, or raise memory_limit=",
        )


def _screens(problem: SelectionProblem, group: Group, options: _Options, limit: int) -> bool:
    """Whether float32 may look at all candidates first: on the CPU, where its copies fit."""
    pool = problem.gradients
    if pool.logit_grads.device.type != "cpu" or not options.nonnegative:
        return False
    width = pool.num_classes + (pool.embedding_dim if problem.linear_layer else 0)
    return screening_bytes(len(group.members), width, group.budget) <= limit // 2


def _validation_goal(
    val_gradients: LastLayerGradients | None, label: int | None, scale: int
) -> HeadGradient | None:
    """The validation mean, of one class if it has samples, times the number of atoms."""
    if val_gradients is None:
        return None
    part = val_gradients
    if label is not None and bool((val_gradients.labels == label).any()):
        part = val_gradients.subset(torch.nonzero(val_gradients.labels == label).flatten())
    g, e = part.logit_grads.double(), part.embeddings.double()
    factor = scale / len(g)
    return HeadGradient(g.sum(dim=0) * factor, g.T @ e * factor)


def _pursuits(
    atoms: Atoms | ScreenedAtoms, goal: HeadGradient | None, options: _Options
) -> tuple[Tensor, Callable[[int, Tensor], Pursuit]]:
    """Inner products of the atoms with the goal, and a pursuit of it by the allowed atoms."""
    if isinstance(atoms, ScreenedAtoms):
        return torch.from_numpy(atoms.products_N), lambda budget, allowed: pursue_screened(
            atoms,
            budget,
            ridge=options.ridge,
            tolerance=options.tolerance,
            max_steps=options.max_steps,
            allowed=allowed,
        )
    if goal is None:
        products, square = atoms.own_sum()
    else:
        products = atoms.against(goal)
        square = float(goal.bias.square().sum())
        if atoms.linear_layer:
            square += float(goal.weight.square().sum())
    norms = atoms.squared_norms()
    return products, lambda budget, allowed: pursue(
        atoms.column,
        products,
        square,
        norms,
        budget,
        nonnegative=options.nonnegative,
        ridge=options.ridge,
        tolerance=options.tolerance,
        max_steps=options.max_steps,
        allowed=allowed,
    )


def _matched(
    atoms: Atoms | ScreenedAtoms, goal: HeadGradient | None, budget: int, options: _Options
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rounds of pursuit until the budget is met; weights match the goal."""
    products, pursuit = _pursuits(atoms, goal, options)
    allowed = torch.ones(len(atoms), dtype=torch.bool, device=products.device)
    rounds: list[Pursuit] = []
    chosen: list[int] = []
    while len(chosen) < budget:
        found = pursuit(budget - len(chosen), allowed)
        if not found.atoms:
            break
        rounds.append(found)
        chosen.extend(found.atoms)
        allowed[found.atoms] = False
    matched = len(chosen)
    # A late round that matches badly must not spoil what the first one matched.
    shares = np.array([len(found.atoms) * (1.0 - found.residual) ** 2 for found in rounds])
    shares /= shares.sum() or 1.0
    weights = [found.weights * share for found, share in zip(rounds, shares, strict=True)]
    left = torch.where(allowed, products, -torch.inf)
    order = torch.sort(left, descending=True, stable=True).indices[: budget - matched]
    chosen.extend(order.tolist())
    # Nothing to match (all gradients zero): every sample stands for as many as any other.
    filling = 0.0 if matched else len(atoms) / budget
    weights.append(np.full(budget - matched, filling))
    summary = {
        "candidates": len(atoms),
        "budget": budget,
        "residual": rounds[0].residual if rounds else 0.0,
        "residual_bound": _mixed_residual(rounds, shares),
        "rounds": [len(found.atoms) for found in rounds],
        "stopped": rounds[0].stopped if rounds else "zero target",
        "unmatched": budget - matched,
    }
    return torch.tensor(chosen), torch.from_numpy(np.concatenate(weights)), summary


def _mixed_residual(rounds: list[Pursuit], shares: NDArray[np.float64]) -> float:
    """A bound of the residual of mixed rounds; where all of them match nothing, so does the mix."""
    if rounds and not shares.any():
        return 1.0
    return float(sum(f.residual * s for f, s in zip(rounds, shares, strict=True)))
