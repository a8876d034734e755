"""Warm starts on a ticket's net: same bits everywhere, the bill, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from crashes import Killed, Trainings
from torch import nn
from warmstart_material import make_images

from lipt_cords import LiPTWarmStart
from lipt_cords.models.build import build_model
from lipt_cords.models.nets import CifarResNet
from lipt_cords.warmstart.result import WarmStartResult

SMALL = {
    "num_workers": 3, "epochs": 2, "batch_size": 16, "common_steps": 20, "launch": "serial",
    "sparsity": "none", "threads": 1,
}  # fmt: skip
SEARCH = {"ratio": 0.5, "l1": 1e-2}
VOTE = {"early_bird": SEARCH | {"vote": True}, "rounds": 4, "outer": "nesterov"}


def make_net() -> nn.Module:
    return build_model("resnet8", 4, in_channels=1, image_size=8, seed=0)


def fit(**options) -> WarmStartResult:
    warm_start = LiPTWarmStart(**{**SMALL, **options})
    return warm_start.fit(make_net(), make_images(160), make_images(80, seed=1))


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def plain() -> WarmStartResult:
    return fit()


@pytest.fixture(scope="module")
def ticketed() -> WarmStartResult:
    return fit(early_bird=SEARCH, keep_workers=True)


@pytest.fixture(scope="module")
def voted() -> WarmStartResult:
    return fit(**VOTE)


def test_a_ratio_of_zero_gives_the_bits_of_plain_training(plain: WarmStartResult) -> None:
    result = fit(early_bird={"ratio": 0.0})
    assert same(result.state_dict, plain.state_dict) and result.ticket is None
    assert result.report.flops == plain.report.flops


def test_the_bill_is_that_of_the_smaller_net(plain, ticketed) -> None:
    told = ticketed.report.ticket
    steps, work = told["steps"], told["work"]
    searched, rest = steps * 16, (20 - steps) * 16
    flops = plain.report.flops / plain.report.passes  # of one sample
    local = ticketed.report.passes - searched - rest
    assert ticketed.report.passes == plain.report.passes
    assert ticketed.report.flops == pytest.approx(flops * (searched + work * (rest + local)), 1e-6)
    assert ticketed.report.critical_path_flops < 0.7 * plain.report.critical_path_flops
    assert 0.05 < work < 0.5 and told["share_kept"] == pytest.approx(0.5, abs=0.02)
    assert all(0 < kept <= had for kept, had in told["layers"].values())
    assert len(told["distances"]) == told["masks"] == 10


def test_the_result_is_the_smaller_nets_in_the_given_ones_shapes(ticketed) -> None:
    small, dense = ticketed.ticket_model().eval(), ticketed.model().eval()
    inputs = make_images(40, seed=2).tensors[0]
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), dense(inputs), atol=1e-5, rtol=1e-5)
    narrow = ticketed.gradients(make_images(40)).embeddings.shape[1]
    assert narrow == small.head.in_features < dense.head.in_features
    own = ticketed.apply_to(ticketed.ticket.build(make_net()))
    assert same(own.state_dict(), small.state_dict())
    zeros = [(state["stem.1.weight"] == 0) for state in ticketed.worker_states]
    assert all(torch.equal(one, zeros[0]) for one in zeros) and zeros[0].any()


@pytest.mark.parametrize("options", [{"early_bird": SEARCH, "keep_workers": True}, VOTE])
def test_processes_give_the_same_bits(options, ticketed, voted) -> None:
    expected = voted if "rounds" in options else ticketed
    result = fit(**options, launch="processes", processes=2)
    assert same(result.state_dict, expected.state_dict)
    assert result.report.ticket == expected.report.ticket
    assert same(result.ticket_model().state_dict(), expected.ticket_model().state_dict())


@pytest.mark.parametrize(("options", "workers"), [(VOTE, 1), (VOTE, 4), (VOTE, 7), (VOTE, 11),
                                                  ({"early_bird": SEARCH}, 1)])  # fmt: skip
def test_a_crash_changes_no_bit(options, workers, ticketed, voted, tmp_path) -> None:
    # Before the workers there is the common start, of one net, or of two with the ticket's.
    starts = 1 if "rounds" in options else 2
    with Trainings(die_in=starts + workers), pytest.raises(Killed):
        fit(**options, work_dir=tmp_path)
    with Trainings() as trained:
        result = fit(**options, work_dir=tmp_path)
    assert trained.begun == 3 * options.get("rounds", 1) - workers
    expected = voted if "rounds" in options else ticketed
    assert same(result.state_dict, expected.state_dict)
    assert result.report.ticket == expected.report.ticket
    assert result.report.flops == expected.report.flops


def test_workers_vote_by_the_merge_of_their_scales(voted, plain) -> None:
    told = voted.report.ticket
    assert told["rounds"] == told["masks"] == 2 and not told["settled"]
    assert any("before its masks settled" in note for note in voted.report.notes)
    works = [one.work / one.passes for one in voted.report.rounds]
    assert works[:2] == [1.0, 1.0] and works[2] == pytest.approx(told["work"])


def test_files_bring_the_ticket_back(ticketed, tmp_path) -> None:
    ticketed.save(tmp_path)
    loaded = WarmStartResult.load(tmp_path)
    one, other = loaded.ticket.build(make_net()), ticketed.ticket.build(make_net())
    loaded.apply_to(one)
    ticketed.apply_to(other)
    assert same(one.state_dict(), other.state_dict())


def test_callers_are_told_the_given_nets_weights() -> None:
    heard, given = [], make_net()
    warm_start = LiPTWarmStart(**SMALL, early_bird=SEARCH, batchnorm_refresh="never")
    result = warm_start.fit(
        given, make_images(160), on_round=lambda report, state: heard.append(state)
    )
    assert [len(state) for state in heard] == [len(given.state_dict())]
    assert same(heard[0], result.state_dict)
    given.load_state_dict(heard[0])
    assert given.head.in_features > result.ticket_model().head.in_features


def test_a_ticket_goes_with_paths_and_masks() -> None:
    options = {"subnetwork": {"blocks": ["blocks.0"], "lengths": [1]}, "sparsity": "magnitude"}
    result = fit(early_bird=SEARCH, **options)
    assert result.report.workers[0].work == pytest.approx(result.report.ticket["work"])


def test_the_given_model_and_the_random_state_are_left_alone() -> None:
    model, before = make_net(), torch.get_rng_state()
    weights = copy.deepcopy(model.state_dict())
    LiPTWarmStart(**SMALL, early_bird=SEARCH).fit(model, make_images(160))
    assert same(weights, model.state_dict()) and torch.equal(before, torch.get_rng_state())
    assert model.head.in_features == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"early_bird": {"ratio": 1.0}}, "a share from 0 to below 1"),
        ({"early_bird": {"ratio": -0.1}}, "a share from 0 to below 1"),
        ({"early_bird": {"ration": 0.1}}, "Did you mean 'ratio'"),
        ({"early_bird": 0.3}, "expected options by name"),
        ({"rounds": 1, "early_bird": {"vote": True}}, "rounds=1 has one"),
        ({"early_bird": {}, "common_steps": 0}, "common_steps=0 leaves it out"),
        ({"early_bird": {"vote": True}, "rounds": 2, "together": 2}, "together=2"),
    ],
)
def test_bad_options_are_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        fit(**options)


def test_a_stop_before_the_draw_leaves_no_ticket_and_says_so() -> None:
    vote = SEARCH | {"vote": True, "window": 9, "epsilon": 0.0, "latest": 0.9}
    result = fit(
        rounds=12, local_steps=24, probe_every=1, stop_when={"benefit": 0.99}, early_bird=vote,
        keep_workers=True,
    )  # fmt: skip
    assert result.report.stopped_early and result.ticket is None and result.report.ticket is None
    assert any("before an Early-Bird ticket was drawn" in note for note in result.report.notes)
    with pytest.raises(ValueError, match="drew no ticket"):
        result.ticket_model()


def test_snip_asks_every_block() -> None:
    options = {"sparsity": "snip", "density": 0.5, "local_steps": 16, "keep_workers": True}
    warm_start = LiPTWarmStart(**{**SMALL, **options}, subnetwork={"lengths": [2, 4]})
    torch.manual_seed(0)
    net = CifarResNet(2, 4, in_channels=1)
    result = warm_start.fit(net, make_images(160), make_images(80, seed=1))
    for state in result.worker_states:
        dead = [n for n, v in state.items() if v.ndim == 4 and (v == 0).float().mean() > 0.99]
        assert dead == []


def test_evaluation_before_a_vote_is_billed_at_the_given_nets_cost(voted, plain) -> None:
    whole = plain.report.forward_flops / (
        plain.report.evaluation_passes + plain.report.refresh_passes
    )
    report = voted.report
    passes = report.evaluation_passes + report.refresh_passes
    assert whole * passes * 0.3 < report.forward_flops < 0.9 * whole * passes


def test_stages_are_in_the_given_nets_operations() -> None:
    options = {"subnetwork": {"blocks": ["blocks.0"], "lengths": [1]}}
    report = fit(early_bird=SEARCH, **options).report
    counted = sum(stage["counted"] for stage in report.stages)
    assert counted == pytest.approx(sum(one.passes * one.work for one in report.workers))


def test_a_net_that_cannot_be_cut_is_refused_before_any_work() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    with Trainings() as trained, pytest.raises(ValueError, match="does not compute the same"):
        LiPTWarmStart(**SMALL, early_bird=SEARCH).fit(net, make_images(160))
    assert trained.begun == 0


def test_a_net_without_batchnorm_is_refused_before_any_work() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="BatchNorm layers, and Sequential has none"):
        LiPTWarmStart(**SMALL, early_bird=SEARCH).fit(net, make_images(160))
