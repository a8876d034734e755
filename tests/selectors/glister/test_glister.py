from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import dense, from_logits, pool, repeated, zeroed
from torch import Tensor, nn

from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.base import select


def validation_gradient(held_out: LastLayerGradients, step: Tensor, eta: float) -> Tensor:
    """Dense mean validation gradient after the head moved by -eta * step, by autograd."""
    classes, width = held_out.num_classes, held_out.embedding_dim
    linear_layer = len(step) > classes
    embeddings = held_out.embeddings.double()
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(classes, width, dtype=torch.float64, requires_grad=True)
    moved = held_out.logits.double() - eta * step[:classes]
    if linear_layer:
        moved = moved - eta * embeddings @ step[classes:].view(classes, width).T
    loss = nn.functional.cross_entropy(moved + bias + embeddings @ weight.T, held_out.labels)
    grads = torch.autograd.grad(loss, [bias, weight])
    return torch.cat([grads[0], grads[1].flatten()]) if linear_layer else grads[0]


def brute_force(
    atoms: Tensor, held_out: LastLayerGradients, budget: int, eta: float, at_once: int = 1
) -> tuple[list[int], float]:
    """Picks of greedy on dense gradients, and the smallest relative gap between two candidates."""
    picks: list[int] = []
    gap = float("inf")
    step = torch.zeros(atoms.shape[1], dtype=torch.float64)
    while len(picks) < budget:
        gains = atoms @ validation_gradient(held_out, step, eta)
        gains[picks] = -torch.inf
        order = gains.argsort(descending=True, stable=True)
        take = min(at_once, budget - len(picks))
        top = gains[order[: take + 1]]
        top = top[torch.isfinite(top)]
        scale = float(top.abs().max()) or 1.0
        gap = min(gap, *((top[:-1] - top[1:]) / scale).tolist(), float("inf"))
        picks += order[:take].tolist()
        step += atoms[order[:take]].sum(dim=0)
    return picks, gap


@settings(max_examples=40)
@given(
    samples=st.integers(1, 30),
    held=st.integers(1, 12),
    classes=st.integers(2, 5),
    width=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    linear_layer=st.booleans(),
    eta=st.sampled_from([0.01, 0.3]),
    data=st.data(),
)
def test_naive_greedy_is_the_brute_force_greedy(
    samples: int, held: int, classes: int, width: int, seed: int, linear_layer: bool,
    eta: float, data: st.DataObject,
) -> None:  # fmt: skip
    budget = data.draw(st.integers(1, samples))
    gradients = pool(samples, classes, width, seed)
    held_out = pool(held, classes, width, seed + 1)
    wanted, gap = brute_force(dense(gradients, linear_layer), held_out, budget, eta)
    chosen = select(
        "glister", gradients, budget, val_gradients=held_out, per="all",
        linear_layer=linear_layer, eta=eta,
    )  # fmt: skip
    if gap > 1e-6:
        assert chosen.indices.tolist() == wanted


@pytest.mark.parametrize(
    ("held", "limit", "knob"),
    [(3, None, "none"), (3, 4264, "chunks of 7 samples"),
     (40, None, "none"), (40, 10672, "chunks of 7 samples")],
)  # fmt: skip
def test_both_products_and_chunks_choose_the_same(held: int, limit: int | None, knob: str) -> None:
    gradients, held_out = pool(60, 4, 8, 3), pool(held, 4, 8, 4)
    wanted, gap = brute_force(dense(gradients), held_out, 20, 0.05)
    assert gap > 1e-6
    chosen = select(
        "glister", gradients, 20, val_gradients=held_out, per="all", eta=0.05, memory_limit=limit
    )
    assert chosen.indices.tolist() == wanted
    (summary,) = chosen.info["groups"]
    assert summary["products"] == ("gram" if held == 3 else "dense")
    assert summary["knob"] == knob


