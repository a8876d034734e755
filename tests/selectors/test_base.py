from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
from lipt_cords.selectors.grouping import class_shares, largest_remainder

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
def test_one_class_and_a_rare_class(name: str, caplog: pytest.LogCaptureFixture) -> None:
    held_out = pool(9, seed=2)
    alone = pool(8, labels=torch.ones(8, dtype=torch.int64))
    assert len(select(name, alone, 3, val_gradients=held_out)) == 3
    rare = pool(20, labels=torch.tensor([0] * 19 + [2]))
    chosen = select(name, rare, 4, val_gradients=held_out)
    assert rare.labels[chosen.indices].tolist().count(2) == 1, "nothing vanishes without a word"
    assert "warning" not in chosen.info and not caplog.records
    chosen = select(name, rare, 1, val_gradients=held_out)
    assert chosen.info["missing_classes"] == [2]
    assert chosen.info["warning"] in caplog.text and "a budget of at least 2" in caplog.text


def test_classes_that_vanish_from_the_whole_pool_or_from_batches_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = torch.tensor([0] * 40 + [3, 5])
    for per in ("all", "batch"):
        caplog.clear()
        scores = -torch.arange(42.0)
        chosen = select(
            "grand", pool(42, 6, labels=labels), 8, per=per, batch_size=4, scores=scores
        )
        assert chosen.info["missing_classes"] == [3, 5]
        assert "2 of 3 classes are not in the subset (3, 5): per='class'" in caplog.text
    caplog.clear()
    chosen = select("rs2", labels, 8, per="all", epoch=0)
    assert set(chosen.info.get("missing_classes", [])) <= {3, 5}
    assert not caplog.records, "a fresh subset every epoch is not announced every epoch"


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), data=st.data())
def test_each_class_gets_a_sample_where_the_budget_allows(
    sizes: list[int], data: st.DataObject
) -> None:
    counts = torch.tensor(sizes)
    budget = data.draw(st.integers(1, sum(sizes)))
    shares, plain = class_shares(counts, budget), largest_remainder(counts, budget)
    assert int(shares.sum()) == budget and bool((shares <= counts).all())
    if budget < len(sizes) or bool((plain > 0).all()):
        assert shares.equal(plain)
        return
    assert int(shares.min()) == 1
    larger = counts[:, None] > counts[None]
    assert bool((shares[:, None] >= shares[None])[larger].all()), "no class overtakes a larger one"
    quota = counts.double() * budget / sum(sizes)
    assert bool((shares <= quota.ceil().clamp(min=1)).all()), "and none gains but the smallest"


