"""Masks keep exactly their density, and momentum does not bring pruned weights back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipt_cords.warmstart.sparsity import Masks, keep_largest, prunable_weights


@settings(deadline=None, max_examples=60)
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


def test_magnitude_is_global_over_layers():
    small, large = nn.Parameter(torch.full((6,), 0.1)), nn.Parameter(torch.full((2, 2), 5.0))
    Masks([small, large], density=0.4).apply()
    assert int((small != 0).sum()) == 0
    assert int((large != 0).sum()) == 4


@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_density_is_exact_and_momentum_revives_nothing(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    draws = torch.Generator().manual_seed(3) if kind == "random" else None
    masks = None
    for step in range(8):
        if step == 3:
            masks = Masks(prunable_weights(model, model[2]), 0.3, draws)
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


def test_random_masks_follow_their_generator():
    def mask(seed):
        weight = nn.Parameter(torch.ones(50))
        Masks([weight], 0.5, torch.Generator().manual_seed(seed)).apply()
        return weight.detach()

    assert mask(0).equal(mask(0))
    assert not mask(0).equal(mask(1))


def test_nothing_to_prune_is_fine():
    masks = Masks([], 0.5)
    masks.apply()
    assert masks.density == 1.0