def test_a_memory_limit_turns_a_knob_and_changes_nothing_else() -> None:
    gradients, held_out = pool(200, 4, 8, 3), pool(5, 4, 8, 4)
    free, tight = (
        select("glister", gradients, 30, val_gradients=held_out, per="all", memory_limit=limit)
        for limit in (None, 1000)
    )
    assert torch.equal(free.indices, tight.indices)
    assert free.info["groups"][0]["knob"] == "none"
    assert tight.info["groups"][0]["knob"].startswith("chunks of")
    assert tight.info["groups"][0]["products"] == "dense"


def test_per_class_uses_the_class_and_falls_back_to_all() -> None:
    labels = torch.tensor([0, 1, 2] * 10)
    gradients = pool(30, 3, 4, 5, labels=labels)
    held_out = pool(8, 3, 4, 6, labels=torch.tensor([0, 1] * 4))
    chosen = select("glister", gradients, 9, val_gradients=held_out, eta=0.1)
    assert chosen.info["classes_without_validation"] == [2]
    for label in (0, 1, 2):
        members = torch.nonzero(labels == label).flatten()
        same = held_out if label == 2 else held_out.subset(held_out.labels == label)
        wanted, gap = brute_force(dense(gradients)[members], same, 3, 0.1)
        assert gap > 1e-6
        mine = [i for i in chosen.indices.tolist() if labels[i] == label]
        assert mine == members[wanted].tolist()
    everywhere = select("glister", gradients, 9, val_gradients=held_out, eta=0.1, validation="all")
    members = torch.nonzero(labels == 0).flatten()
    wanted, _ = brute_force(dense(gradients)[members], held_out, 3, 0.1)
    assert everywhere.indices[:3].tolist() == members[wanted].tolist()


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 14), min_size=2, max_size=5),
    held=st.lists(st.integers(0, 6), min_size=5, max_size=5),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_classes_in_lockstep_choose_what_each_chooses_alone(
    sizes: list[int], held: list[int], seed: int, data: st.DataObject
) -> None:
    def labelled(counts: list[int]) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))

    held[0] = max(1, held[0])
    gradients = pool(sum(sizes), 5, 6, seed, labels=labelled(sizes))
    held_out = pool(sum(held), 5, 6, seed + 1, labels=labelled(held))
    budget = data.draw(st.integers(1, sum(sizes)))
    chosen = select("glister", gradients, budget, val_gradients=held_out, eta=0.1)
    for label in gradients.labels.unique().tolist():
        members = torch.nonzero(gradients.labels == label).flatten()
        mine = [i for i in chosen.indices.tolist() if i in members]
        judges = held_out.subset(held_out.labels == label) if held[label] else held_out
        wanted, gap = brute_force(dense(gradients)[members], judges, len(mine), 0.1)
        if gap > 1e-6:
            assert mine == members[wanted].tolist()
    assert chosen.info["classes_without_validation"] == [
        s["label"] for s in chosen.info["groups"] if held[s["label"]] == 0
    ]


