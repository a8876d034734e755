from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import dense, pool
from torch import Tensor
from torch.nn import functional as F

from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.base import select
from lipt_cords.selectors.difficulty import (
    SCORES,
    difficulty,
    held_out,
    held_out_plan,
    register_score,
)


def test_scores_are_what_they_say() -> None:
    gradients = pool(30, 4, 5, 1)
    torch.testing.assert_close(
        difficulty(gradients, "loss").float(),
        F.cross_entropy(gradients.logits, gradients.labels, reduction="none"),
    )
    torch.testing.assert_close(difficulty(gradients, "grand"), dense(gradients).norm(dim=1))
    torch.testing.assert_close(difficulty(gradients, "el2n"), dense(gradients, False).norm(dim=1))
    margins = difficulty(gradients, "margin")
    assert torch.equal(margins < 0, gradients.correct())
    with pytest.raises(ValueError, match="Did you mean 'margin'"):
        difficulty(gradients, "margins")


def test_no_worker_scores_what_it_has_trained_on() -> None:
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shards = list(order[:40].split(10))
    plan = held_out_plan(shards, 50, scorers=2, seed=3)
    for worker, shard in enumerate(shards):
        assert not plan[worker, shard].any()
    assert (plan.sum(dim=0) == 2).all() and int(plan.sum()) == 100
    assert torch.equal(plan, held_out_plan(shards, 50, scorers=2, seed=3))
    everyone = held_out_plan(shards, 50, scorers=9)
    assert everyone[:, order[:40]].sum(dim=0).eq(3).all()
    assert everyone[:, order[40:]].all()


def test_the_mean_reads_held_out_scores_alone() -> None:
    scores = torch.tensor([[1.0, float("nan"), 3.0], [5.0, 2.0, float("inf")]])
    allowed = torch.tensor([[True, False, True], [True, True, False]])
    assert held_out(scores, allowed).tolist() == [3.0, 2.0, 3.0]


def test_bad_shards_and_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples \[2\]"):
        held_out_plan([torch.tensor([0, 2]), torch.tensor([1, 2])], 3)
    with pytest.raises(ValueError, match="worker 1"):
        held_out_plan([torch.tensor([0]), torch.tensor([3])], 3)
    with pytest.raises(ValueError, match="at least two workers"):
        held_out(torch.ones(1, 2), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="one shape"):
        held_out(torch.ones(1, 2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"workers \[0\]"):
        held_out(torch.tensor([[float("nan")]]), torch.tensor([[True]]))


@pytest.mark.parametrize("score", ["loss", "margin", "el2n", "grand"])
def test_chunks_change_no_score(score: str) -> None:
    gradients = pool(60, 4, 5, 1)
    whole = difficulty(gradients, score)
    for limit in (1, 2000, 10**6):
        assert difficulty(gradients, score, memory_limit=limit).equal(whole)
    strange = replace(gradients, logit_grads=gradients.logit_grads.double().requires_grad_())
    assert difficulty(strange, score).equal(whole)


def test_scores_of_a_function_that_sees_the_pool_are_not_cut_into_chunks() -> None:
    seen = []

    @register_score("rank")
    def rank(gradients: LastLayerGradients) -> Tensor:
        seen.append(len(gradients))
        return gradients.norms().argsort().argsort()

    try:
        select("stratified", pool(60), 9, score="rank", memory_limit=10)
        assert seen == [60]
    finally:
        SCORES.unregister("rank")


@pytest.mark.parametrize("name", ["stratified", "curriculum"])
def test_a_memory_limit_is_honoured_by_scores(name: str) -> None:
    sizes = []

    @register_score("counted", by_sample=True)
    def counted(gradients: LastLayerGradients) -> Tensor:
        sizes.append(len(gradients))
        return gradients.norms()

    try:
        select(name, pool(60, 4, 5), 9, score="counted", memory_limit=2000)
        # 32 bytes a logit, 8 a number of the embedding.
        assert sum(sizes) == 60 and max(sizes) <= 2000 // (32 * 4 + 8 * 5)
    finally:
        SCORES.unregister("counted")


def test_scores_that_cannot_order_samples_are_refused() -> None:
    gradients = pool(9)
    gradients.logits[[2, 5], 1] = torch.inf
    with pytest.raises(ValueError, match=r"finite difficulties 'loss', .* 2 row\(s\): 2, 5"):
        difficulty(gradients)
    with pytest.raises(ValueError, match=r"labels of gradients in \[0, 3\).* 9 in row 0"):
        difficulty(replace(pool(4), labels=torch.full((4,), 9)))
    for name in ("grand", "el2n", "importance", "stratified", "curriculum"):
        for scores, message in (
            (torch.full((9,), torch.nan), r"NaN or infinity in 9 row\(s\): 0, 1, 2, 3, 4, \.\.\."),
            (torch.ones(9, 1), r"scores of shape \(9,\).*received \(9, 1\)"),
            (torch.ones(20), r"by scores\[gradients.indices\]"),
            (torch.ones(9, dtype=torch.complex64), "received complex"),
            (["hard"] * 9, "numbers as scores, received list"),
        ):
            with pytest.raises(ValueError, match=message):
                select(name, pool(9), 3, scores=scores)
        upside_down = np.arange(9.0)[::-1]
        found = select(name, pool(9), 3, per="all", scores=upside_down)
        assert found.indices.equal(
            select(name, pool(9), 3, per="all", scores=torch.arange(9.0).flip(0)).indices
        )


def test_a_pilot_that_measured_nothing_is_refused() -> None:
    for answer in (float("nan"), (0.5, float("inf")), (0.5, 1.0, -0.1)):
        with pytest.raises(ValueError, match="of a pilot a finite worth"):
            select("stratified", pool(30), 9, pilot=lambda indices, worth=answer: worth)
