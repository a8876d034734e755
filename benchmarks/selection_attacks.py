"""Random attacks on every selector, each answer checked against brute force on dense gradients.

    python benchmarks/selection_attacks.py                 2,000 problems, writes to results/
    python benchmarks/selection_attacks.py --problems 50   a few, to try it out

A problem is a small pool with some of what breaks code: rows of zeros, duplicates, one class, rare
classes, half precision, gradients that require a gradient, strides, tiny and large numbers, short
last batches, budgets of 1 and N; or one that must be refused with its rows: NaN, infinity, what
float32 cannot square, nothing at all. Greedy choices are replayed step by step: none may be worse
than the best candidate of its step. Matched gradients and weights are computed anew.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

from benchmarks import RESULTS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.base.registry import is_foreign
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors import Selection, select, selector_names
from lipt_cords.selectors.base import SELECTORS

LOOSE = 1e-6
"""How much worse than the best a greedy choice may be, of the scale of its gains."""

OURS = [name for name in selector_names() if not is_foreign(SELECTORS.entry(name).module)]
"""The selectors of this package."""


@dataclass
class Problem:
    """One call of `select`, and what its answer is checked against."""

    name: str
    budget: int
    pool: Any
    """As it is handed over."""
    plain: LastLayerGradients
    """What it stands for, in float32."""
    held: LastLayerGradients
    arguments: dict[str, Any]
    traits: list[str]
    bad_rows: list[int] = field(default_factory=list)
    """Rows that the error must name; empty where there is an answer."""
    refused: bool = False

    @property
    def dense(self) -> Tensor:
        """(N, C (E + 1)) gradients in float64."""
        return dense(self.plain, self.arguments["linear_layer"])

    def groups(self) -> list[tuple[Tensor, int]]:
        """Members and budget of every group, by the rule in the documentation."""
        if self.arguments["per"] == "all":
            return [(torch.arange(len(self.plain)), self.budget)]
        labels = self.plain.labels
        names = sorted(set(labels.tolist()))
        members = [torch.nonzero(labels == label).flatten() for label in names]
        shares = class_budgets([len(one) for one in members], self.budget)
        return [(one, share) for one, share in zip(members, shares, strict=True) if share]

    def batches(self) -> list[Tensor]:
        """The members of every batch."""
        size: int = self.arguments["batch_size"]
        return list(torch.arange(len(self.plain)).split(size))


def dense(gradients: LastLayerGradients, linear_layer: bool) -> Tensor:
    """Every gradient written out in float64."""
    g = gradients.logit_grads.double()
    if not linear_layer:
        return g
    return torch.cat([g, (g[:, :, None] * gradients.embeddings.double()[:, None]).flatten(1)], 1)


def class_budgets(sizes: list[int], budget: int) -> list[int]:
    """Largest remainder; classes left out get one, and the others share the rest."""

    def shared(some: list[int], amount: int) -> list[int]:
        floors = [size * amount // sum(some) for size in some]
        order = sorted(range(len(some)), key=lambda i: (-(some[i] * amount % sum(some)), i))
        for i in order[: amount - sum(floors)]:
            floors[i] += 1
        return floors

    found = shared(sizes, budget)
    if budget < len(sizes):
        return found
    while 0 in found:
        large = [i for i, share in enumerate(found) if share > 1]
        rest = shared([sizes[i] for i in large], budget - (len(sizes) - len(large)))
        found = [1] * len(sizes)
        for i, share in zip(large, rest, strict=True):
            found[i] = share
    return found


# ------------------------------------------------------------------------------ problems


def problem_of(seed: int) -> Problem:
    """A random problem; equal seeds give equal ones."""
    draws = generator(seed, "attack")

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draws))

    def one_of(options: Sequence[Any]) -> Any:
        return options[whole(0, len(options) - 1)]

    size, classes, width = whole(1, 28), whole(2, 5), whole(1, 6)
    labels = torch.randint(classes, (size,), generator=draws)
    traits: list[str] = []
    if one_of([True, False, False]):
        traits.append(one_of(["one class", "rare classes"]))
        rare = min(size, classes - 1) if traits[-1] == "rare classes" else 0
        labels = torch.full((size,), classes - 1)
        labels[:rare] = torch.arange(rare)
    plain = _pool(size, classes, width, labels, draws)
    if one_of([True, False]):
        traits.append(one_of(["zero rows", "all zero", "duplicates", "tiny", "large"]))
        plain = _changed(plain, traits[-1], draws)
    # Half precision holds neither tiny nor large numbers.
    forms = [
        "float32",
        "float64",
        "requires grad",
        "transposed",
        "second",
        "negative strides",
    ]
    if not {"tiny", "large"} & set(traits):
        forms += ["bfloat16", "float16"]
    traits.append(one_of(forms))
    pool, plain = _form(plain, traits[-1])
    held = _pool(whole(1, 9), classes, width, None, draws)
    name = one_of(OURS)
    arguments: dict[str, Any] = {
        "per": one_of(["class", "all", "batch"]), "linear_layer": one_of([True, True, False]),
        "batch_size": whole(1, 9), "seed": seed,
        "memory_limit": one_of([None, None, 50_000, 10_000_000]),
        **_options(name, one_of),
    }  # fmt: skip
    budget = one_of([1, size, whole(1, size)])
    made = Problem(name, budget, pool, plain, held, arguments, traits)
    if whole(0, 5) == 0:
        _spoil(made, one_of(["NaN", "infinity", "huge", "empty"]), draws)
    return made


def _pool(
    size: int, classes: int, width: int, labels: Tensor | None, draws: torch.Generator
) -> LastLayerGradients:
    if labels is None:
        labels = torch.randint(classes, (size,), generator=draws)
    embeddings = torch.randn(size, width, generator=draws)
    logits = 2 * torch.randn(size, classes, generator=draws)
    grads = logits.softmax(1)
    grads[torch.arange(size), labels] -= 1
    return LastLayerGradients(grads, embeddings, labels, logits)


def _changed(plain: LastLayerGradients, trait: str, draws: torch.Generator) -> LastLayerGradients:
    grads = plain.logit_grads.clone()
    if trait == "zero rows":
        grads[torch.rand(len(grads), generator=draws) < 0.5] = 0.0
    elif trait == "all zero":
        grads.zero_()
    elif trait == "duplicates":
        again = plain.subset(torch.randint(len(grads), (len(grads),), generator=draws))
        return replace(again, indices=None)
    else:
        grads *= 1e-22 if trait == "tiny" else 1e12
    return replace(plain, logit_grads=grads)


def _form(plain: LastLayerGradients, form: str) -> tuple[Any, LastLayerGradients]:
    """The pool as it is handed over, and in plain float32."""

    def each(change: Callable[[Tensor], Any]) -> Any:
        return replace(
            plain, logit_grads=change(plain.logit_grads), embeddings=change(plain.embeddings),
            logits=change(plain.logits),
        )  # fmt: skip

    if form in ("bfloat16", "float16"):
        short = each(lambda part: part.to(getattr(torch, form)))
        plain = each(lambda part: part.to(getattr(torch, form)).float())
        return short, plain
    changes: dict[str, Callable[[Tensor], Any]] = {
        "float32": lambda part: part,
        "float64": lambda part: part.double(),
        "requires grad": lambda part: part.clone().requires_grad_(),
        "transposed": lambda part: part.T.contiguous().T,
        "second": lambda part: part.repeat_interleave(2, dim=0)[::2],
        "negative strides": lambda part: part.numpy()[::-1].copy()[::-1],
    }
    return each(changes[form]), plain


def _options(name: str, one_of: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    if name == "glister":
        return {"eta": one_of([0.01, 0.3]), "greedy": one_of(["naive", "naive", "rgreedy"])}
    if name == "gradmatch":
        return {"ridge": one_of([0.0, 0.5]), "nonnegative": one_of([True, False])}
    if name == "stratified":
        return {"cut": one_of([0.0, 0.3, 0.6]), "strata": one_of([1, 3, 50])}
    if name == "covering":
        methods = ["kmeans", "herding", "facility-location", "k-centre"]
        return {"cut": one_of([0.0, 0.3, 0.6]), "method": one_of(methods)}
    if name == "curriculum":
        return {"epoch": one_of([0, 1, 4]), "epochs": 5}
    if name == "rs2":
        return {"epoch": one_of([0, 1, 7])}
    return {}


def _spoil(problem: Problem, how: str, draws: torch.Generator) -> None:
    """Make the pool one that must be refused."""
    problem.refused = True
    problem.traits.append(how)
    size = len(problem.plain)
    if how == "empty":
        problem.pool = problem.plain.subset(torch.zeros(0, dtype=torch.int64))
        return
    value = {"NaN": math.nan, "infinity": math.inf, "huge": 1e18}[how]
    rows = torch.randperm(size, generator=draws)[: 1 + size // 4].sort().values
    grads = problem.plain.logit_grads.clone()
    grads[rows, 0] = value
    problem.pool = replace(problem.plain, logit_grads=grads)
    problem.bad_rows = rows.tolist()[:5]


# ------------------------------------------------------------------------------ checks


class Wrong(Exception):
    """An answer that is not what it should be."""


def require(condition: Any, what: str) -> None:
    """Raise `Wrong` unless something holds."""
    if not bool(condition):
        raise Wrong(what)


def check(problem: Problem) -> str:
    """Select, and compare with brute force.

    Returns:
        ``right``, ``refused``, or what is wrong, beginning with its kind.
    """
    held = {"val_gradients": problem.held} if problem.name == "glister" else {}
    try:
        chosen = select(problem.name, problem.pool, problem.budget, **held, **problem.arguments)
    except ValueError as error:
        if problem.refused and all(str(row) in str(error) for row in problem.bad_rows):
            return "refused"
        if problem.arguments["memory_limit"] is not None and "MiB" in str(error):
            return "refused"
        return f"raw error: {error}"
    except Exception as error:  # whatever it is, it is what is looked for
        return f"raw error: {type(error).__name__}: {error}"
    if problem.refused:
        return "wrong answer: it should have been refused"
    try:
        _check_budget(problem, chosen)
    except Wrong as error:
        return f"wrong budget: {error}"
    try:
        CHECKS[problem.name](problem, chosen)
    except Wrong as error:
        return f"wrong objective: {error}"
    return "right"


def _check_budget(problem: Problem, chosen: Selection) -> None:
    picks = chosen.indices.tolist()
    require(len(set(picks)) == len(picks) == problem.budget, "not as many distinct as asked for")
    require(min(picks) >= 0 and max(picks) < len(problem.plain), "outside of the pool")
    require(chosen.weights.shape == (problem.budget,), "not one weight a sample")
    require(chosen.weights.isfinite().all(), "weights that are not finite")
    if problem.arguments["per"] == "batch":
        batches, left = problem.batches(), picks
        while left:
            batch = batches[left[0] // problem.arguments["batch_size"]].tolist()
            require(left[: len(batch)] == batch[: len(left)], "torn batches")
            left = left[len(batch) :]
    else:
        for members, share in problem.groups():
            found = int(torch.isin(chosen.indices, members).sum())
            require(found == share, f"{found} of a class whose share is {share}")


def _parts(problem: Problem, chosen: Selection) -> list[tuple[Tensor, list[int]]]:
    """Candidates of every group, as dense vectors, and the positions chosen among them in order."""
    atoms = problem.dense
    if problem.arguments["per"] == "batch":
        means = torch.stack([atoms[members].mean(dim=0) for members in problem.batches()])
        where = chosen.indices.div(problem.arguments["batch_size"], rounding_mode="floor")
        return [(means, list(dict.fromkeys(where.tolist())))]
    parts = []
    for members, _ in problem.groups():
        mine = chosen.indices[torch.isin(chosen.indices, members)]
        parts.append((atoms[members], torch.searchsorted(members, mine).tolist()))
    return parts


def _glister(problem: Problem, chosen: Selection) -> None:
    """Every choice, in order, has the largest gain of its step."""
    held, eta = problem.held, problem.arguments["eta"]
    per = problem.arguments["per"]
    labels = [None] if per != "class" else [int(problem.plain.labels[m[0]])
                                            for m, _ in problem.groups()]  # fmt: skip
    for label, (atoms, picks) in zip(labels, _parts(problem, chosen), strict=True):
        judges = held
        if label is not None and bool((held.labels == label).any()):
            judges = held.subset(held.labels == label)
        at_once = 1
        if problem.arguments["greedy"] == "rgreedy":
            at_once = max(1, len(picks) // 15)
        step = torch.zeros(atoms.shape[1], dtype=torch.float64)
        longest = float(atoms.norm(dim=1).max())
        for start in range(0, len(picks), at_once):
            some = picks[start : start + at_once]
            direction, reach = _validation_gradient(judges, step, eta)
            gains = atoms @ direction
            gains[picks[:start]] = -math.inf
            best = gains.sort(descending=True).values[: len(some)]
            loose = LOOSE * longest * reach
            require((gains[some] >= best - loose).all(), "a gain below the best of its step")
            step += atoms[some].sum(dim=0)


def _validation_gradient(
    held: LastLayerGradients, step: Tensor, eta: float
) -> tuple[Tensor, float]:
    """Mean validation gradient at the moved head, and a bound of what its terms add up to."""
    classes, size = held.num_classes, len(held)
    embeddings = held.embeddings.double()
    moved = held.logits.double() - eta * step[:classes]
    linear = len(step) > classes
    if linear:
        moved = moved - eta * embeddings @ step[classes:].view(classes, -1).T
    errors = moved.softmax(1)
    errors[torch.arange(size), held.labels] -= 1
    errors /= size
    lengths = errors.norm(dim=1) * (1 + embeddings.square().sum(dim=1)).sqrt()
    bias = errors.sum(dim=0)
    dense_part = (errors.T @ embeddings).flatten()
    return torch.cat([bias, dense_part]) if linear else bias, float(lengths.sum())


def _craig(problem: Problem, chosen: Selection) -> None:
    """Every choice, in order, adds most to the facility-location value; weights count clusters."""
    values = []
    for atoms, picks in _parts(problem, chosen):
        distances = (atoms[:, None] - atoms[None]).square().sum(dim=2)
        kernel = distances.max() - distances
        covered = torch.zeros(len(atoms), dtype=torch.float64)
        scale = float(kernel.max()) * len(atoms)
        for turn, pick in enumerate(picks):
            gains = (kernel - covered).clamp(min=0).sum(dim=1)
            gains[picks[:turn]] = -math.inf
            require(gains[pick] >= gains.max() - LOOSE * scale, "a gain below the best of its step")
            covered = torch.maximum(covered, kernel[pick])
        values.append(float(covered.sum()))
        told = chosen.info["groups"][len(values) - 1]["value"]
        require(abs(told - values[-1]) <= LOOSE * scale, f"value {told} for {values[-1]}")
    if problem.arguments["per"] != "batch":
        total = float(chosen.weights.double().sum())
        wanted = problem.budget / len(problem.plain)
        wanted *= sum(len(atoms) for atoms, _ in _parts(problem, chosen))
        require(abs(total - wanted) <= 1e-4 * wanted, f"weights add up to {total}, not {wanted}")


def _gradmatch(problem: Problem, chosen: Selection) -> None:
    """What the weighted choice adds up to is as near to the sum of all as the report says.

    Where one round made it, the weights are those of least squares on its atoms.
    """
    scale = len(problem.plain) / problem.budget
    nonnegative, ridge = problem.arguments["nonnegative"], problem.arguments["ridge"]
    require(not nonnegative or bool((chosen.weights >= 0).all()), "a weight below zero")
    start = 0
    for group, (atoms, picks) in zip(chosen.info["groups"], _parts(problem, chosen), strict=True):
        if problem.arguments["per"] == "batch":
            if chosen.info["samples_cut"]:
                return  # the last mean is not whole
            batches = problem.batches()
            lengths = torch.tensor([len(batches[pick]) for pick in picks])
            firsts = lengths.cumsum(0) - lengths
            weights = chosen.weights[firsts].double() * lengths * len(batches) / problem.budget
        else:
            weights = chosen.weights[start : start + len(picks)].double() * scale
            start += len(picks)
        target = atoms.sum(dim=0)
        reached = weights @ atoms[picks]
        length = float(target.norm())
        if length <= 1e-12 * float(atoms.norm(dim=1).sum()):
            continue  # nothing to match
        residual = float((target - reached).norm()) / length
        require(residual <= group["residual_bound"] + 1e-4, f"residual {residual:.2g} is beyond "
                f"the reported {group['residual_bound']:.2g}")  # fmt: skip
        if group["rounds"] == [len(picks)]:
            require(abs(residual - group["residual"]) <= 1e-4, "a residual that is misreported")
            some = atoms[picks]
            gram = some @ some.T + ridge * torch.eye(len(picks), dtype=torch.float64)
            slope = some @ target - gram @ weights
            bound = 1e-4 * float(some.norm(dim=1).max()) * float(atoms.norm(dim=1).sum())
            bound += 1e-38 * float(gram.abs().max()) * len(picks)  # the least float32 weight
            require(float(slope.abs().max()) <= bound, "weights that are not least squares")


def _largest(problem: Problem, chosen: Selection) -> None:
    """No sample that was left out has a larger norm."""
    linear = problem.arguments["linear_layer"] and problem.name == "grand"
    norms = dense(problem.plain, linear).norm(dim=1)
    if problem.arguments["per"] == "batch":
        means = torch.stack([norms[members].mean() for members in problem.batches()])
        where = chosen.indices.div(problem.arguments["batch_size"], rounding_mode="floor").unique()
        _require_largest(means, where)
        return
    for members, _ in problem.groups():
        mine = torch.isin(members, chosen.indices)
        _require_largest(norms[members], torch.nonzero(mine).flatten())


def _require_largest(values: Tensor, where: Tensor) -> None:
    left = torch.ones(len(values), dtype=torch.bool)
    left[where] = False
    if bool(left.any()):
        most = float(values[left].max())
        require(float(values[where].min()) >= most * (1 - LOOSE), "a larger one was left out")


def _importance(problem: Problem, chosen: Selection) -> None:
    """Scores are the inclusion probabilities, found by bisection; weights are their inverses."""
    require(chosen.scores is not None, "no scores")
    assert chosen.scores is not None
    ratio = problem.budget / len(problem.plain)
    inverse = chosen.weights.double() * chosen.scores.double()
    require(((inverse - ratio).abs() <= 1e-5 * ratio).all(), "weights that are not 1 / p")
    if problem.arguments["per"] == "batch":
        return
    norms = problem.dense.norm(dim=1)
    for members, share in problem.groups():
        values = (norms[members] + 0.1 * norms[members].mean()).numpy()
        if not values.any():
            values = np.ones_like(values)
        low, high = 0.0, share / values.min()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.minimum(1, middle * values).sum() < share else (low, middle)
            )
        wanted = torch.from_numpy(np.minimum(1, high * values))
        mine = chosen.indices[torch.isin(chosen.indices, members)]
        told = chosen.scores[torch.isin(chosen.indices, members)].double()
        expected = wanted[torch.searchsorted(members, mine)]
        require(((told - expected).abs() <= 1e-4 * expected).all(), "other probabilities")


def _losses(problem: Problem) -> Tensor:
    logits = problem.plain.logits.double()
    return torch.nn.functional.cross_entropy(logits, problem.plain.labels, reduction="none")


def _easiest(problem: Problem, chosen: Selection) -> None:
    """Nothing harder than what is offered."""
    losses = _losses(problem)
    if problem.arguments["per"] == "batch":
        return
    for members, budget in problem.groups():
        own = losses[members].sort().values
        if problem.name == "stratified":
            offered = max(budget, len(own) - int(problem.arguments["cut"] * len(own)))
        else:
            offered = max(budget, round(chosen.info["share"] * len(own)))
        mine = losses[chosen.indices[torch.isin(chosen.indices, members)]]
        require(float(mine.max()) <= float(own[offered - 1]) + 1e-12, "a harder one than offered")
        if problem.name == "stratified":
            _require_spread(own[:offered], mine, min(problem.arguments["strata"], budget))


def _margins(problem: Problem) -> Tensor:
    chances = problem.plain.logits.double().softmax(dim=1)
    own = problem.plain.labels[:, None]
    wrong = chances.scatter(1, own, -1.0).amax(dim=1)
    return wrong.clamp(min=0.0) - chances.gather(1, own)[:, 0]


def _covering(problem: Problem, chosen: Selection) -> None:
    """Nothing harder than what the cut leaves, and covered as its method says."""
    if problem.arguments["per"] == "batch":
        return
    margins, rows = _margins(problem), problem.plain.embeddings.double()
    for members, budget in problem.groups():
        own = margins[members].sort().values
        offered = max(budget, len(own) - int(problem.arguments["cut"] * len(own)))
        mine = chosen.indices[torch.isin(chosen.indices, members)]
        require(len(mine) == budget, "another share of the budget")
        limit = float(own[offered - 1])
        require(float(margins[mine].max()) <= limit + 1e-12, "a harder one than the cut leaves")
        kept = members[margins[members] <= limit]
        if len(kept) == offered:  # no ties at the cut
            _require_covered(rows[kept], torch.searchsorted(kept, mine), problem.arguments)


def _require_covered(rows: Tensor, picks: Tensor, arguments: dict[str, Any]) -> None:
    """Every step of a greedy method is as good as the best one."""
    scale = float(rows.square().sum(dim=1).max()) + 1e-30
    for step in range(1, len(picks)):
        before = rows[picks[:step]]
        if arguments["method"] == "herding":
            off = ((before.sum(dim=0) + rows) / (step + 1) - rows.mean(dim=0)).square().sum(dim=1)
        elif arguments["method"] == "k-centre":
            off = -torch.cdist(rows, before).amin(dim=1).square()
        else:
            return
        off[picks[:step]] = torch.inf
        require(float(off[picks[step]]) <= float(off.min()) + LOOSE * scale, "a step that is worse")


def _require_spread(kept: Tensor, mine: Tensor, strata: int) -> None:
    """Strata of equal size share the budget equally, as far as they hold it."""
    if len(kept.unique()) < len(kept):  # type: ignore[no-untyped-call]
        return  # equals may stand in either stratum
    edges = [i * len(kept) // strata for i in range(strata + 1)]
    places = torch.searchsorted(kept, mine)
    found = [int(((places >= a) & (places < b)).sum()) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    room = [b - a for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    for i, taken in enumerate(found):
        less = [other for j, other in enumerate(found) if j != i]
        require(taken == room[i] or all(other <= taken + 1 for other in less), "uneven strata")


def _nothing_more(problem: Problem, chosen: Selection) -> None:
    """Random draws have no objective but their budget."""


CHECKS: dict[str, Callable[[Problem, Selection], None]] = {
    "covering": _covering, "craig": _craig, "curriculum": _easiest, "el2n": _largest,
    "glister": _glister, "gradmatch": _gradmatch, "grand": _largest, "importance": _importance,
    "random": _nothing_more, "rs2": _nothing_more, "stratified": _easiest,
}  # fmt: skip


# ------------------------------------------------------------------------------ the run


def attacked(problems: int, first_seed: int) -> dict[str, Any]:
    """Counts of what came of that many problems, with the first few that are wrong."""
    found: dict[str, Counter[str]] = {name: Counter() for name in CHECKS}
    traits: Counter[str] = Counter()
    wrong = []
    for seed in range(first_seed, first_seed + problems):
        problem = problem_of(seed)
        answer = check(problem)
        found[problem.name][answer.split(":")[0]] += 1
        traits.update(problem.traits)
        if answer not in ("right", "refused"):
            wrong.append(
                {"seed": seed, "selector": problem.name, "traits": problem.traits, "what": answer}
            )
    return {
        "selectors": {name: dict(sorted(counts.items())) for name, counts in found.items()},
        "traits": dict(sorted(traits.items())),
        "wrong": len(wrong),
        "first_wrong": wrong[:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first problem")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    where = output_directory(args.output)
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = attacked(args.problems, args.seed)
    payload = {
        "kind": "selection attacks",
        "command": f"python benchmarks/selection_attacks.py --problems {args.problems} "
        f"--seed {args.seed}",
        "problems": args.problems,
        "seeds": [args.seed, args.seed + args.problems - 1],
        **found,
        "seconds": time.perf_counter() - started,
        "provenance": provenance(),
    }
    for name, counts in found["selectors"].items():
        print(f"{name:12s}", counts)
    for one in found["first_wrong"]:
        print(one)
    print(write_json(where / "selection_attacks.json", payload))


if __name__ == "__main__":
    main()
