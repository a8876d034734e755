"""``selector: fast`` against CORDS's own strategies, through the same loaders.

The network has neither BatchNorm nor dropout, so that CORDS's train-mode gradients are those that
are read here in eval mode. Budgets divide evenly, since CORDS rounds them up.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plugin_material import Problem
from torch import nn

from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.models.gradients import last_layer_gradients


def plain_net(inputs=6, seed=0):
    """A network on which train mode and eval mode are the same."""
    model = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 3))
    draws = generator(seed, "net")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.5)
    return model


@pytest.fixture
def problem():
    made = Problem()
    made.model = plain_net()
    return made


def chosen(loader):
    """Select once; indices in order, and weights."""
    with isolated_rng(5, "cords"):
        loader.resample()
    indices = [int(i) for i in loader.subset_indices]
    return indices, torch.as_tensor(loader.subset_weights)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("greedy", ["Naive", "RGreedy"])
@pytest.mark.parametrize("kind", ["PerClass", "Supervised", "PerBatch"])
def test_glister_chooses_the_same_in_the_same_order(build, kind, greedy, linear):
    changes = {
        "selection_type": kind, "greedy": greedy, "linear_layer": linear, "r": 2,
        "fraction": 1 / 3 if kind == "PerBatch" else 0.4,
    }  # fmt: skip
    theirs, weights = chosen(build(**changes))
    ours, our_weights = chosen(build(**changes, selector="fast"))
    assert ours == theirs
    assert torch.equal(our_weights, weights)
    assert our_weights.dtype == weights.dtype == torch.float32


def solver_output(loader):
    """What CORDS's pursuit found, before the random fill: {index: weight}."""
    found = []
    solve = loader.strategy.ompwrapper
    loader.strategy.ompwrapper = lambda *args: found.append(solve(*args)) or found[-1]
    chosen(loader)
    labels = np.array([int(y) for _, y in loader.dataset])
    if loader.strategy.selection_type == "PerBatch":
        (batches, weights), *_ = found
        return {
            10 * b + i: w for b, w in zip(batches, weights, strict=True) for i in range(10)
        }, len(batches) * 10
    picks = {}
    for label, (atoms, weights) in enumerate(found):
        where = np.flatnonzero(labels == label)
        picks.update({int(where[a]): w for a, w in zip(atoms, weights, strict=True)})
    return picks, sum(len(atoms) for atoms, _ in found)


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("kind", ["PerClass", "PerClassPerGradient", "PerBatch"])
def test_gradmatch_finds_what_cords_finds_before_its_random_fill(build, kind, valid):
    fraction = 1 / 3 if kind == "PerBatch" else 0.15
    changes = {
        "selection_type": kind, "valid": valid, "lam": 0.0, "eps": 1e-4, "fraction": fraction,
    }  # fmt: skip
    theirs, count = solver_output(build("GradMatch", **changes))
    loader = build("GradMatch", **changes, selector="fast")
    indices, weights = chosen(loader)
    ours = dict(zip(indices, weights.tolist(), strict=True))
    assert len(ours) == loader.budget == len(indices)
    assert set(theirs) <= set(ours)
    # A validation set is soon matched, and CORDS draws the rest at random.
    assert (count == loader.budget) is not valid
    if not valid:
        for index, weight in theirs.items():
            assert ours[index] == pytest.approx(weight, rel=2e-3)


def facility_value(gradients, indices):
    """Value per class of CRAIG's objective, summed."""
    total = 0.0
    for label in range(3):
        where = torch.nonzero(gradients.labels == label).flatten()
        gram = gradients.subset(where).gram().double()
        squares = gram.diagonal()
        distances = squares[:, None] + squares[None, :] - 2 * gram
        mine = [int((where == i).nonzero()) for i in indices if gradients.labels[i] == label]
        total += float((distances.max() - distances)[mine].max(dim=0).values.sum())
    return total


def test_craig_reaches_at_least_cords_value(build, problem):
    gradients = last_layer_gradients(problem.model, problem.train)
    theirs, gammas = chosen(build("CRAIG"))
    ours, weights = chosen(build("CRAIG", selector="fast"))
    assert len(ours) == len(theirs) == 12
    assert facility_value(gradients, ours) >= facility_value(gradients, theirs)
    assert float(weights.sum()) == pytest.approx(float(gammas.sum()), rel=1e-5) == 60
    assert torch.allclose(weights, weights.round(), atol=1e-4)  # how many samples each stands for


@pytest.mark.parametrize("kind", ["Supervised", "PerClass", "PerBatch"])
def test_convex_craig_compares_inputs(build, problem, kind):
    share = 1 / 3 if kind == "PerBatch" else 0.4
    loader = build("CRAIG", selector="fast", if_convex=True, selection_type=kind, fraction=share)
    ours, _ = chosen(loader)
    inputs = problem.train.tensors[0].double()
    labels = problem.train.tensors[1]
    groups = {
        "Supervised": [torch.arange(60)],
        "PerClass": [torch.nonzero(labels == c).flatten() for c in range(3)],
        "PerBatch": [torch.arange(6)],
    }[kind]
    points = inputs.view(6, 10, -1).mean(dim=1) if kind == "PerBatch" else inputs
    expected = []
    for group in groups:
        similar = -torch.cdist(points[group], points[group]).square()
        similar -= similar.min()
        best, picks = torch.zeros(len(group), dtype=torch.float64), []
        for _ in range(round(len(group) * share)):
            gains = (similar - best).clamp_min(0).sum(dim=1)
            picks.append(int(gains.argmax()))
            best = torch.maximum(best, similar[picks[-1]])
        expected += group[picks].tolist()
    if kind == "PerBatch":
        expected = [10 * b + i for b in expected for i in range(10)]
    assert sorted(ours) == sorted(expected)
    assert loader.selection_report.subset_accuracy is None
