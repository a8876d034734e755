"""Greedy choice and BatchNorm refresh, against what they are defined by."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Subset
from warmstart_material import make_images, make_net

from lipt_cords.data.source import BatchSource
from lipt_cords.models.state import tensor_state
from lipt_cords.training.evaluation import accuracy
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.batchnorm import batchnorm_buffers, refresh_batchnorm
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.merge.soup import choose
from lipt_cords.warmstart.report import WorkerSummary


def summary(worker, accuracy=None, samples=10, kept=True):
    return WorkerSummary(
        worker=worker, rank=0, samples=samples, steps=1, passes=1, loss=1.0, accuracy=accuracy,
        density=1.0, seconds=0.0, kept=kept, reason=None if kept else "weights are not finite",
    )  # fmt: skip


def greedy(values, score):
    """Which workers a greedy soup takes that offers them in this order, and what it tried."""
    tried = []

    def trial(workers):
        tried.append(list(workers))
        return score(sum(values[worker] for worker in workers) / len(workers))

    workers = [summary(worker, accuracy=1 - worker / 10) for worker in range(len(values))]
    return choose(workers, "greedy", trial), tried


def test_greedy_keeps_what_does_not_lower_the_score():
    # Closeness to 2: 2 is best; 6 would move the mean to 4; 2 again is as good; 4 makes 2.67.
    chosen, tried = greedy([2.0, 6.0, 2.0, 4.0], lambda w: -abs(w - 2))
    assert chosen.weights == {0: 1, 2: 1}
    assert tried == [[0], [0, 1], [0, 2], [0, 2, 3]]
    assert [one.kept for one in chosen.summaries] == [True, False, True, False]
    assert chosen.summaries[1].reason == "held-out accuracy of the soup would fall"


def test_greedy_always_takes_the_first():
    assert greedy([100.0], lambda w: 0.0)[0].weights == {0: 1}


def test_soups_leave_out_what_cannot_be_merged_and_weigh_by_shards():
    workers = [summary(0, samples=5), summary(1, kept=False), summary(2, samples=7)]
    assert choose(workers, "uniform", pytest.fail).weights == {0: 1, 2: 1}
    assert choose(workers, "weighted", pytest.fail).weights == {0: 5, 2: 7}
    assert choose(workers, "uniform", pytest.fail).summaries == workers


def test_accuracy_counts_hits_and_restores_training_flags(train):
    model = make_net().train()
    model[1].eval()
    x, y = train.tensors
    expected = (copy.deepcopy(model).eval()(x).argmax(1) == y).float().mean()
    assert accuracy(model, BatchSource(train)) == pytest.approx(float(expected))
    assert model.training and not model[1].training


def test_refresh_equals_update_bn_without_dropout():
    model, data = make_net(dropout=0), make_images(512)
    theirs = copy.deepcopy(model)
    assert refresh_batchnorm(model, BatchSource(data)) == 512
    x = data.tensors[0]
    update_bn([x[:256], x[256:]], theirs)
    for name, value in batchnorm_buffers(theirs).items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_refresh_does_not_care_for_the_order_draws_nothing_and_keeps_modes():
    data = make_images(256)
    model = make_net(dropout=0.5).eval()
    again = copy.deepcopy(model)
    state = torch.random.get_rng_state()
    refresh_batchnorm(model, BatchSource(data))
    refresh_batchnorm(again, BatchSource(Subset(data, list(range(255, -1, -1)))))
    assert torch.random.get_rng_state().equal(state)
    assert not model.training and not model[1].training
    assert model[1].momentum == 0.1
    torch.testing.assert_close(model[1].running_var, again[1].running_var)


def test_refresh_of_a_model_without_batchnorm_reads_nothing():
    assert refresh_batchnorm(nn.Linear(2, 2), BatchSource(make_images(4))) == 0


def judge(train, val=None, **options):
    config = WarmStartConfig(**options)
    validation = None if val is None else BatchSource(val)
    return Judge(make_net(), train, train.tensors[1], config, validation)


def spoiled(seed=0):
    """A state whose running statistics are useless."""
    model = make_net(seed)
    model[1].running_mean.fill_(50.0)
    return tensor_state(model)


def test_auto_keeps_the_better_statistics(train, val):
    bad = judge(train, val).finish(spoiled())
    assert bad.refreshed and bad.after >= bad.before
    assert bad.accuracy == bad.after
    assert float(bad.buffers["1.running_mean"].abs().max()) < 5


def test_auto_reverts_a_refresh_that_hurts(train, val):
    class Fixed(Judge):
        answers = iter([0.9, 0.5])

        def _accuracy(self):
            return next(self.answers)

    state = spoiled()
    finish = Fixed(make_net(), train, train.tensors[1], WarmStartConfig(), BatchSource(val)).finish(
        state
    )
    assert (finish.before, finish.after, finish.refreshed, finish.accuracy) == (
        0.9,
        0.5,
        False,
        0.9,
    )
    assert finish.buffers["1.running_mean"].equal(state["1.running_mean"])


def test_without_held_out_data_the_refresh_is_kept(train):
    for steps in (0, 100):
        finish = judge(train, common_steps=steps).finish(spoiled())
        assert finish.refreshed
        assert (finish.before, finish.after, finish.accuracy) == (None, None, None)


def test_never_and_always_obey(train, val):
    state = spoiled()
    never = judge(train, val, batchnorm_refresh="never").finish(state)
    assert not never.refreshed and never.after is None
    assert never.buffers["1.running_mean"].equal(state["1.running_mean"])
    assert judge(train, val, batchnorm_refresh="always").finish(state).refreshed


def test_refresh_is_bounded_and_trials_refresh_only_where_it_is_essential(train, val):
    for steps, expected in ((0, 50), (100, 0)):
        one = judge(train, val, refresh_samples=50, common_steps=steps)
        one.trial(spoiled())
        assert one.refresh_passes == expected
        assert one.evaluation_passes == 80
