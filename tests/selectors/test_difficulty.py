from __future__ import annotations

import pytest
import torch
from synthetic import dense, pool
from torch.nn import functional as F

from lipt_cords.selectors.difficulty import difficulty, held_out, held_out_plan


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
