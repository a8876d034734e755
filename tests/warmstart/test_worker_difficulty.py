import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart, select
from lipt_cords.warmstart.difficulty import worker_difficulty


@pytest.fixture(scope="module")
def data():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centres = torch.randn(3, 6, generator=draws)
    return TensorDataset(centres[labels] + torch.randn(90, 6, generator=draws), labels)


@pytest.fixture(scope="module")
def result(data):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    options = {"num_workers": 3, "common_steps": 3, "epochs": 2, "batch_size": 8}
    return LiPTWarmStart(keep_workers=True, progress=False, **options).fit(net, data)


def losses_of_every_worker(result, data):
    rows = []
    for state in result.worker_states:
        net = copy.deepcopy(result.template)
        net.load_state_dict(state)
        with torch.no_grad():
            rows.append(F.cross_entropy(net(data.tensors[0]), data.tensors[1], reduction="none"))
    return torch.stack(rows).double()


def test_a_sample_is_scored_by_the_workers_that_have_not_seen_it(result, data):
    losses_KN = losses_of_every_worker(result, data)
    unseen_KN = torch.ones(3, 90, dtype=torch.bool)
    for worker, shard in enumerate(result.shards):
        unseen_KN[worker, shard] = False
    expected = (losses_KN * unseen_KN).sum(dim=0) / unseen_KN.sum(dim=0)
    scored = worker_difficulty(result, data, scorers=2)
    assert scored.passes == 180
    torch.testing.assert_close(scored.scores, expected, rtol=1e-5, atol=1e-6)


def test_all_workers_together_average_over_replicas(result, data):
    scored = worker_difficulty(result, data, unseen=False)
    expected = losses_of_every_worker(result, data).mean(dim=0)
    assert scored.passes == 270
    torch.testing.assert_close(scored.scores, expected, rtol=1e-5, atol=1e-6)


def test_the_scores_feed_a_selector(result, data):
    scored = worker_difficulty(result, data, scorers=1, seed=4)
    again = worker_difficulty(result, data, scorers=1, seed=4)
    assert torch.equal(scored.scores, again.scores)
    assert scored.passes == 90
    chosen = select(
        "stratified", result.gradients(data), 30, cut=0.5, scores=scored.scores, per="all"
    )
    assert scored.scores[chosen.indices].max() <= scored.scores.sort().values[44]


@pytest.mark.parametrize("score", ["margin", "el2n", "grand"])
def test_every_score_is_finite(result, data, score):
    assert worker_difficulty(result, data, score).scores.isfinite().all()


def test_workers_that_were_not_kept_are_asked_for(data):
    options = {"num_workers": 2, "common_steps": 1, "epochs": 1, "progress": False}
    result = LiPTWarmStart(**options).fit(nn.Linear(6, 3), data)
    with pytest.raises(ValueError, match="keep_workers=True"):
        worker_difficulty(result, data)


def test_a_single_worker_has_seen_everything(data):
    options = {"num_workers": 1, "common_steps": 1, "epochs": 1, "progress": False}
    result = LiPTWarmStart(keep_workers=True, **options).fit(nn.Linear(6, 3), data)
    with pytest.raises(ValueError, match="at least two workers with disjoint shards"):
        worker_difficulty(result, data)
