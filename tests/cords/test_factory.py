"""CORDS's loaders by name."""

from __future__ import annotations

import pytest
from dotmap import DotMap
from plugin_material import tiny_net

from lipt_cords.cords.factory import cords_loader


@pytest.mark.parametrize(
    ("name", "cls", "kind"),
    [
        ("GLISTER", "GLISTERDataLoader", "Supervised"),
        ("glisterpb-warm", "GLISTERDataLoader", "PerBatch"),
        ("GradMatch", "GradMatchDataLoader", "PerClassPerGradient"),
        ("GradMatchPB", "GradMatchDataLoader", "PerBatch"),
        ("CRAIG", "CRAIGDataLoader", "PerClass"),
        ("CRAIGPB-Warm", "CRAIGDataLoader", "PerBatch"),
        ("Random", "RandomDataLoader", None),
        ("AdaptiveRandom", "RandomDataLoader", None),
    ],
)
def test_names_and_defaults(problem, adaptive, name, cls, kind):
    options = {"fraction": 0.4, "model": tiny_net(), "num_classes": 3, "greedy": "Naive"}
    before = dict(options)
    loader = cords_loader(name, problem.train_loader, problem.val_loader, options)
    assert type(loader).__name__.endswith(cls)
    assert getattr(loader.strategy, "selection_type", None) == kind
    assert loader.select_every == 20
    assert loader.subset_loader.batch_size == 10
    loader.resample()
    assert sum(len(batch[0]) for batch in loader) == len(loader.subset_indices) >= 24
    assert options == before
    # The plug-in is not left enabled.
    plain = problem.build(adaptive.CRAIGDataLoader, selector="fast")
    assert type(plain) is adaptive.CRAIGDataLoader


def test_given_options_win(problem):
    options = DotMap(fraction=0.2, num_classes=3, greedy="Naive", select_every=5)
    options["model"] = problem.model
    loader = cords_loader(
        "GLISTER", problem.train_loader, problem.val_loader, options, batch_size=6, shuffle=False
    )
    assert (loader.strategy.greedy, loader.select_every) == ("Naive", 5)
    assert loader.subset_loader.batch_size == 6
    assert loader.strategy.eta == 0.01


def test_warm_start_by_name(problem, fake_warm_start):
    options = {
        "fraction": 0.2, "num_classes": 3, "model": problem.model, "greedy": "Naive",
        "warm_start": {"type": "lipt", "num_workers": 4},
    }  # fmt: skip
    loader = cords_loader("GLISTER", problem.train_loader, problem.val_loader, options)
    list(loader)
    assert fake_warm_start[0].config.num_workers == 4


def test_bad_names_and_missing_options(problem):
    with pytest.raises(ValueError, match=r"'Glistr'"):
        cords_loader("Glistr", problem.train_loader, problem.val_loader, {})
    with pytest.raises(ValueError, match=r"unknown loader of CORDS 'RS2'"):
        cords_loader("RS2", problem.train_loader, problem.val_loader, {})
    with pytest.raises(ValueError, match=r"lacks 'model'"):
        cords_loader("CRAIG", problem.train_loader, problem.val_loader, {"num_classes": 3})
