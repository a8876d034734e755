"""Each trap of CORDS is a ValueError that names it, before any work."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from lipt_cords.cords.checks import check_loader, check_subset
from lipt_cords.cords.greedy_checks import check_greedy


@pytest.fixture
def check(adaptive, problem):
    """Check one strategy with some options or loaders changed."""

    def run(strategy="GLISTER", *, warm=False, train=None, val=None, drop=(), **changes):
        options = problem.options(**changes)
        for key in drop:
            del options[key]
        check_loader(
            getattr(adaptive, f"{strategy}DataLoader"),
            train or problem.train_loader,
            val or problem.val_loader,
            options,
            warm=warm,
        )

    return run


@pytest.mark.parametrize("strategy", ["GLISTER", "GradMatch", "CRAIG"])
@pytest.mark.parametrize("kind", ["PerClass", "PerBatch"])
def test_a_sound_configuration_passes_and_cords_selects(check, build, strategy, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(strategy, selection_type=kind)
    loader = build(strategy, selection_type=kind)
    loader.resample()
    samples = sum(len(batch[0]) for batch in loader)
    assert samples == len(loader.subset_indices) == len(loader.subset_weights)
    assert samples == (12 if kind == "PerClass" else 20)  # two whole batches of ten


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        (
            "GLISTER",
            {"selection_type": "perclass"},
            r"selection_type.*'perclass'.*Did you mean",
        ),
        ("GLISTER", {"selection_type": "PerClassPerGradient"}, r"expected one of 'PerBatch', 'Per"),
        ("GradMatch", {"selection_type": "Supervised"}, r"'Supervised'.*'PerClassPerGradient'"),
        ("CRAIG", {"selection_type": "PerGradient"}, r"CRAIGDataLoader 'PerGradient'"),
        ("GLISTER", {"greedy": "naive"}, r"greedy.*'naive'.*Did you mean 'Naive'"),
        ("GLISTER", {"greedy": "RGreedy", "r": 9}, r"r=9 rounds and a budget of 4 never ends"),
        ("GLISTER", {"greedy": "RGreedy", "r": 0}, r"r must be a number of rounds from 1"),
        ("GLISTER", {"greedy": "Stochastic"}, r"would draw 23 candidates where 17 are left"),
        ("GLISTER", {"fraction": 0.001}, r"the budget is 0: fraction 0.001 of 60 .* to 0.017"),
        ("GLISTER", {"fraction": 1.5}, r"fraction must lie in \(0, 1\], received 1.5"),
        ("GLISTER", {"fraction": "0.1"}, r"fraction must lie in .* received '0.1'"),
        ("GLISTER", {"select_every": 0}, r"select_every must be a number of epochs from 1"),
        ("GLISTER", {"kappa": 2}, r"kappa must lie in \[0, 1\], received 2"),
        ("GLISTER", {"num_classes": 5}, r"no sample of class 3, 4, .*'Supervised'"),
        (
            "GLISTER",
            {"num_classes": 2},
            r"labels must lie in \[0, num_classes = 2\), received",
        ),
        ("GLISTER", {"loss": nn.CrossEntropyLoss()}, r"reduction='none'"),
    ],
)
def test_wrong_options(check, strategy, changes, message):
    with pytest.raises(ValueError, match=message):
        check(strategy, **changes)


@pytest.mark.parametrize(("budget", "r"), [(12, 5), (12, 8), (10, 4)])
def test_rounds_that_do_not_divide_the_budget_but_fit_pass(problem, build, budget, r):
    changes = {"greedy": "RGreedy", "r": r, "selection_type": "Supervised"}
    options = problem.options(**changes)
    check_greedy(options, budget, problem.train_loader, problem.val_loader, None)
    loader = build(fraction=budget / 60, **changes)
    loader.resample()
    assert len(loader.subset_indices) == len(loader.subset_weights) == budget


def test_rounds_that_overshoot_name_one_that_fits(problem):
    options = problem.options(greedy="RGreedy", r=4, selection_type="Supervised")
    with pytest.raises(ValueError, match=r"r=4 rounds of 2 overshoots the budget of 11.*set r=6"):
        check_greedy(options, 11, problem.train_loader, problem.val_loader, None)


def test_missing_and_empty_values(check, problem):
    with pytest.raises(ValueError, match=r"GLISTERDataLoader lacks 'eta'"):
        check(drop=("eta",))
    with pytest.raises(ValueError, match=r"GradMatchDataLoader lacks 'v1'"):
        check("GradMatch", drop=("v1",))
    with pytest.raises(ValueError, match=r"kappa > 0 lacks 'num_epochs'"):
        check(drop=("num_epochs",), kappa=0.5)
    check(drop=("num_epochs",), kappa=0.5, warm=True)
    options = problem.options()
    del options["loss"]
    assert not options.loss  # reading it made it
    with pytest.raises(ValueError, match=r"dss_args.loss of GLISTERDataLoader is an empty DotMap"):
        check(loss=options.loss)


def test_dss_args_of_the_wrong_kind(adaptive, problem):
    loaders = (problem.train_loader, problem.val_loader)
    plain = dict(problem.options().items())
    with pytest.raises(ValueError, match=r"is a plain dict.*DotMap\(dss_args\)"):
        check_loader(adaptive.GLISTERDataLoader, *loaders, plain, warm=False)
    with pytest.raises(ValueError, match=r"must be a DotMap, received NoneType"):
        check_loader(adaptive.GLISTERDataLoader, *loaders, None, warm=False)
    with pytest.raises(ValueError, match=r"train_loader must be a torch.utils.data.DataLoader"):
        check_loader(adaptive.GLISTERDataLoader, [1], loaders[1], problem.options(), warm=False)


def bad_order(data, kind):
    if kind == "shuffle":
        return DataLoader(data, batch_size=10, shuffle=True)
    if kind == "drop_last":
        return DataLoader(data, batch_size=7, drop_last=True)
    return DataLoader(data, batch_size=10, sampler=SubsetRandomSampler(range(40)))


@pytest.mark.parametrize("kind", ["shuffle", "drop_last", "sampler"])
@pytest.mark.parametrize("strategy", ["GLISTER", "GradMatch", "CRAIG"])
def test_a_train_loader_out_of_order(check, problem, strategy, kind):
    train = bad_order(problem.train, kind)
    with pytest.raises(ValueError, match=r"train_loader must give the data set in its own order"):
        check(strategy, train=train, warm=True)
    with pytest.warns(UserWarning, match=r"takes positions in it for indices") as caught:
        check(strategy, train=train)
    assert caught[0].filename == __file__


def test_harmless_orders_pass(check, problem):
    check(train=DataLoader(problem.train, batch_size=10, drop_last=True), warm=True)
    check(train=DataLoader(problem.train, batch_size=10, sampler=range(60)), warm=True)
    check(val=DataLoader(problem.val, batch_size=7, drop_last=True), warm=True)
    shuffled = DataLoader(problem.val, batch_size=10, shuffle=True)
    check(val=shuffled, warm=True, selection_type="Supervised")
    check("CRAIG", val=shuffled, warm=True)
    with pytest.raises(ValueError, match=r"val_loader must give the data set in its own order"):
        check(val=shuffled, warm=True)


def test_looking_at_an_order_draws_nothing(check, problem):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning):
        check(train=bad_order(problem.train, "sampler"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_absent_from_validation(check, problem):
    val = DataLoader(Subset(problem.val, [0, 1, 3, 4]), batch_size=4)
    with pytest.raises(ValueError, match=r"the validation data has no sample of class 2"):
        check(val=val)
    with pytest.raises(ValueError, match=r"validation data has no sample of class 2"):
        check("GradMatch", val=val, valid=True)
    check("GradMatch", val=val, valid=False)
    check("CRAIG", val=val)


def test_glister_per_batch_needs_a_full_validation_batch(check, problem):
    val = DataLoader(problem.val, batch_size=64)
    with pytest.raises(ValueError, match=r"30 samples, batch_size 64"):
        check(val=val, selection_type="PerBatch")


def test_random_loaders_need_no_model(adaptive, problem):
    options = problem.options()
    for key in ("model", "loss", "selection_type", "num_classes"):
        del options[key]
    shuffled = DataLoader(TensorDataset(torch.zeros(50, 1)), batch_size=5, shuffle=True)
    check_loader(adaptive.RandomDataLoader, shuffled, shuffled, options, warm=False)
    loader = adaptive.RandomDataLoader(shuffled, options, problem.logger, batch_size=5)
    assert sum(len(batch[0]) for batch in loader) == 10


def test_selections_of_unequal_length_or_none():
    with pytest.raises(ValueError, match=r"selected 3 indices with 2 weights"):
        check_subset([1, 2, 3], torch.ones(2), "GLISTER")
    with pytest.raises(ValueError, match=r"CRAIG selected nothing"):
        check_subset([], torch.ones(0), "CRAIG")


def test_weights_that_are_not_finite_become_one():
    weights = torch.tensor([2.0, float("nan"), float("inf")])
    with pytest.warns(UserWarning, match=re.escape("gave 2 of 3 selected samples no finite")):
        mended = check_subset([1, 2, 3], weights, "GradMatch")
    assert mended.tolist() == [2.0, 1.0, 1.0]
    sound = torch.ones(3)
    assert check_subset(np.array([1, 2, 3]), sound, "Random") is sound
