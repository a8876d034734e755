"""``selector: fast`` on CORDS's loaders: when it selects, what it reads, what it leaves alone."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from plugin_material import Problem, selections
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lipt_cords.base.randomness import generator
from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.own_selection import cords_weights
from lipt_cords.cords.patches import disable, enable
from lipt_cords.selectors.base import Selection

STRATEGIES = ("GLISTER", "GradMatch", "CRAIG")


def epochs_of(loader, epochs):
    """Epochs, from 0, that select; and how many samples each gives."""
    seen, sizes = [], []
    inner = loader._resample_subset_indices

    def spy():
        seen.append(len(sizes))
        return inner()

    loader._resample_subset_indices = spy
    for _ in range(epochs):
        sizes.append(sum(len(batch[0]) for batch in loader))
    return seen, sizes


@pytest.mark.parametrize("changes", [{}, {"select_every": 3}, {"kappa": 0.5, "num_epochs": 8}])
def test_the_schedule_is_that_of_cords(build, changes):
    theirs = epochs_of(build(**changes), 8)
    assert epochs_of(build(**changes, selector="fast"), 8) == theirs
    assert theirs[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["PerClass", "PerBatch", "Supervised"])
@pytest.mark.parametrize("fraction", [0.11, 0.5])
def test_every_kind_meets_the_budget_exactly(build, strategy, kind, fraction):
    loader = build(strategy, selector="fast", selection_type=kind, fraction=fraction)
    loader.resample()
    assert len(set(loader.subset_indices)) == len(loader.subset_indices) == int(60 * fraction)
    assert loader.subset_weights.dtype == torch.float32
    assert loader.subset_weights.shape == (int(60 * fraction),)
    assert bool((loader.subset_weights > 0).all())
    assert sum(len(batch[0]) for batch in loader.subset_loader) == int(60 * fraction)
    report = loader.selection_report
    assert (report.strategy, report.selection_type, report.budget) == (
        strategy,
        kind,
        len(loader.subset_indices),
    )
    assert report.seconds >= report.gradient_seconds > 0
    held_out = 30 if strategy == "GLISTER" else 0
    assert report.gradient_bytes == (60 + held_out) * (4 * (3 + 8 + 3) + 8)
    assert 0 <= report.subset_accuracy <= 1 and 0 <= report.pool_accuracy <= 1
    assert report.to_dict()["seconds"] == report.seconds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_together_with_a_warm_start(build, problem, fake_warm_start, strategy):
    loader = build(strategy, warm_start="lipt", selector="fast", select_every=3, kappa=0.3)
    epochs, sizes = epochs_of(loader, 5)
    assert (epochs, sizes) == ([0, 3], [12] * 5)
    (fit,) = fake_warm_start
    warm = copy.deepcopy(problem.model)
    warm.load_state_dict(fit.state)
    again = Problem()
    again.model = warm
    alone = again.build(type(loader).__mro__[2], selector="fast")
    alone.cur_epoch = loader.cur_epoch - 2  # when the second selection was made
    alone.resample()
    assert sorted(alone.subset_indices) == sorted(loader.subset_indices)


def test_from_the_initial_weights(build, problem, fake_warm_start):
    """The merged weights select, the model is given back as it was."""
    before = copy.deepcopy(problem.model.state_dict())
    cold = build("GradMatch", selector="fast")
    cold.resample()
    loader = build(
        "GradMatch", selector="fast", warm_start={"type": "lipt", "start_from": "initial"}
    )
    loader.warm_start()
    assert sorted(loader.subset_indices) != sorted(cold.subset_indices)
    for key, value in problem.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_model_and_all_random_states_are_left_as_they_were(build, problem):
    problem.model.features[1].eval()
    loader = build(selector="fast")
    modes = [module.training for module in problem.model.modules()]
    state = copy.deepcopy(problem.model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    loader._resample_subset_indices()  # drawing the order of the batches afterwards is CORDS's
    assert [module.training for module in problem.model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in problem.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert all(p.grad is None and p.requires_grad for p in problem.model.parameters())


def test_a_shuffling_train_loader_is_harmless(build, problem):
    in_order = build(selector="fast", selection_type="Supervised")
    in_order.resample()
    problem.train_loader = DataLoader(problem.train, batch_size=10, shuffle=True)
    problem.val_loader = DataLoader(problem.val, batch_size=10, shuffle=True)
    for warm in (None, "lipt"):
        shuffled = build(selector="fast", selection_type="Supervised", warm_start=warm)
        shuffled.resample()
        assert shuffled.subset_indices == in_order.subset_indices
    with pytest.raises(ValueError, match=r"train_loader must give the data set in its own order"):
        build(selector="fast", selection_type="PerBatch")


def test_the_seed_decides_and_numpy_decides_without_one(build):
    def draws(*, epoch=5, **changes):
        loader = build(selector="fast", greedy="Stochastic", selection_type="Supervised", **changes)
        loader.cur_epoch = epoch
        loader.resample()
        return loader.subset_indices

    assert draws(seed=1) == draws(seed=1)
    assert len({tuple(draws(seed=s)) for s in range(4)}) > 1
    assert len({tuple(draws(seed=1, epoch=e)) for e in range(4)}) > 1
    picks = []
    for seed in (3, 3, 4, 5, 6):
        np.random.seed(seed)
        picks.append(tuple(draws()))
    assert picks[0] == picks[1]
    assert len(set(picks)) > 1


def test_searches_that_crash_cords_run(build):
    for changes in ({"greedy": "RGreedy", "r": 9}, {"greedy": "Stochastic"}):
        loader = build(selector="fast", **changes)
        loader.resample()
        assert len(set(loader.subset_indices)) == 12


def test_a_class_that_is_absent(build, problem):
    problem.val_loader = DataLoader(Subset(problem.val, [0, 1, 3, 4]), batch_size=4)
    loader = build(selector="fast")
    with pytest.warns(UserWarning, match=r"no sample of class 2; there all of it decides"):
        loader.resample()
    problem.train_loader = DataLoader(Subset(problem.train, [0, 1, 3, 4, 6, 7]), batch_size=4)
    loader = build("GradMatch", selector="fast", fraction=0.5)
    loader.resample()
    assert len(loader.subset_indices) == 3


def test_the_alarm_of_a_bad_selection(build, problem):
    """A model that is right on most, and a selector that takes what it gets wrong."""
    labels = torch.arange(60) % 3
    shown = labels.clone()
    shown[:12] = (labels[:12] + 1) % 3
    inputs = nn.functional.one_hot(shown, 6).float()
    problem.train_loader = DataLoader(TensorDataset(inputs, labels), batch_size=10)
    problem.val_loader = DataLoader(TensorDataset(inputs[:12], labels[:12]), batch_size=10)
    problem.model = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        problem.model[0].weight.copy_(4 * torch.eye(3, 6))
        problem.model[0].bias.zero_()
    loader = build("GLISTER", selector="fast")
    with pytest.warns(UserWarning, match=r"0.0% of the subset correctly, but 80.0% of the pool"):
        loader.resample()
    report = loader.selection_report
    assert (report.subset_accuracy, report.pool_accuracy) == (0.0, pytest.approx(0.8))
    assert report.warning is not None


class Words(Dataset):
    """Dict samples, of unequal lengths if asked."""

    def __init__(self, size, ragged=False):
        draws = generator(0, "words", size)
        self.lengths = torch.randint(2, 6, (size,), generator=draws) if ragged else [4] * size
        self.tokens = torch.randint(1, 20, (size, 6), generator=draws)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index, : int(self.lengths[index])]
        return {"tokens": tokens, "labels": torch.tensor(index % 3)}


class WordNet(nn.Module):
    """Takes a dict batch apart, as CORDS's text models do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens, labels=None):
        return self.head(self.embed(tokens).sum(dim=1))


