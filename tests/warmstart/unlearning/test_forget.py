"""Exact unlearning: the bits of a warm start that never held a sample."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Subset, TensorDataset
from warmstart_material import make_images, make_net, same_log

from lipt_cords import LiPTWarmStart
from lipt_cords.models.nets import CifarResNet
from lipt_cords.warmstart.common_start import common_samples
from lipt_cords.warmstart.result import WarmStartResult

TRAIN, VAL = make_images(96), make_images(40, seed=1)
SMALL: dict[str, Any] = {
    "num_workers": 8, "epochs": 2, "batch_size": 8, "common_steps": 0, "launch": "serial",
    "keep_workers": True, "threads": 1, "log_samples": True,
}  # fmt: skip


def fit(
    model: nn.Module | None = None, data: Any = TRAIN, shards: Any = None, **options: Any
) -> WarmStartResult:
    warm_start = LiPTWarmStart(**{**SMALL, **options})
    return warm_start.fit(model or make_net(), data, VAL, shards=shards)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def never_had(result: WarmStartResult, gone: list[int], start: nn.Module, **options: Any) -> Any:
    """A warm start from the same theta* on a data set that lacks some samples."""
    stays = torch.ones(len(TRAIN), dtype=torch.bool)
    stays[gone] = False
    place = stays.cumsum(0) - 1
    shards = [place[shard[stays[shard]]] for shard in result.shards]
    data = Subset(TRAIN, stays.nonzero().flatten().tolist())
    return fit(start, data, shards, **{**options, "common_steps": 0})


@pytest.fixture(scope="module")
def whole() -> WarmStartResult:
    return fit()


@settings(max_examples=20)
@given(st.sets(st.integers(0, 95), min_size=1, max_size=4))
def test_forgetting_gives_the_bits_of_never_having_had(whole: Any, gone: set[int]) -> None:
    left = whole.forget(sorted(gone))
    reference = never_had(whole, sorted(gone), make_net())
    assert same(left.state_dict, reference.state_dict)
    assert left.report.merged_accuracy == reference.report.merged_accuracy
    affected = [w for w, shard in enumerate(whole.shards) if gone & set(shard.tolist())]
    assert left.unlearning.retrained == affected
    assert left.unlearning.passes == sum(reference.report.workers[w].passes for w in affected)
    assert left.unlearning.redo_passes == reference.report.passes
    assert left.unlearning.uncovered == [] and left.forgotten == sorted(gone)
    assert left.dynamics.unseen.tolist() == sorted(gone)
    stays = (left.dynamics.counts > 0).nonzero().flatten()
    assert same_log(left.dynamics.of(stays), reference.dynamics)


@pytest.mark.parametrize(
    "options",
    [{"soup": "greedy"}, {"soup": "weighted", "ema": 0.9}, {"sparsity": "snip"},
     {"batchnorm_refresh": "never"}, {"outer": "nesterov", "outer_lr": 0.5},
     {"schedule": "cosine", "precision": "bf16"}],
)  # fmt: skip
def test_every_kind_of_soup_is_made_again(options: Any) -> None:
    result = fit(**options)
    left = result.forget([3, 50])
    reference = never_had(result, [3, 50], make_net(), **options)
    assert same(left.state_dict, reference.state_dict)
    assert [w.kept for w in left.report.workers] == [w.kept for w in reference.report.workers]


@pytest.mark.parametrize("common_steps", [0, 5])
def test_the_bill_after_forgetting_says_what_is_true_now(common_steps: int) -> None:
    """The accuracy of the workers, evaluation and refresh stayed the old ones once."""
    result = fit(common_steps=common_steps)
    gone = [int(result.shards[2][0]), int(result.shards[6][1])]
    left, before = result.forget(gone), result.report
    after, cost = left.report, left.unlearning
    net, right = make_net().eval(), []
    for state in left.worker_states:
        net.load_state_dict(state)
        right.append(float((net(VAL.tensors[0]).argmax(1) == VAL.tensors[1]).double().mean()))
    assert after.mean_worker_accuracy == pytest.approx(sum(right) / len(right), abs=1e-12)
    assert [one.accuracy for one in after.workers] == pytest.approx(right, abs=1e-12)
    start = make_net()
    start.load_state_dict(result.theta_star)
    reference = never_had(result, gone, start).report
    assert after.mean_worker_accuracy == reference.mean_worker_accuracy
    # Two workers are evaluated, the new soup twice: before and after its refresh.
    assert after.evaluation_passes == before.evaluation_passes + 4 * len(VAL)
    assert after.refresh_passes == before.refresh_passes + reference.refresh_passes
    forward = before.forward_flops / (before.evaluation_passes + before.refresh_passes)
    assert after.forward_flops == forward * (after.evaluation_passes + after.refresh_passes)
    assert after.passes == before.passes + cost.passes
    common = before.passes - sum(one.passes for one in before.workers)
    assert after.passes == common + sum(one.passes for one in after.workers)
    assert after.flops == before.flops / before.passes * after.passes
    assert len(after.rounds) == 2 and after.rounds[1].passes == cost.passes
    assert after.critical_path_passes == after.rounds[1].critical_path_passes
    assert after.critical_path_passes == before.critical_path_passes + max(
        reference.workers[worker].passes for worker in cost.retrained
    )
    assert after.seconds["total"] > before.seconds["total"]
    assert after.seconds["workers"] >= before.seconds["workers"]
    again = left.forget([int(left.shards[2][0])]).report
    assert len(again.rounds) == 3 and again.passes > after.passes


def test_one_sample_costs_one_worker() -> None:
    result = fit(num_workers=16)
    left = result.forget([int(result.shards[5][0])])
    assert left.unlearning.retrained == [5] and left.unlearning.share < 1 / 10


def test_one_after_the_other_is_both_at_once(whole: WarmStartResult) -> None:
    assert same(whole.forget([7]).forget([60]).state_dict, whole.forget([60, 7]).state_dict)


def test_what_was_forgotten_can_come_back(whole: WarmStartResult) -> None:
    smallest = min(range(8), key=lambda worker: (len(whole.shards[worker]), worker))
    gone = whole.shards[smallest][:1]
    again = whole.forget(gone).add(gone)
    assert same(again.state_dict, whole.state_dict) and again.forgotten == []
    assert again.unlearning.retrained == [smallest]


def test_new_samples_of_a_longer_data_set_are_added(whole: WarmStartResult) -> None:
    more = make_images(20, seed=5)
    longer = TensorDataset(
        *(torch.cat(pair) for pair in zip(TRAIN.tensors, more.tensors, strict=True))
    )
    added = whole.on(make_net(), longer, VAL).add(range(96, 100))
    reference = fit(data=longer, shards=added.shards)
    assert same(added.state_dict, reference.state_dict)
    assert same_log(added.dynamics, reference.dynamics)
    assert sum(map(len, added.shards)) == 100


def test_theta_star_that_has_seen_a_sample_is_told() -> None:
    result = fit(common_steps=3)
    seen = common_samples(result.config, TRAIN.tensors[1])
    assert len(seen) == 24
    told = result.forget([int(seen[0]), int(seen[1])]).unlearning.uncovered
    assert (
        len(told) == 1 and "2 of all samples forgotten so far were in the common start" in told[0]
    )
    unseen = next(one for one in range(96) if one not in set(seen.tolist()))
    left = result.forget([unseen])
    assert left.unlearning.uncovered == []
    start = make_net()
    start.load_state_dict(result.theta_star)
    assert same(left.state_dict, never_had(result, [unseen], start).state_dict)


def test_tickets_and_paths_are_kept() -> None:
    torch.manual_seed(0)
    net = CifarResNet(2, 4, in_channels=1)
    options = {"early_bird": {"ratio": 0.5}, "subnetwork": {"lengths": [2, 4]}, "common_steps": 10}
    result = fit(net, **options)
    left = result.forget([1])
    assert any("ticket" in one for one in left.unlearning.uncovered)
    small, start = left.ticket_model(), result.ticket.build(net)
    start.load_state_dict(result.ticket.gather(result.theta_star))
    reference = never_had(result, [1], start, subnetwork={"lengths": [2, 4]})
    assert same(small.state_dict(), reference.state_dict)


def test_files_hold_what_was_forgotten(whole: WarmStartResult, tmp_path: Any) -> None:
    whole.forget([4]).save(tmp_path)
    loaded = WarmStartResult.load(tmp_path)
    assert loaded.forgotten == [4]
    with pytest.raises(ValueError, match=r"call result.on\(model"):
        loaded.forget([5])
    standing = loaded.on(make_net(), TRAIN, VAL)
    assert same(standing.forget([5]).state_dict, whole.forget([4, 5]).state_dict)
    with pytest.raises(ValueError, match="do not fit"):
        loaded.on(nn.Linear(2, 2), TRAIN)


def test_traces_in_theta_star_are_told_of_samples_in_no_shard_too() -> None:
    result = fit(common_steps=12, shard_fraction=0.5)
    outside = next(one for one in range(96) if one not in set(torch.cat(result.shards).tolist()))
    told = result.forget([outside]).unlearning.uncovered
    assert len(told) == 1 and "common start" in told[0]


def test_a_shorter_data_set_is_refused_and_a_record_survives_files(
    whole: Any, tmp_path: Any
) -> None:
    left = whole.forget({4, 5})
    left.save(tmp_path)
    loaded = WarmStartResult.load(tmp_path)
    assert loaded.unlearning == left.unlearning
    with pytest.raises(ValueError, match="the shards hold sample 95, and this training set has 50"):
        loaded.on(make_net(), make_images(50))


def test_nothing_else_is_touched(whole: WarmStartResult) -> None:
    before, random = copy.deepcopy(whole.state_dict), torch.get_rng_state()
    whole.forget([8])
    assert same(before, whole.state_dict) and torch.equal(random, torch.get_rng_state())
    assert whole.forgotten == [] and sum(map(len, whole.shards)) == 96


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([96], r"must lie in \[0, 96\)"), ([-1], r"must lie in \[0, 96\)"),
        ([3, 3], "sample 3 is named twice"), ([], "at least one sample"),
        ([0.5], "must be integers"), ("all", "must be whole numbers"),
        (torch.ones(96, dtype=torch.bool), "worker 0 would have no sample left"),
    ],
)  # fmt: skip
def test_bad_indices_are_refused(whole: WarmStartResult, indices: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        whole.forget(indices)


def test_what_cannot_be_forgotten_is_refused(whole: WarmStartResult) -> None:
    with pytest.raises(ValueError, match="sample 4 was forgotten already"):
        whole.forget([4]).forget([4])
    with pytest.raises(ValueError, match="is in a worker's shard already"):
        whole.add([4])
    with pytest.raises(ValueError, match="keep_workers=True"):
        fit(keep_workers=False).forget([4])
    with pytest.raises(ValueError, match="rounds=2: after the first merge"):
        fit(rounds=2).forget([4])
    half = fit(shard_fraction=0.5)
    outside = next(one for one in range(96) if one not in set(torch.cat(half.shards).tolist()))
    left = half.forget([outside])  # in no shard: only the refresh may have read it
    assert left.unlearning.retrained == [] and left.unlearning.passes == 0
    assert half.add([outside]).unlearning.retrained


def test_why_a_worker_is_missing_and_what_happened_in_the_fit_stay(whole: WarmStartResult) -> None:
    lost = replace(whole.report.workers[3], kept=False, reason="was lost with its process")
    workers = [*whole.report.workers[:3], lost, *whole.report.workers[4:]]
    notes = ["resumed after the merge of round 1 in work_dir", f"worker 3 is not in: {lost.reason}"]
    states = [*whole.worker_states[:3], None, *whole.worker_states[4:]]
    given = replace(
        whole, worker_states=states, report=replace(whole.report, workers=workers, notes=notes)
    )
    report = given.forget([int(whole.shards[0][0])]).report
    assert report.workers[3].reason == "was lost with its process"
    assert report.notes == ["worker 3 is not in the soup: was lost with its process", notes[0]]
