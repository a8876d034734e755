"""``warm_start`` on CORDS's own loaders: when it runs, with what, and what follows."""

from __future__ import annotations

import copy

import pytest
import torch
from plugin_material import selections
from torch.utils.data import DataLoader

from lipt_cords.cords.importing import cords_version
from lipt_cords.cords.loader import PendingWarmStart, PluggedIn
from lipt_cords.warmstart.config import WarmStartConfig

STRATEGIES = ("GLISTER", "GradMatch", "CRAIG")


def test_the_schedule_of_cords_without_the_key(build):
    """Random until a multiple of select_every; the two versions count epochs from 1 and from 0."""
    epochs, _, sizes = selections(build(select_every=3), 8)
    assert (epochs, sizes) == ([3, 6], [12] * 8)
    epochs, _, sizes = selections(build(select_every=2, kappa=0.5, num_epochs=8), 8)
    after_full_data = 12 if cords_version() == "main" else 0
    assert (epochs, sizes) == ([4, 6], [60, after_full_data, 0, 0, 12, 12, 12, 12])
    assert selections(build(select_every=3, kappa=0.5, num_epochs=8), 8)[0] == [6]


@pytest.mark.parametrize("kappa", [0, 0.5])
@pytest.mark.parametrize(("every", "expected"), [(1, range(8)), (3, [0, 3, 6]), (20, [0])])
def test_the_schedule_of_a_warm_start(build, fake_warm_start, every, expected, kappa):
    loader = build(warm_start="lipt", select_every=every, kappa=kappa)
    epochs, states, sizes = selections(loader, 8)
    assert epochs == list(expected)
    assert sizes == [12] * 8
    assert len(fake_warm_start) == 1
    for key, value in fake_warm_start[0].state.items():
        assert torch.equal(states[0][key], value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_starts_warm(build, problem, fake_warm_start, strategy):
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    before = copy.deepcopy(problem.model.state_dict())
    loader = build(strategy, warm_start={"type": "lipt", "num_workers": 3})
    assert fake_warm_start == []  # nothing in the constructor
    assert loader.warm_start_report is None
    batches = list(loader)
    assert sum(len(batch[0]) for batch in batches) == len(loader.subset_indices) == 12
    (fit,) = fake_warm_start
    assert fit.config.num_workers == 3
    assert fit.config.device == "cpu"
    assert (fit.train, fit.val, fit.num_classes) == (problem.train, problem.val, 3)
    assert fit.loss.reduction == "none"
    assert loader.warm_start_report.passes == 10
    for key, value in problem.model.state_dict().items():
        assert torch.equal(value, before[key] + 1)
    optimizer.zero_grad()
    problem.model(batches[0][0]).sum().backward()
    optimizer.step()
    assert not torch.equal(problem.model.classifier.bias, before["classifier.bias"] + 1)


def test_from_the_initial_weights(build, problem, fake_warm_start):
    before = copy.deepcopy(problem.model.state_dict())
    loader = build(warm_start={"type": "lipt", "start_from": "initial"})
    _, states, _ = selections(loader, 3)
    assert torch.equal(states[0]["classifier.bias"], before["classifier.bias"] + 1)
    assert torch.equal(states[1]["classifier.bias"], before["classifier.bias"])
    for key, value in problem.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_kappa_is_reported_and_the_options_are_left_alone(build, problem, fake_warm_start, caplog):
    with caplog.at_level("WARNING"):
        loader = build(warm_start="lipt", kappa=0.5)
    assert "kappa=0.5 was ignored" in caplog.text
    loader.warm_start()
    assert "kappa=0.5 was ignored" in loader.warm_start_report.notes[0]
    options = problem.options(warm_start="lipt", kappa=0.5)
    keys = sorted(options.keys())
    cls = type(loader).__mro__[2]
    cls(problem.train_loader, problem.val_loader, options, problem.logger)
    assert sorted(options.keys()) == keys
    assert options["kappa"] == 0.5


def test_an_explicit_call_and_len_run_it_once(build, fake_warm_start):
    loader = build(warm_start="lipt")
    assert loader.warm_start() is loader.warm_start_report
    assert len(loader) == 3
    list(loader)
    assert len(fake_warm_start) == 1
    loader = build(warm_start="lipt")
    assert len(loader) == 3
    assert loader.warm_start_result is not None
    assert build().warm_start() is None


def test_a_failed_warm_start_is_tried_again(build, problem):
    warm = {"num_workers": 2, "local_steps": 1, "common_steps": 0, "launch": "serial"}
    loader = build(warm_start={"type": "lipt", **warm})
    right, problem.train.tensors[0][7] = problem.train.tensors[0][7].clone(), float("nan")
    with pytest.raises(ValueError, match="sample 7 of the training data holds NaN"):
        iter(loader)
    assert loader.warm_start_report is None
    problem.train.tensors[0][7] = right
    iter(loader)
    assert loader.warm_start_report.passes > 0


@pytest.mark.parametrize("value", ["lipt", {"type": "lipt"}, WarmStartConfig()])
def test_forms_of_the_key(build, fake_warm_start, value):
    build(warm_start=value).warm_start()
    assert fake_warm_start[0].config.device == "cpu"


def test_a_device_of_its_own(build, fake_warm_start):
    build(warm_start={"type": "lipt", "device": "auto"}).warm_start()
    assert fake_warm_start[0].config.device == "auto"


def test_wrong_values_of_the_key(build):
    from dotmap import DotMap

    with pytest.raises(ValueError, match=r"warm_start is an empty mapping"):
        build(warm_start=DotMap())
    with pytest.raises(ValueError, match=r"Did you mean 'num_workers'"):
        build(warm_start=DotMap(type="lipt", num_worker=3))
    with pytest.raises(ValueError, match=r"unknown type 'lpit'"):
        build(warm_start="lpit")


def test_a_random_loader_needs_a_model_to_start_warm(plugged, adaptive, problem, fake_warm_start):
    def build(options):
        return adaptive.RandomDataLoader(problem.train_loader, options, problem.logger)

    without = problem.options(warm_start="lipt")
    del without["model"]
    with pytest.raises(ValueError, match=r"RandomDataLoader has no model: set dss_args.model"):
        build(without)
    loader = build(problem.options(warm_start="lipt"))
    list(loader)
    assert fake_warm_start[0].val is None  # CORDS gives it the train loader twice


class OfMain:
    """Counts epochs from 0, keeps what was selected, and selects from the third epoch on."""

    def __init__(self, every):
        self.cur_epoch, self.select_every = 0, every
        self.selected_idxs, self.selection_count = {0: "never trained on"}, 1
        self.train_loader = self.val_loader = self.subset_loader = DataLoader([1])
        self.epochs = []

    def __iter__(self):
        if self.cur_epoch % self.select_every == 0 and self.cur_epoch > 1:
            self.resample()
        self.cur_epoch += 1
        return iter(())

    def resample(self):
        self.epochs.append(self.cur_epoch)
        self.selected_idxs[self.selection_count] = self._resample_subset_indices()[0]
        self.selection_count += 1

    def _resample_subset_indices(self):
        return [self.cur_epoch], torch.ones(1)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3])])