def padded(items):
    width = max(len(item["tokens"]) for item in items)
    rows = [nn.functional.pad(item["tokens"], (0, width - len(item["tokens"]))) for item in items]
    batch = {"tokens": torch.stack(rows), "labels": torch.stack([i["labels"] for i in items])}
    if "weights" in items[0]:
        batch["weights"] = torch.tensor([float(item["weights"]) for item in items])
    return batch


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ragged", [False, True])
def test_dict_batches(strategy, ragged):
    train, val = Words(60, ragged), Words(30, ragged)
    collate = padded if ragged else None
    options = {
        "fraction": 0.2, "num_classes": 3, "model": WordNet(), "selector": "fast",
        "selection_type": "PerClass", "select_every": 1, "greedy": "Naive",
    }  # fmt: skip
    loader = cords_loader(
        strategy,
        DataLoader(train, batch_size=10, collate_fn=collate),
        DataLoader(val, batch_size=10, collate_fn=collate),
        options,
        batch_size=4,
        collate_fn=collate,
    )
    for _ in range(3):
        batches = list(loader)
        assert sorted(batches[0]) == ["labels", "tokens", "weights"]
        assert sum(len(batch["labels"]) for batch in batches) == 12
    assert len(loader.subset_indices) == loader.selection_report.budget == 12
    full = next(iter(loader.wtdataloader))
    assert full["weights"].tolist() == [1] * 4