@pytest.mark.parametrize("budget", [2, 5, 14, 20])
def test_rgreedy_updates_between_rounds_and_ends_on_the_budget(budget: int) -> None:
    gradients, held_out = pool(20, 3, 4, 7), pool(6, 3, 4, 8)
    wanted, gap = brute_force(dense(gradients), held_out, budget, 0.1, max(1, budget // 5))
    assert gap > 1e-6
    chosen = select(
        "glister", gradients, budget, val_gradients=held_out, per="all", eta=0.1,
        greedy="rgreedy", r=5,
    )  # fmt: skip
    assert chosen.indices.tolist() == wanted


def test_stochastic_takes_the_best_of_what_it_drew() -> None:
    gradients, held_out = pool(50, 3, 4, 9), pool(6, 3, 4, 10)
    atoms = dense(gradients)
    chosen = select(
        "glister", gradients, 12, val_gradients=held_out, per="all", eta=0.1,
        greedy="stochastic", rng=random.Random(4),
    )  # fmt: skip
    draws, remaining = random.Random(4), list(range(50))
    step = torch.zeros(atoms.shape[1], dtype=torch.float64)
    for pick in chosen.indices.tolist():
        gains = atoms @ validation_gradient(held_out, step, 0.1)
        drawn = draws.sample(remaining, min(19, len(remaining)))
        assert pick == max(drawn, key=lambda i: float(gains[i]))
        remaining.remove(pick)
        step += atoms[pick]


def test_batches_are_chosen_by_their_mean_gradient() -> None:
    gradients, held_out = pool(30, 3, 4, 11), pool(6, 3, 4, 12)
    means = torch.stack([part.mean(dim=0) for part in dense(gradients).split(5)])
    wanted, gap = brute_force(means, held_out, 3, 0.5)
    assert gap > 1e-6
    chosen = select(
        "glister", gradients, 13, val_gradients=held_out, per="batch", batch_size=5, eta=0.5
    )
    samples = [5 * b + i for b in wanted for i in range(5)]
    assert chosen.indices.tolist() == samples[:13]
    assert chosen.info["samples_cut"] == 2


def test_duplicates_and_zero_gradients_go_by_lowest_index() -> None:
    held_out = pool(6, 3, 4, 12)
    # With a tiny step the best sample stays the best, so its copies follow in order.
    twins = repeated(pool(7, 3, 4, 11), 3)
    chosen = select("glister", twins, 3, val_gradients=held_out, per="all", eta=1e-9)
    first = int(chosen.indices[0])
    assert chosen.indices.tolist() == [first, first + 7, first + 14] and first < 7
    nothing = select("glister", zeroed(pool(6)), 4, val_gradients=held_out, per="all")
    assert nothing.indices.tolist() == [0, 1, 2, 3]


def test_a_fitted_validation_set_does_not_stop_the_order() -> None:
    """Gradients far below float32's smallest number still rank the candidates."""
    gradients = pool(30, 3, 4, 11)
    easy = pool(5, 3, 4, 13)
    logits = nn.functional.one_hot(easy.labels, 3).float() * 120.0
    fitted = from_logits(logits, easy.embeddings, easy.labels)
    wanted, _ = brute_force(dense(gradients), fitted, 4, 0.1)
    chosen = select("glister", gradients, 4, val_gradients=fitted, per="all", eta=0.1)
    assert chosen.indices.tolist() == wanted


def test_the_step_lowers_the_validation_loss_and_another_loss_is_followed() -> None:
    gradients, held_out = pool(40, 3, 4, 15), pool(20, 3, 4, 16)
    chosen = select("glister", gradients, 8, val_gradients=held_out, per="all", eta=0.05)
    (summary,) = chosen.info["groups"]
    assert summary["validation_loss_after"] < summary["validation_loss_before"]
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.4)
    other = select(
        "glister", gradients, 8, val_gradients=held_out, per="all", eta=0.05, loss=smoothed
    )
    expected = float(smoothed(held_out.logits, held_out.labels))
    assert other.info["groups"][0]["validation_loss_before"] == pytest.approx(expected, rel=1e-5)


def test_a_head_replaces_the_validation_logits() -> None:
    gradients, held_out = pool(40, 3, 4, 15), pool(20, 3, 4, 16)
    head = nn.Linear(4, 3)
    with torch.no_grad():
        moved = from_logits(head(held_out.embeddings), held_out.embeddings, held_out.labels)
    with_head = select("glister", gradients, 8, val_gradients=held_out, per="all", head=head)
    with_logits = select("glister", gradients, 8, val_gradients=moved, per="all")
    assert torch.equal(with_head.indices, with_logits.indices)


def test_bad_options_are_refused() -> None:
    gradients, held_out = pool(10), pool(5)
    with pytest.raises(ValueError, match="val_gradients"):
        select("glister", gradients, 2)
    for options, match in (
        ({"eta": 0.0}, "eta > 0"),
        ({"greedy": "stochastik"}, "Did you mean 'stochastic'"),
        ({"validation": "clas"}, "Did you mean 'class'"),
        ({"greedy": "rgreedy", "r": 0}, "r of at least 1"),
    ):
        with pytest.raises(ValueError, match=match):
            select("glister", gradients, 2, val_gradients=held_out, **options)