def test_the_counting_of_cords_main(problem, fake_warm_start, every, expected):
    class Plugged(PluggedIn, OfMain):
        logger = problem.logger

    loader = Plugged(every)
    plan = PendingWarmStart(WarmStartConfig(), problem.model, None, 3, None)
    loader._pending_warm_start = plan
    for _ in range(5):
        list(loader)
    assert loader.epochs == expected
    assert loader.selected_idxs == {i: [epoch] for i, epoch in enumerate(expected)}


def test_end_to_end_with_the_real_warm_start(build, problem):
    warm = {
        "type": "lipt", "num_workers": 2, "epochs": 2, "common_steps": 4, "batch_size": 10,
        "launch": "serial", "lr": 0.1,
    }  # fmt: skip
    loader = build("GLISTER", warm_start=warm, kappa=0.3)
    initial = copy.deepcopy(problem.model.state_dict())
    batches = list(loader)
    report, result = loader.warm_start_report, loader.warm_start_result
    assert report.passes > report.critical_path_passes > 0
    assert any("kappa=0.3" in note for note in report.notes)
    for key, value in problem.model.state_dict().items():
        assert torch.equal(value, result.state_dict[key])
    assert not torch.equal(problem.model.classifier.weight, initial["classifier.weight"])
    assert sum(len(batch[0]) for batch in batches) == 12
