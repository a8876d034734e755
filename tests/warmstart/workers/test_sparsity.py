"""Masks keep exactly their density, and momentum does not bring pruned weights back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from warmstart_material import make_images, make_net

from lipt_cords.warmstart.workers.sparsity import (
    Masks,
    erk_densities,
    keep_largest,
    magnitude_scores,
    prunable_weights,
    random_scores,
    snip_scores,
)


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=40), data=st.data()
)
def test_keep_largest_matches_a_stable_sort(scores, data):
    kept = data.draw(st.integers(0, len(scores)))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:kept]
    mask = keep_largest(torch.tensor(scores), kept)
    assert mask.nonzero().flatten().tolist() == sorted(best)


def test_convolutions_and_linear_layers_are_pruned_but_not_head_norms_or_frozen_weights():
    frozen, head = nn.Linear(4, 4), nn.Linear(4, 3)
    frozen.weight.requires_grad_(False)
    convolution = nn.Conv2d(1, 2, 3)
    model = nn.Sequential(
        convolution, nn.BatchNorm2d(2), nn.Flatten(), frozen, nn.Linear(4, 4), head
    )
    found = prunable_weights(model, head)
    assert [id(weight) for weight in found] == [id(convolution.weight), id(model[4].weight)]


def test_shared_weights_are_listed_once_and_never_with_the_head():
    shared, head = nn.Linear(4, 4), nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = head.weight
    assert len(prunable_weights(nn.Sequential(shared, shared, tied, head), head)) == 1


def masks_of(weights, density, densities="global", scores=None):
    return Masks(weights, scores or magnitude_scores(weights), density, densities)


def test_magnitude_is_global_over_layers():
    small, large = nn.Parameter(torch.full((6,), 0.1)), nn.Parameter(torch.full((2, 2), -5.0))
    masks_of([small, large], 0.4).apply()
    assert int((small != 0).sum()) == 0
    assert int((large != 0).sum()) == 4


SHAPES = st.one_of(
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.tuples(st.integers(1, 32), st.integers(1, 32), st.integers(1, 5), st.integers(1, 5)),
).map(torch.Size)


def erk_by_the_authors(shapes, density):
    """Evci et al., rigl/sparse_utils.py: one more layer is made dense at a time."""
    dense = set()
    while len(dense) < len(shapes):
        divisor = budget = 0.0
        raw = {}
        for layer, shape in enumerate(shapes):
            if layer in dense:
                budget -= (1 - density) * shape.numel()
            else:
                budget += density * shape.numel()
                raw[layer] = sum(shape) / shape.numel()
                divisor += raw[layer] * shape.numel()
        scale, largest = budget / divisor, max(raw, key=raw.get)
        if raw[largest] * scale <= 1:
            return [1.0 if layer in dense else raw[layer] * scale for layer in range(len(shapes))]
        dense.add(largest)
    return [1.0] * len(shapes)


@settings(max_examples=100)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=7), density=st.floats(0.01, 1.0))
def test_erk_is_that_of_its_authors_and_averages_to_the_density(shapes, density):
    found = erk_densities(shapes, density)
    assert found == pytest.approx(erk_by_the_authors(shapes, density), rel=1e-6)
    assert all(0 < one <= 1 for one in found)
    sizes = [shape.numel() for shape in shapes]
    kept = sum(one * size for one, size in zip(found, sizes, strict=True))
    assert kept == pytest.approx(density * sum(sizes), rel=1e-9)


@settings(max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4),
    density=st.floats(0.05, 1.0),
    seed=st.integers(0, 9),
)
def test_counts_are_exact_over_all_layers_or_in_each(shapes, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.rand(shape, generator=generator) + 0.1) for shape in shapes]
    for densities in ("global", "erk"):
        masks = masks_of(weights, density, densities)
        kept = [int(mask.sum()) for mask in masks.masks]
        assert masks.kept == sum(kept)
        assert masks.density == sum(kept) / sum(weight.numel() for weight in weights)
        if densities == "global":
            assert sum(kept) == round(density * sum(weight.numel() for weight in weights))
        else:
            shares = erk_densities([weight.shape for weight in weights], density)
            sizes = [weight.numel() for weight in weights]
            assert kept == [round(d * size) for d, size in zip(shares, sizes, strict=True)]


def test_erk_keeps_the_largest_of_each_layer():
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(40, 30, generator=generator) * s) for s in (0.1, 9.0)]
    masks = masks_of(weights, 0.3, "erk")
    for weight, mask in zip(weights, masks.masks, strict=True):
        kept, lost = weight[mask.bool()].abs(), weight[~mask.bool()].abs()
        assert len(kept) == 360
        assert kept.min() >= lost.max()


def test_snip_is_the_derivative_in_the_mask():
    model, (images, labels) = make_net(dropout=0), make_images(16).tensors
    weights = dict(model.named_parameters())
    masks = {name: torch.ones_like(w, requires_grad=True) for name, w in weights.items()}
    masked = {name: weight * masks[name] for name, weight in weights.items()}
    loss = F.cross_entropy(functional_call(model, masked, images), labels)
    sensitivity = torch.autograd.grad(loss, list(masks.values()))
    loss = F.cross_entropy(functional_call(model, weights, images), labels)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    for found, expected in zip(snip_scores(weights.values(), gradients), sensitivity, strict=True):
        torch.testing.assert_close(found, expected.abs())


def test_a_weight_without_a_gradient_is_worth_nothing_to_snip():
    weight = torch.ones(2, 3, dtype=torch.bfloat16)
    (scores,) = snip_scores([weight], [None])
    assert scores.equal(torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_snip_tells_small_weights_of_half_precision_apart(dtype):
    weight = torch.tensor([1e-3, 2e-3, -4e-3], dtype=dtype)
    gradient = torch.tensor([1e-5, -1e-5, 1e-5], dtype=dtype)
    (scores,) = snip_scores([weight], [gradient])
    assert scores.dtype == torch.float32
    assert scores.equal((weight.float() * gradient.float()).abs())
    assert scores.diff().min() > 0


@pytest.mark.parametrize("densities", ["global", "erk"])
@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_masks_are_the_same_in_every_memory_format(kind, densities):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        generator = torch.Generator().manual_seed(0)
        values = [torch.randint(3, (6, 4, 3, 3), generator=generator).float() for _ in range(2)]
        weights = [nn.Parameter(value.contiguous(memory_format=layout)) for value in values]
        scores = random_scores(weights, generator) if kind == "random" else None
        masks = masks_of(weights, 0.45, densities, scores)
        masks.apply()
        assert all(w.is_contiguous(memory_format=layout) for w in (*weights, *masks.masks))
        found.append(masks.masks)
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_density_is_exact_and_momentum_revives_nothing(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    weights = prunable_weights(model, model[2])
    masks = None
    for step in range(8):
        if step == 3:
            draws = torch.Generator().manual_seed(3)
            masks = masks_of(
                weights, 0.3, scores=random_scores(weights, draws) if kind == "random" else None
            )
            masks.apply()
        loss = nn.functional.cross_entropy(model(torch.randn(5, 8)), torch.tensor([0, 1, 2, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if masks is not None:
            masks.apply()
    assert int((model[0].weight != 0).sum()) == round(0.3 * 128) == masks.kept
    assert masks.density == masks.kept / 128
    assert int((model[2].weight == 0).sum()) == 0


def test_random_scores_follow_their_generator_and_fit_their_weights():
    weights = [nn.Parameter(torch.ones(50)), nn.Parameter(torch.ones(2, 3))]

    def scores(seed):
        return random_scores(weights, torch.Generator().manual_seed(seed))

    assert [one.shape for one in scores(0)] == [weight.shape for weight in weights]
    assert all(one.equal(two) for one, two in zip(scores(0), scores(0), strict=True))
    assert not scores(0)[0].equal(scores(1)[0])
    assert all(float(one.min()) >= 0 and float(one.max()) < 1 for one in scores(0))


@pytest.mark.parametrize("densities", ["global", "erk"])
def test_nothing_to_prune_is_fine(densities):
    masks = masks_of([], 0.5, densities)
    masks.apply()
    assert masks.density == 1.0
