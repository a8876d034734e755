"""Against CORDS 0.0.4 in one process, by a criterion that is fair to float32.

CORDS disagrees with itself between float32 and float64 where two candidates are closer than
rounding, so ordered equality is asked for as long as the gap exceeds 1e-6, and the objective after
that. Where CORDS is wrong, a test shows both its result and ours.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plugin_material import compile_once
from synthetic import dense
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.cords.importing import import_cords
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.selectors.base import select

pytest.importorskip("cords")

LOG = logging.getLogger("cords")
ETA = 0.05


class Net(nn.Module):
    """A network with CORDS's contract."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, width), nn.Linear(width, classes)

    def forward(self, x: Tensor, last: bool = False, freeze: bool = False) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze):
            embeddings = self.body(x).tanh()
        logits = self.head(embeddings)
        return (logits, embeddings) if last else logits

    def get_embedding_dim(self) -> int:
        return self.head.in_features


def data(samples: int, seed: int) -> TensorDataset:
    draws = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(samples, 6, generator=draws), torch.arange(samples) % 4)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """CORDS draws from global state and makes numpy raise: both stay inside the test."""
    import_cords()
    compile_once()
    with isolated_rng(0), np.errstate(all="ignore"):
        yield


@pytest.fixture
def net() -> Net:
    return Net()


def both(net: Net) -> tuple[LastLayerGradients, LastLayerGradients]:
    return last_layer_gradients(net, data(120, 1)), last_layer_gradients(net, data(32, 2))


def loaders() -> list[DataLoader[Any]]:
    return [DataLoader(data(120, 1), batch_size=20), DataLoader(data(32, 2), batch_size=20)]


def glister(net: Net, kind: str, greedy: str, linear: bool = True, r: int = 15) -> Any:
    from cords.selectionstrategies.SL import GLISTERStrategy

    return GLISTERStrategy(
        *loaders(), net, nn.CrossEntropyLoss(reduction="none"), ETA, "cpu", 4, linear, kind,
        greedy, LOG, r,
    )  # fmt: skip


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("kind", "per"), [("PerClass", "class"), ("Supervised", "all")])
def test_glister_naive_picks_the_same_in_the_same_order(
    net: Net, kind: str, per: str, linear: bool
) -> None:
    gradients, held_out = both(net)
    theirs, _ = glister(net, kind, "Naive", linear).select(20, net.state_dict())
    ours = select(
        "glister", gradients, 20, val_gradients=held_out, per=per, linear_layer=linear, eta=ETA
    )
    assert ours.indices.tolist() == [int(i) for i in theirs]


def test_glister_rgreedy_and_stochastic_pick_the_same(net: Net) -> None:
    gradients, held_out = both(net)
    theirs, _ = glister(net, "Supervised", "RGreedy", r=5).select(20, net.state_dict())
    ours = select(
        "glister", gradients, 20, val_gradients=held_out, per="all", eta=ETA, greedy="rgreedy", r=5
    )
    assert ours.indices.tolist() == [int(i) for i in theirs]
    random.seed(7)
    theirs, _ = glister(net, "Supervised", "Stochastic").select(20, net.state_dict())
    ours = select(
        "glister", gradients, 20, val_gradients=held_out, per="all", eta=ETA,
        greedy="stochastic", rng=random.Random(7),
    )  # fmt: skip
    assert ours.indices.tolist() == [int(i) for i in theirs]


def test_glister_per_batch_picks_the_same_batches(net: Net) -> None:
    gradients, held_out = both(net)
    strategy = glister(net, "PerBatch", "Naive")
    # CORDS averages its validation batches; equal batches make that the plain mean.
    strategy.valloader = DataLoader(data(32, 2), batch_size=16)
    theirs, _ = strategy.select(60, net.state_dict())
    ours = select(
        "glister", gradients, 60, val_gradients=held_out, per="batch", batch_size=20, eta=ETA
    )
    assert ours.indices.tolist() == [int(i) for i in theirs]


def test_a_budget_that_rgreedy_of_cords_overruns_is_met(net: Net) -> None:
    gradients, held_out = both(net)
    theirs, _ = glister(net, "Supervised", "RGreedy", r=4).select(18, net.state_dict())
    ours = select(
        "glister", gradients, 18, val_gradients=held_out, per="all", eta=ETA, greedy="rgreedy", r=4
    )
    assert len(theirs) == 20 and len(ours) == 18
    assert ours.indices[:16].tolist() == [int(i) for i in theirs[:16]]


def gradmatch(net: Net, kind: str, linear: bool, device: Any = "cpu", lam: float = 0.0) -> Any:
    from cords.selectionstrategies.SL import GradMatchStrategy

    return GradMatchStrategy(
        *loaders(), net, nn.CrossEntropyLoss(reduction="none"), ETA, device, 4, linear, kind,
        LOG, False, True, lam, 1e-4,
    )  # fmt: skip


def members(gradients: LastLayerGradients, label: int) -> Tensor:
    return torch.nonzero(gradients.labels == label).flatten()