@settings(max_examples=150)
@given(
    samples=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    name=st.sampled_from(selector_names()),
    greedy=st.sampled_from(["naive", "rgreedy", "stochastic"]),
    data=st.data(),
)
def test_batches_meet_every_budget_exactly(
    samples: int, batch_size: int, seed: int, name: str, greedy: str, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, samples))
    options = {"greedy": greedy} if name == "glister" else {}
    chosen = select(
        name, pool(samples, seed=seed), budget, val_gradients=pool(5, seed=seed + 1), per="batch",
        batch_size=batch_size, seed=seed, **options,
    )  # fmt: skip
    picks = chosen.indices.tolist()
    assert len(set(picks)) == len(picks) == budget == len(chosen.weights)
    assert bool(chosen.weights.isfinite().all()) and bool((chosen.weights >= 0).all())
    # Whole batches, in order, but for the last one, which is cut.
    batches = [list(range(start, min(start + batch_size, samples)))
               for start in range(0, samples, batch_size)]  # fmt: skip
    while picks:
        batch = batches[picks[0] // batch_size]
        assert picks == batch[: len(picks)] or picks[: len(batch)] == batch
        picks = picks[len(batch) :]


@pytest.mark.parametrize("name", ["glister", "gradmatch", "craig", "grand", "el2n", "stratified"])
def test_no_more_batches_are_chosen_than_hold_the_budget(name: str) -> None:
    """The answer is that of the fewest batches, whether the short one is among them or not."""
    for seed in range(20):
        gradients = pool(30, seed=seed)
        chosen = select(name, gradients, 14, val_gradients=pool(9, seed=seed + 1), per="batch",
                        batch_size=7, seed=seed)  # fmt: skip
        short = bool((chosen.indices >= 28).any())
        assert len(chosen.indices.div(7, rounding_mode="floor").unique()) == 2 + short


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


@pytest.mark.parametrize("name", selector_names())
def test_a_pool_in_any_form_gives_one_answer(name: str) -> None:
    """Half precision, float64, gradients, strides and arrays: what float32 tensors give."""
    plain, held_out = pool(24, seed=1), pool(9, seed=2)
    short = replace(plain, logit_grads=plain.logit_grads.bfloat16().float())
    learning = replace(
        plain, logit_grads=plain.logit_grads.clone().requires_grad_(),
        embeddings=plain.embeddings.clone().requires_grad_(),
    )  # fmt: skip
    turned = replace(
        plain, logit_grads=plain.logit_grads.T.contiguous().T,
        embeddings=plain.embeddings.repeat_interleave(2, dim=0)[::2],
        logits=plain.logits.numpy()[::-1].copy()[::-1], labels=plain.labels.int().numpy(),
    )  # fmt: skip
    half = replace(short, logit_grads=short.logit_grads.bfloat16())
    double = replace(plain, embeddings=plain.embeddings.double(), logits=plain.logits.double())
    for form, same in ((half, short), (double, plain), (learning, plain), (turned, plain)):
        for per in ("class", "all", "batch"):
            found, wanted = (
                select(name, one, 7, val_gradients=held_out, per=per, batch_size=5)
                for one in (form, same)
            )
            assert found.indices.equal(wanted.indices)
            torch.testing.assert_close(found.weights, wanted.weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("linear_layer", [True, False])
@pytest.mark.parametrize("per", ["class", "all", "batch"])
@pytest.mark.parametrize("name", selector_names())
def test_only_the_ratio_of_gradients_counts(name: str, per: str, linear_layer: bool) -> None:
    """Squares of gradients of 1e-24, as of samples that fit, are zero in float32."""
    plain = pool(24, seed=1)
    tiny, small = (
        replace(plain, logit_grads=plain.logit_grads * 2.0**power) for power in (-80, -40)
    )
    options = {"eta": 1e-3} if name == "glister" else {}
    if name in ("stratified", "curriculum"):
        options["score"] = "grand"
    found, wanted = (
        select(name, one, 7, val_gradients=pool(9, seed=2), per=per, batch_size=5,
               linear_layer=linear_layer, **options)
        for one in (tiny, small)
    )  # fmt: skip
    assert found.indices.equal(wanted.indices)
    torch.testing.assert_close(found.weights, wanted.weights)


@pytest.mark.parametrize("part", ["logit_grads", "embeddings"])
def test_gradients_whose_squares_float32_cannot_hold_are_named(part: str) -> None:
    gradients = pool(9)
    getattr(gradients, part)[[2, 6]] = 1e18
    with pytest.raises(ValueError, match=r"larger ones in 2 row\(s\): 2, 6 \(the largest"):
        select("random", gradients, 2)
    large = replace(pool(9), logit_grads=pool(9).logit_grads * 1e13)
    for name in selector_names():
        chosen = select(name, large, 4, val_gradients=pool(5, seed=2), per="all")
        assert chosen.weights.isfinite().all()
        assert chosen.scores is None or chosen.scores.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_grads": torch.zeros(9)}, r"shape \(N, width\), received \(9,\)"),
        ({"labels": torch.zeros(9)}, "integer labels"),
        ({"labels": torch.zeros(9, 1).long()}, r"shape \(N,\), received .* \(9, 1\)"),
        ({"embeddings": torch.zeros(9, 4, dtype=torch.complex64)}, "received complex numbers"),
        ({"embeddings": torch.zeros(9, 4).to_sparse()}, "dense tensor"),
        ({"logits": np.array([["a"]] * 9)}, "numbers as logits of gradients, received ndarray"),
        ({"indices": torch.arange(4)}, r"indices of gradients of shape \(9,\)"),
    ],
)  # fmt: skip
def test_gradients_of_the_wrong_kind_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select("random", replace(pool(9), **change), 2)


def test_other_input_is_refused_with_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="received list: last_layer_gradients"):
        select("random", [0, 1, 0], 2)  # type: ignore[arg-type]
    held_out = pool(5, seed=2)
    held_out.logits[3, 0] = torch.nan
    with pytest.raises(ValueError, match=r"finite validation logits, .* 1 row\(s\): 3"):
        select("glister", pool(9), 2, val_gradients=held_out)
    strange = replace(pool(5, seed=2), labels=torch.tensor([0, 1, 7, 0, 1]))
    with pytest.raises(ValueError, match=r"validation gradients in \[0, 3\).* 7 in row 2"):
        select("glister", pool(9), 2, val_gradients=strange)


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