def test_random_loaders_have_nothing_to_make_fast(plugged, adaptive, problem):
    np.random.seed(0)
    options = problem.options(selector="fast")
    loader = adaptive.RandomDataLoader(problem.train_loader, options, problem.logger)
    loader.resample()
    assert loader.selection_report is None
    assert len(loader.subset_indices) == 12


def test_loaders_with_strategies_of_their_own_refuse_it(plugged, adaptive, problem):
    from cords.utils.data.dataloader.SL.nonadaptive import NonAdaptiveDSSDataLoader

    class Own(adaptive.AdaptiveDSSDataLoader):
        pass

    class Fixed(NonAdaptiveDSSDataLoader):
        pass

    class Mine(adaptive.GLISTERDataLoader):
        pass

    with pytest.raises(ValueError, match=r"Own has a strategy of its own"):
        problem.build(Own, selector="fast")
    with pytest.raises(ValueError, match=r"Fixed does not understand selector"):
        problem.build(Fixed, selector="fast")
    mine = problem.build(Mine, selector="fast")
    mine.resample()
    assert mine.selection_report.strategy == "GLISTER"


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        ("GLISTER", {"selector": "fats"}, r"unknown selector in dss_args 'fats'.*Did you mean 'f"),
        ("Random", {"selector": 3}, r"unknown selector in dss_args 3"),
        ("GLISTER", {"selection_type": "perclass"}, r"'perclass'.*Did you mean 'PerClass'"),
        ("GLISTER", {"greedy": "naive"}, r"greedy.*Did you mean 'Naive'"),
        ("GLISTER", {"greedy": "RGreedy", "r": 0}, r"r must be a number of rounds from 1"),
        ("GLISTER", {"eta": 0}, r"eta must be a step size above 0, received 0"),
        ("GLISTER", {"seed": -1}, r"seed must be a whole number from 0, received -1"),
        ("GradMatch", {"lam": -1}, r"lam must lie in \[0, inf\), received -1"),
        ("GradMatch", {"eps": 1.0}, r"eps must lie in \[0, 1\), received 1.0"),
        ("CRAIG", {"optimizer": "stochastic"}, r"optimizer='stochastic' does not.*'lazy'"),
        ("CRAIG", {"optimizer": "lasy"}, r"unknown optimizer.*Did you mean 'lazy'"),
        ("CRAIG", {"fraction": 0.001}, r"the budget is 0"),
    ],
)
def test_wrong_options_are_named_when_the_loader_is_built(
    build, problem, strategy, changes, message
):
    if strategy == "Random":
        problem.val_loader = problem.options(**changes)
    with pytest.raises(ValueError, match=message):
        build(strategy, **{"selector": "fast", **changes})


def test_convex_craig_needs_tensors():
    options = {
        "fraction": 0.2,
        "num_classes": 3,
        "model": WordNet(),
        "selector": "fast",
        "if_convex": True,
    }
    loader = cords_loader("CRAIG", *[DataLoader(Words(30), batch_size=10)] * 2, options)
    with pytest.raises(ValueError, match=r"if_convex=True compares inputs"):
        loader.resample()


def test_cords_is_asked_unless_told_otherwise(build):
    for changes in ({}, {"selector": "cords"}, {"selector": None}):
        loader = build(select_every=2, **changes)
        assert selections(loader, 3)[0] == [2]
        assert loader.selection_report is None


def test_loaders_keep_the_key_after_disable_and_can_be_copied(adaptive, problem):
    enable()
    loader = problem.build(adaptive.CRAIGDataLoader, selector="fast")
    disable()
    copied = copy.deepcopy(loader)
    for each in (loader, copied):
        each.resample()
    assert copied.subset_indices == loader.subset_indices
    assert copied.selection_report.budget == 12
    assert (
        type(problem.build(adaptive.CRAIGDataLoader, selector="fast")) is adaptive.CRAIGDataLoader
    )


def test_no_weight_is_zero():
    selection = Selection(torch.arange(4), torch.tensor([0.0, 2.0, 2.0, 0.0]))
    weights = cords_weights(selection, "GradMatch", 40)
    assert weights[1:3].tolist() == [20.0, 20.0]
    assert 0 < float(weights[0]) == float(weights[3]) < 1e-4
    assert cords_weights(selection, "GLISTER", 40) is selection.weights