def test_gradmatch_picks_and_weighs_the_same_before_the_random_fill(net: Net) -> None:
    """CORDS's solver itself, class by class: its strategy permutes what it returns."""
    from cords.selectionstrategies.helpers import OrthogonalMP_REG

    gradients, _ = both(net)
    for label in range(4):
        where = members(gradients, label)
        atoms = dense(gradients)[where].numpy()
        theirs = OrthogonalMP_REG(atoms.T, atoms.sum(axis=0), nnz=6, positive=True, lam=0)
        chosen = np.flatnonzero(theirs)
        group = replace(gradients.subset(where), indices=None)  # by their places in the group
        part = select("gradmatch", group, 6, per="all", max_steps=6)
        count = part.info["groups"][0]["rounds"][0]
        ours = np.zeros(len(where))
        ours[part.indices[:count].numpy()] = part.weights[:count].numpy()
        if count == 6:
            np.testing.assert_allclose(ours * len(where) / 6, theirs, rtol=1e-3, atol=1e-4)
        assert set(np.flatnonzero(ours)) == set(chosen)


def residual(gradients: LastLayerGradients, indices: Any, weights: Tensor, linear: bool) -> float:
    """Distance of the weighted sum, on its best scale, from the pool's sum."""
    atoms = dense(gradients, linear)
    target = atoms.sum(dim=0)
    where = torch.tensor([int(i) for i in indices])
    made = (weights.double()[:, None] * atoms[where]).sum(dim=0)
    scale = (made @ target) / (made @ made)
    return float((target - scale * made).norm() / target.norm())


@pytest.mark.parametrize("linear", [True, False])
def test_gradmatch_matches_the_gradient_at_least_as_well(net: Net, linear: bool) -> None:
    gradients, _ = both(net)
    theirs, weights = gradmatch(net, "PerClass", linear).select(40, net.state_dict())
    ours = select("gradmatch", gradients, 40, linear_layer=linear)
    assert residual(gradients, ours.indices, ours.weights, linear) <= residual(
        gradients, theirs, weights, linear
    )


def test_gradmatch_of_cords_fills_at_random_where_ours_matches_on(net: Net) -> None:
    """Bias gradients of four classes have rank three: CORDS draws the rest, with weight one."""
    gradients, _ = both(net)
    picks = []
    for seed in (0, 1):
        np.random.seed(seed)
        theirs, weights = gradmatch(net, "PerClass", False).select(40, net.state_dict())
        picks.append({int(i) for i in theirs})
        assert int((weights == 1).sum()) >= 40 - 4 * 4
    assert picks[0] != picks[1]
    ours = [select("gradmatch", gradients, 40, linear_layer=False, seed=s) for s in (0, 1)]
    assert torch.equal(ours[0].indices, ours[1].indices)
    assert all(g["unmatched"] == 0 for g in ours[0].info["groups"])


def test_gradmatch_of_cords_ignores_lambda_on_the_cpu_and_ours_does_not(net: Net) -> None:
    gradients, _ = both(net)
    theirs = []
    for lam in (0.0, 5.0):
        np.random.seed(0)
        theirs.append(gradmatch(net, "PerClass", True, lam=lam).select(20, net.state_dict())[1])
    assert torch.equal(theirs[0], theirs[1])
    plain, ridged = (select("gradmatch", gradients, 20, ridge=ridge) for ridge in (0.0, 5.0))
    assert float(ridged.weights.sum()) < float(plain.weights.sum())


def craig(net: Net) -> Any:
    from cords.selectionstrategies.SL import CRAIGStrategy

    train, held_out = loaders()
    assert isinstance(train.sampler, SequentialSampler)
    return CRAIGStrategy(
        train, held_out, net, nn.CrossEntropyLoss(reduction="none"), "cpu", 4, True, False,
        "PerClass", LOG,
    )  # fmt: skip


def kernel(atoms: Tensor) -> Tensor:
    distances = torch.cdist(atoms, atoms, compute_mode="donot_use_mm_for_euclid_dist").square()
    return distances.max() - distances


def test_craig_equals_a_sequential_cords_and_beats_the_shuffled_one(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One class, through CORDS's own kernel and its greedy engine."""
    from apricot import FacilityLocationSelection
    from cords.selectionstrategies.SL import craigstrategy

    gradients, _ = both(net)
    where = members(gradients, 0)  # no two points each other's nearest: no ties
    truth = kernel(dense(gradients)[where])
    strategy = craig(net)
    # A shuffling sampler: the rows of CORDS's kernel are not the samples it takes them for.
    strategy.compute_score(net.state_dict(), where)
    shuffled = strategy.dist_mat.copy()
    assert not np.allclose(shuffled, truth.numpy(), atol=1e-3)
    monkeypatch.setattr(craigstrategy, "SubsetRandomSampler", lambda idxs: idxs.tolist())
    strategy.compute_score(net.state_dict(), where)
    np.testing.assert_allclose(strategy.dist_mat, truth.numpy(), atol=1e-5)

    engine = FacilityLocationSelection(
        random_state=0, metric="precomputed", n_samples=5, optimizer="lazy"
    )
    theirs = [int(i) for i in engine.fit(strategy.dist_mat.astype(np.float64)).ranking]
    gammas = strategy.compute_gamma(theirs)
    group = replace(gradients.subset(where), indices=None)  # by their places in the group
    ours = select("craig", group, 5, per="all")
    assert ours.indices.tolist() == theirs
    assert (ours.weights * len(where) / 5).round().tolist() == gammas

    scrambled = [int(i) for i in engine.fit(shuffled.astype(np.float64)).ranking]
    value = float(truth[theirs].max(dim=0).values.sum())
    assert ours.info["groups"][0]["value"] == pytest.approx(value, rel=1e-9)
    assert value > float(truth[scrambled].max(dim=0).values.sum())
