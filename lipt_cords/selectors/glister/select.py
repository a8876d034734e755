"""GLISTER: greedy choice of samples whose gradient step lowers the validation loss."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import derive_seed
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.models.losses import PerSampleLoss
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_classes, check_positive
from lipt_cords.selectors.glister.gains import TaylorGains, ValidationStep
from lipt_cords.selectors.glister.lockstep import ClassShare, Lockstep, packs
from lipt_cords.selectors.grouping import fewest_batches, groups_of, spread_batches
from lipt_cords.selectors.memory import byte_limit
from lipt_cords.selectors.ties import first_best

Greedy = Literal["naive", "rgreedy", "stochastic"]
GREEDY_NAMES = ("naive", "rgreedy", "stochastic")


@register_selector("glister", spelling="GLISTER", needs_validation=True)
def glister(
    problem: SelectionProblem,
    *,
    eta: float = 0.01,
    greedy: Greedy = "naive",
    r: int = 15,
    validation: Literal["class", "all"] = "class",
    loss: nn.Module | PerSampleLoss | None = None,
    head: nn.Linear | None = None,
    rng: random.Random | None = None,
) -> Choice:
    """Samples whose last-layer gradients agree most with the validation gradient.

    The gain of sample i is <G_i, V>, V being the mean validation gradient; after samples S were
    chosen, V is taken at the head moved by ``-eta`` times the sum of their gradients. This is
    the objective of CORDS's GLISTER strategy (Killamsetty et al., AAAI 2021).

    Args:
        problem: needs validation gradients.
        eta: step size of the virtual update of the head, > 0.
        greedy: ``"naive"`` takes one sample at a time; ``"rgreedy"`` takes budget // r at once
            between two updates of V; ``"stochastic"`` takes the best of a random sample of
            (n / budget) ln 100 candidates.
        r: rounds of ``"rgreedy"``, at least 1.
        validation: for ``per="class"``, whether V comes from the validation samples of the same
            class (CORDS's way) or from all of them. A class without validation samples uses
            all of them; ``info["classes_without_validation"]`` names it.
        loss: the loss of the validation gradients; None for cross-entropy.
        head: the linear head from which validation logits start; None takes the logits in the
            validation gradients, which it made.
        rng: draws of ``"stochastic"``; None for one derived from the seed. One in the state of
            Python's global generator replays CORDS's draws.

    Returns:
        Samples in order of choice with weight 1; scores are the gains when chosen. In
        ``info["groups"]``: the mean validation loss before and after the virtual step.

    Raises:
        ValueError: no validation gradients, or an option out of range.
    """
    if greedy not in GREEDY_NAMES:
        raise unknown_name("greedy of GLISTER", greedy, GREEDY_NAMES)
    if validation not in ("class", "all"):
        raise unknown_name("validation of GLISTER", validation, ("class", "all"))
    if not eta > 0 or not math.isfinite(eta):
        raise ValueError(f"expected eta > 0, the step size of the virtual update, received {eta}")
    check_positive("r", r)
    if problem.validation is None:
        raise ValueError(
            "GLISTER chooses by a validation loss: expected val_gradients=, received none. "
            "Compute them with last_layer_gradients(model, validation_set)"
        )
    check_classes(problem.validation, "validation gradients")
    val_gradients = _with_head(problem.validation, head)
    draws = rng or random.Random(derive_seed(problem.seed, "glister"))
    run = _Greedy(greedy, r, draws)
    limit = byte_limit(problem)
    pool, linear = problem.gradients, problem.linear_layer
    if problem.per == "batch":
        before = draws.getstate()

        def batches(count: int) -> tuple[TaylorGains, Tensor, Tensor]:
            draws.setstate(before)
            step = ValidationStep(val_gradients, None, linear, eta, loss)
            gains = TaylorGains(pool, None, linear, step, limit, batch_size=problem.batch_size)
            return gains, *run(gains, count)

        gains, picks, scores = fewest_batches(problem, batches, lambda answer: answer[1])
        indices, _, spread, cut = spread_batches(problem, picks, torch.ones(len(picks)), scores)
        info = {"groups": [_summary(gains, None)], "samples_cut": cut}
        return Choice(indices, scores=spread, info=info)
    shares, missing = _class_shares(problem, val_gradients, validation)
    answers: dict[int, _Answer] = {}
    if greedy == "naive" and linear and loss is None:
        answers = _side_by_side(pool, val_gradients, shares, eta, limit)
    for i, share in enumerate(shares):
        if i not in answers:
            everything = len(share.held) == len(val_gradients)
            held = None if everything else share.held
            class_step = ValidationStep(val_gradients, held, linear, eta, loss)
            class_gains = TaylorGains(pool, share.members, linear, class_step, limit)
            answers[i] = (*run(class_gains, share.budget), _summary(class_gains, share.label))
            del class_step, class_gains  # before the next class takes as much
    found = [answers[i] for i in range(len(shares))]
    chosen = [share.members[answer[0]] for share, answer in zip(shares, found, strict=True)]
    return Choice(
        torch.cat(chosen),
        scores=torch.cat([answer[1] for answer in found]),
        info={
            "groups": [answer[2] for answer in found],
            "classes_without_validation": missing,
        },
    )


_Answer = tuple[Tensor, Tensor, dict[str, Any]]


def _side_by_side(
    pool: LastLayerGradients,
    val_gradients: LastLayerGradients,
    shares: list[ClassShare],
    eta: float,
    limit: int,
) -> dict[int, _Answer]:
    """Answers of the classes that can run in lockstep with others."""
    classes, width = pool.num_classes, pool.embedding_dim
    fit = [
        i
        for i, share in enumerate(shares)
        if share.suits(width) and 2 * share.nbytes(classes, width) <= limit
    ]
    answers: dict[int, _Answer] = {}
    for pack in packs([shares[i] for i in fit], classes, width, limit):
        if len(pack) == 1:
            continue  # nothing to share a step with
        lockstep = Lockstep(pool, val_gradients, [shares[fit[i]] for i in pack], eta)
        picks, gains = lockstep.run()
        for i, chosen, scores, summary in zip(
            pack, picks, gains, lockstep.summaries(), strict=True
        ):
            answers[fit[i]] = (torch.tensor(chosen), torch.tensor(scores), summary)
    return answers


def _class_shares(
    problem: SelectionProblem, val_gradients: LastLayerGradients, validation: str
) -> tuple[list[ClassShare], list[int]]:
    """Candidates beside the validation samples that judge them; classes that have none."""
    everything = torch.arange(len(val_gradients), device=val_gradients.labels.device)
    shares: list[ClassShare] = []
    missing: list[int] = []
    for group in groups_of(problem):
        held = everything
        if group.label is not None and validation == "class":
            held = torch.nonzero(val_gradients.labels == group.label).flatten()
            if len(held) == 0:
                missing.append(group.label)
                held = everything
        shares.append(ClassShare(group.label, group.members, held, group.budget))
    return shares, missing


class _Greedy:
    """One of the three greedy orders over any gains."""

    def __init__(self, greedy: Greedy, rounds: int, rng: random.Random) -> None:
        self._greedy, self._rounds, self._rng = greedy, rounds, rng

    def __call__(self, gains: TaylorGains, budget: int) -> tuple[Tensor, Tensor]:
        if self._greedy == "naive":
            return _naive(gains, budget)
        if self._greedy == "rgreedy":
            return _rounds(gains, budget, self._rounds)
        return _stochastic(gains, budget, self._rng)


def _naive(gains: TaylorGains, budget: int) -> tuple[Tensor, Tensor]:
    picks, scores = [], []
    for _ in range(budget):
        pick, gain = gains.best()
        picks.append(pick)
        scores.append(gain)
        gains.add([pick])
    return torch.tensor(picks), torch.tensor(scores)


def _rounds(gains: TaylorGains, budget: int, rounds: int) -> tuple[Tensor, Tensor]:
    at_once = max(1, budget // rounds)
    picks: list[int] = []
    scores: list[Tensor] = []
    while len(picks) < budget:
        values = gains.exact()
        values[picks] = -math.inf
        order = torch.sort(values, descending=True, stable=True).indices
        chosen = order[: min(at_once, budget - len(picks))]
        scores.append(values[chosen].cpu())
        picks.extend(chosen.tolist())
        gains.add(chosen.tolist())
    return torch.tensor(picks), torch.cat(scores)


def _stochastic(gains: TaylorGains, budget: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    size = max(1, int(len(gains) / budget * math.log(100)))
    remaining = torch.arange(len(gains))
    picks, scores = [], []
    for _ in range(budget):
        drawn = rng.sample(range(len(remaining)), min(size, len(remaining)))
        # In the order of the draw, so that ties go to the candidate drawn first, as in CORDS.
        values = gains.exact(remaining[drawn])
        position = drawn[first_best(values, gains.scale)]
        pick = int(remaining[position])
        scores.append(float(values[drawn.index(position)]))
        picks.append(pick)
        remaining = torch.cat([remaining[:position], remaining[position + 1 :]])
        gains.add([pick])
    return torch.tensor(picks), torch.tensor(scores)


def _with_head(gradients: LastLayerGradients, head: nn.Linear | None) -> LastLayerGradients:
    if head is None:
        return gradients
    with torch.no_grad():
        logits = nn.functional.linear(gradients.embeddings, head.weight, head.bias)
    return replace(gradients, logits=logits)


def _summary(gains: TaylorGains, label: int | None) -> dict[str, Any]:
    before, after = gains.step.losses()
    return {
        "label": label,
        "candidates": len(gains),
        "validation_samples": len(gains.step),
        "validation_loss_before": before,
        "validation_loss_after": after,
        "products": gains.products,
        "knob": gains.knob,
    }
