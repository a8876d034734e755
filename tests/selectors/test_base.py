from __future__ import annotations

from typing import Any

import pytest
import torch
from synthetic import pool
from torch.utils.data import IterableDataset

from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.selectors.base import (
    Choice,
    Selection,
    register_selector,
    select,
    selector_names,
    selector_options,
    unregister_selector,
)

NEEDS_VALIDATION = {"glister"}


@pytest.mark.parametrize("per", ["class", "all", "batch"])
@pytest.mark.parametrize("name", selector_names())
def test_every_selector_meets_every_budget_exactly(name: str, per: str) -> None:
    gradients, held_out = pool(23, seed=1), pool(9, seed=2)
    for budget in (1, 2, 7, 16, 22, 23):
        chosen = select(
            name, gradients, budget, val_gradients=held_out, per=per, batch_size=4, seed=3
        )
        assert chosen.indices.dtype == torch.int64 and chosen.weights.dtype == torch.float32
        assert len(set(chosen.indices.tolist())) == budget == len(chosen.weights)
        assert int(chosen.indices.min()) >= 0 and int(chosen.indices.max()) < 23
        assert torch.isfinite(chosen.weights).all() and (chosen.weights >= 0).all()
        assert chosen.name == name and chosen.seconds >= 0
        if chosen.scores is not None:
            assert chosen.scores.shape == (budget,)


@pytest.mark.parametrize("per", ["class", "all", "batch"])
@pytest.mark.parametrize("name", selector_names())
def test_equal_seeds_give_equal_bits_and_leave_global_randomness_alone(name: str, per: str) -> None:
    gradients, held_out = pool(40, seed=1), pool(12, seed=2)
    before = torch.get_rng_state()
    first, second = (
        select(name, gradients, 11, val_gradients=held_out, per=per, batch_size=4, seed=5)
        for _ in range(2)
    )
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", selector_names())
def test_classes_share_the_budget_by_largest_remainder(name: str) -> None:
    labels = torch.tensor([0] * 10 + [1] * 7 + [2] * 3)
    gradients, held_out = pool(20, labels=labels), pool(9, seed=2)
    chosen = select(name, gradients, 7, val_gradients=held_out)
    # Shares 3.5, 2.45, 1.05: the largest fraction takes the sample that floors leave over.
    assert torch.bincount(labels[chosen.indices], minlength=3).tolist() == [4, 2, 1]


@pytest.mark.parametrize("name", selector_names())
def test_one_class_and_a_class_without_budget(name: str) -> None:
    held_out = pool(9, seed=2)
    alone = pool(8, labels=torch.ones(8, dtype=torch.int64))
    assert len(select(name, alone, 3, val_gradients=held_out)) == 3
    rare = pool(20, labels=torch.tensor([0] * 19 + [2]))
    chosen = select(name, rare, 4, val_gradients=held_out)
    assert (rare.labels[chosen.indices] == 0).all()


@pytest.mark.parametrize("budget", [0, -1, 24, 2.5, "3", True, None])
def test_a_budget_out_of_range_is_refused(budget: object) -> None:
    with pytest.raises(ValueError, match="budget"):
        select("random", pool(23), budget)  # type: ignore[arg-type]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'glister'"):
        select("glistr", pool(5), 2)
    with pytest.raises(ValueError, match="Did you mean 'eta'"):
        select("glister", pool(5), 2, etaa=1.0)
    with pytest.raises(ValueError, match="Did you mean 'class'"):
        select("random", pool(5), 2, per="clas")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["logit_grads", "embeddings"])
def test_rows_that_are_not_finite_are_named(part: str, value: float) -> None:
    gradients = pool(9)
    getattr(gradients, part)[[4, 7], 1] = value
    with pytest.raises(ValueError, match=rf"2 row\(s\) of {part}: 4, 7"):
        select("random", gradients, 2)
    if part == "embeddings":
        assert len(select("random", gradients, 2, linear_layer=False)) == 2


def test_lengths_and_models_that_do_not_match_are_refused() -> None:
    good = pool(9)
    torn = LastLayerGradients(good.logit_grads, good.embeddings[:8], good.labels, good.logits)
    with pytest.raises(ValueError, match="one length"):
        select("random", torn, 2)
    with pytest.raises(ValueError, match="widths 4 and 5"):
        select("glister", good, 2, val_gradients=pool(5, width=5))
    with pytest.raises(ValueError, match="classes 3 and 4"):
        select("glister", good, 2, val_gradients=pool(5, classes=4))
    with pytest.raises(ValueError, match="integer labels"):
        select("random", torch.rand(4), 2)
    with pytest.raises(ValueError, match="empty"):
        select("random", torch.zeros(0, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="labels alone"):
        select("glister", torch.zeros(4, dtype=torch.int64), 1, val_gradients=good)


def test_a_selector_of_ones_own() -> None:
    @register_selector("last")
    def last(problem, *, skip: int = 0):  # type: ignore[no-untyped-def]
        stop = len(problem) - skip
        return Choice(torch.arange(stop - problem.budget, stop), info={"skip": skip})

    try:
        chosen = select("last", torch.zeros(6, dtype=torch.int64), 2, skip=1)
        assert chosen.indices.tolist() == [3, 4] and chosen.info["skip"] == 1
        assert selector_options("last") == ("skip",)
        with pytest.raises(ValueError, match="exists already"):
            register_selector("Last")
    finally:
        unregister_selector("last")
    assert "last" not in selector_names()


def test_a_selector_that_breaks_the_contract_is_found_out() -> None:
    @register_selector("twice")
    def twice(problem):  # type: ignore[no-untyped-def]
        return torch.zeros(problem.budget, dtype=torch.int64)

    try:
        with pytest.raises(ValueError, match="1 of them distinct: expected 3"):
            select("twice", torch.zeros(6, dtype=torch.int64), 3)
    finally:
        unregister_selector("twice")


def test_labels_may_be_numpys_and_a_selection_is_loaded_as_it_was_saved(tmp_path: Any) -> None:
    labels = torch.arange(120) % 3
    chosen = select("random", labels.numpy(), 6, seed=4)
    assert chosen.indices.equal(select("random", labels, 6, seed=4).indices)
    torch.save(chosen, tmp_path / "chosen.pt")
    loaded = torch.load(tmp_path / "chosen.pt", weights_only=True)
    assert isinstance(loaded, Selection) and loaded.indices.equal(chosen.indices)
    assert loaded.name == "random" and loaded.info == chosen.info


def test_a_stream_has_no_indices_to_choose() -> None:
    class Stream(IterableDataset[Any]):
        def __len__(self) -> int:
            return 12

        def __iter__(self) -> Any:
            return iter([(torch.ones(6), 0)] * 12)

    with pytest.raises(ValueError, match="received Stream, an IterableDataset: samples"):
        last_layer_gradients(torch.nn.Linear(6, 3), Stream())
