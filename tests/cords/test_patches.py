"""Enabling the plug-in: who gets it, what it guards, and what it leaves alone."""

from __future__ import annotations

import copy
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from plugin_material import selections, tiny_net
from torch import nn
from torch.utils.data import DataLoader

from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.cords.loader import PluggedIn
from lipt_cords.cords.patches import disable, enable, enabled


def run_plain(cls, problem, seed, epochs=5, **changes):
    """Everything that a run of CORDS without the key shows."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    problem.model = tiny_net()
    make_cords_compatible(problem.model, head="classifier")
    loader = problem.build(cls, **changes)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    seen = []
    for _ in range(epochs):
        for x, y, w in loader:
            seen += [x.clone(), y.clone(), w.clone()]
            optimizer.zero_grad()
            (
                nn.functional.cross_entropy(problem.model(x), y, reduction="none") @ w.float()
            ).backward()
            optimizer.step()
        seen.append(torch.as_tensor(np.array([int(i) for i in loader.subset_indices])))
        seen.append(torch.as_tensor(loader.subset_weights))
        seen.append(torch.tensor(len(loader)))
    return [*seen, *problem.model.state_dict().values(), torch.get_rng_state()]


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("GLISTER", {"greedy": "Stochastic", "fraction": 0.4, "selection_type": "Supervised"}),
        ("GradMatch", {"kappa": 0.5, "num_epochs": 4}),
        ("CRAIG", {"warm_start": None, "select_every": 4, "selection_type": "PerBatch"}),
    ],
)
def test_without_the_key_bit_for_bit_as_before(adaptive, problem, strategy, changes):
    cls = getattr(adaptive, f"{strategy}DataLoader")
    disable()
    as_before = run_plain(cls, problem, 3, **changes)
    with enabled():
        plugged_in = run_plain(cls, problem, 3, **changes)
    assert len(as_before) == len(plugged_in)
    assert all(torch.equal(a, b) for a, b in zip(as_before, plugged_in, strict=True))


def test_any_network_gets_the_contract(build, problem):
    """TinyNet has two linear layers and no contract; the one that makes the logits is found."""
    assert not hasattr(problem.model, "get_embedding_dim")
    loader = build("GradMatch", select_every=2)
    assert selections(loader, 3)[0] == [2]
    assert problem.model.get_embedding_dim() == 8


def test_subclasses_of_users(adaptive, problem, fake_warm_start):
    class Before(adaptive.GLISTERDataLoader):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.mine = True

        def __iter__(self):
            return iter(["own"])

    with enabled():

        class Inside(adaptive.AdaptiveDSSDataLoader):
            def __init__(self, loader, options, logger):
                options["note"] = "made up inside"
                super().__init__(loader, loader, options, logger, batch_size=4)

            def _resample_subset_indices(self):
                return list(range(self.budget)), torch.ones(self.budget)

        one = problem.build(Before, warm_start="lipt")
        assert one.mine
        assert list(one) == ["own"]
        assert one.warm_start_report is not None
        assert isinstance(one, Before)
        two = Inside(problem.train_loader, problem.options(warm_start="lipt"), problem.logger)
        assert sum(len(batch[0]) for batch in two) == 12
        assert list(two.subset_indices) == list(range(12))
        with pytest.raises(ValueError, match=r"fraction must lie in"):
            Inside(problem.train_loader, problem.options(fraction=7), problem.logger)
    assert len(fake_warm_start) == 2


@pytest.mark.parametrize("key", [None, "lipt"])
def test_a_loader_can_be_copied_and_pickled(build, adaptive, problem, fake_warm_start, key):
    loader = build("GradMatch", warm_start=key, select_every=2)
    first = pickle.loads(pickle.dumps(loader))
    second = copy.deepcopy(loader)
    for other in (first, second):
        assert type(other) is type(loader) and isinstance(other, adaptive.GradMatchDataLoader)
        assert list(other.subset_indices) == list(loader.subset_indices)
        assert selections(other, 3)[0] == ([0, 2] if key else [2])


def test_traps_are_found_before_the_constructor_reads_anything(build, adaptive, problem):
    plain = dict(problem.options().items())
    with pytest.raises(ValueError, match=r"is a plain dict"):
        adaptive.GLISTERDataLoader(problem.train_loader, problem.val_loader, plain, problem.logger)
    problem.train_loader = DataLoader(problem.train, batch_size=10, shuffle=True)
    with pytest.raises(ValueError, match=r"in its own order"):
        build(warm_start="lipt")
    with pytest.warns(UserWarning, match=r"in its own order"):
        build()
    with pytest.raises(TypeError, match=r"missing"):
        adaptive.GLISTERDataLoader(problem.train_loader)


def test_a_strategy_that_returns_unequal_lengths(build):
    loader = build()
    loader.strategy.select = lambda budget, state: ([1, 2, 3], torch.ones(2))
    with pytest.raises(ValueError, match=r"GLISTERDataLoader selected 3 indices with 2 weights"):
        loader.resample()


def test_a_converged_model_does_not_crash(build, problem):
    """Its gradients underflow, or vanish: CORDS stops with a FloatingPointError there."""
    with torch.no_grad():
        problem.model.classifier.weight.mul_(0)
        problem.model.classifier.bias.copy_(torch.tensor([200.0, 0.0, 0.0]))
    loader = build("GradMatch")
    before = np.geterr()
    with np.errstate(all="raise"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader.resample()
    assert np.geterr() == before
    assert torch.isfinite(torch.as_tensor(loader.subset_weights)).all()
    assert any("no finite weight" in str(w.message) for w in caught)


def test_disable_restores_cords_and_loaders_keep_what_they_can(adaptive, problem, fake_warm_start):
    disable()
    base = adaptive.AdaptiveDSSDataLoader
    constructor = base.__init__
    enable()
    enable()
    loader = problem.build(adaptive.GLISTERDataLoader, warm_start="lipt")
    disable()
    assert base.__init__ is constructor
    assert type(problem.build(adaptive.GLISTERDataLoader)) is adaptive.GLISTERDataLoader
    list(loader)
    assert len(fake_warm_start) == 1
    with enabled():
        with enabled():
            pass
        assert isinstance(problem.build(adaptive.GLISTERDataLoader), PluggedIn)
    assert not isinstance(problem.build(adaptive.GLISTERDataLoader), PluggedIn)


def test_loaders_that_are_not_adaptive_refuse_the_key(plugged, problem):
    from cords.utils.data.dataloader.SL.nonadaptive import NonAdaptiveDSSDataLoader

    class Fixed(NonAdaptiveDSSDataLoader):
        pass

    with pytest.raises(ValueError, match=r"Fixed does not understand warm_start"):
        problem.build(Fixed, warm_start="lipt")
    assert len(list(problem.build(Fixed))) == 3


def test_copies_of_a_loader(build, fake_warm_start):
    copied = copy.deepcopy(build("GradMatch", warm_start="lipt"))
    copied.warm_start()
    assert fake_warm_start[0].model is copied.train_model
