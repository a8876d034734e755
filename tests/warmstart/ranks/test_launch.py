"""The same warm start serially and on 1, 2, 3 and 4 real processes over Gloo: the same bits."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from programs import run_program
from ranks_script import FITS, Rare, fit
from warmstart_material import make_images, make_net, same_log

from lipt_cords.data.source import BatchSource
from lipt_cords.data.steadiness import spread
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.quantised import BLOCK
from lipt_cords.warmstart.ranks.launch import open_ranks
from lipt_cords.warmstart.ranks.ranks import Ranks, _from_bytes, _to_bytes
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.resume.fingerprint import SAMPLES
from lipt_cords.warmstart.warm_start import LiPTWarmStart

SCRIPT = Path(__file__).parents[2] / "support" / "ranks_script.py"
SIZES = (1, 2, 3, 4)
PARAMETERS = [name for name, _ in make_net().named_parameters()]


@pytest.fixture(scope="module")
def serial():
    assert not BatchSource(Rare(make_images(160)), cache_bytes=0).changes()  # it goes unnoticed
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {name: fit(options, "serial")[0] for name, options in FITS.items()} | {
        "two workers": fit({"num_workers": 2}, "serial")[0],
        "rare": fit({}, "serial", form=Rare)[0],
    }
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Start all process groups at once, and read what each rank wrote."""
    root = tmp_path_factory.mktemp("ranks")
    paths = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])
    done = run_program(SCRIPT, root, *SIZES, PYTHONPATH=paths)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {}
    for size in SIZES:
        parts = [root / str(size) / f"rank_{rank}.pickle" for rank in range(size)]
        outcomes[size] = [pickle.loads(part.read_bytes()) for part in parts]
        outcomes[size, "saved"] = root / str(size) / "saved"
    return outcomes


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [*FITS, "two workers", "rare"])
def test_ranks_agree_with_the_serial_run(serial, ranked, size, name):
    expected = serial[name]
    results = [outcome[name][0] for outcome, _ in ranked[size]]
    for result in results:
        assert same(result.theta_star, expected.theta_star)
        pairs = zip(result.worker_states, expected.worker_states, strict=True)
        assert all(same(mine, theirs) for mine, theirs in pairs)
        assert same(result.state_dict, expected.state_dict)
        assert [one.kept for one in result.report.workers] == [
            one.kept for one in expected.report.workers
        ]
        assert result.report.merged_accuracy == expected.report.merged_accuracy
        assert [one.stability for one in result.report.rounds] == [
            one.stability for one in expected.report.rounds
        ]
        assert result.report.ranks == size
        assert result.report.passes == expected.report.passes


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_rank_has_the_log_of_the_serial_run(serial, ranked, size):
    expected = serial["rounds"].dynamics
    assert expected.counts.tolist() == [2] * 160
    for outcome, _ in ranked[size]:
        assert same_log(outcome["rounds"][0].dynamics, expected)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_rank_returns_the_same_result(ranked, size):
    for name in ranked[size][0][0]:
        first, *others = (outcome[name][0] for outcome, _ in ranked[size])
        for other in others:
            assert same(first.state_dict, other.state_dict)
            assert first.report == other.report
            assert all(a.equal(b) for a, b in zip(first.shards, other.shards, strict=True))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_workers_are_shared_out_and_ranks_read_only_their_shards(ranked, size):
    for rank, (outcome, _) in enumerate(ranked[size]):
        result, read = outcome["uniform"]
        mine = [one.worker for one in result.report.workers if one.rank == rank]
        assert mine == list(range(rank, 4, size))
        if rank > 0:
            own = torch.cat([result.shards[worker] for worker in mine]).sort().values
            compared = spread(160, SAMPLES).tolist()
            assert set(read) <= set(compared) | set(own.tolist())
            assert set(own.tolist()) <= set(read)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_weights_cross_the_wire_as_promised(ranked, size):
    report = ranked[size][0][0]["uniform"][0].report
    state = ranked[size][0][0]["uniform"][0].state_dict
    entries = sum(tensor.numel() for tensor in state.values())
    floats = sum(tensor.nbytes for tensor in state.values() if tensor.is_floating_point())
    bits = sum(tensor.nbytes for tensor in state.values())
    one_round = 2 * 4 * entries * (size - 1)
    workers = 4 * bits * (size - 1)  # keep_workers
    assert report.weight_bytes == bits * (size - 1) + one_round + workers
    assert [one.weight_bytes for one in report.rounds] == [one_round]
    assert one_round <= 2 * size * floats + 100 * size  # two buffers of the state for each rank
    messages = report.bytes_communicated - report.weight_bytes
    assert 0 < messages < 40_000 * size  # plans, summaries, readings of the probe


def test_small_messages_are_small_on_the_wire(ranked):
    state = ranked[4][0][0]["int8"][0].state_dict
    weights = [value for name, value in state.items() if name in PARAMETERS]
    entries, blocks = sum(v.numel() for v in weights), sum(-(-v.numel() // BLOCK) for v in weights)
    in_full = sum(value.numel() for value in state.values()) - entries
    for codec, bits, slack in (("int8", 8, 0), ("int4", 4, 2 * 4 * 3)):  # the half bytes
        report = ranked[4][0][0][codec][0].report  # a worker on each rank
        expected = 3 * (2 * 4 * in_full + 2 * 4 * blocks + 2 * blocks + 2 * entries * bits // 8)
        for one in report.rounds:
            assert expected <= one.weight_bytes <= expected + slack
        said = f"the {in_full} entries of buffers and integers are sent in full"
        assert said in str(report.notes)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_round_is_one_all_reduce(ranked, size):
    report = ranked[size][0][0]["rounds"][0].report
    assert len(report.rounds) == 3
    assert len({one.weight_bytes for one in report.rounds}) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_errors_reach_every_rank(ranked, size):
    for _, errors in ranked[size]:
        assert "needs val_dataset" in errors["greedy"]
        assert "sample 0 of the training data holds NaN" in errors["bad shard"]
        assert errors["bad held-out"] == "sample 9 is torn"
        expected = "no error" if size == 1 else "rank 1 differs from rank 0: seed is 1 there"
        assert expected in errors["different options"]
        for which in ("some of the training inputs", "value of the loss"):
            told = errors["other inputs" if "inputs" in which else "other loss"]
            alike = "no error" if size == 1 else f"rank 1 differs from rank 0: {which} is '"
            assert told.startswith(alike)
        if size > 1:
            assert "min_workers is 2 there and None here" in errors["min_workers"]
            assert "keep_workers is False there and True here" in errors["keep_workers"]
            assert "work_dir is 'a directory' there and None here" in errors["work_dir"]
            assert "the trial of workers [1]" in errors["random trials"]
            assert "the trial of workers [0]" in errors["random trials"]
            assert "soup 'random soup' chose the weights {" in errors["random soup"]
            assert errors["torn on one"].endswith("my codec is torn")
            alike = "rank 1 has other merged weights than rank 0: "
            assert errors["other codec"].startswith(f"{alike}codec 'other codec' must give the")
            assert errors["other outer"].startswith(f"{alike}outer step 'other outer' must give")
            assert "processes=7, but this run has" in errors["processes"]
            assert "inside of a process group" in errors["nested"]


def test_rank_0_saves(ranked):
    saved = WarmStartResult.load(ranked[2, "saved"])
    assert same(saved.state_dict, ranked[2][1][0]["own group"][0].state_dict)


def test_serial_ignores_the_environment_and_torchrun_needs_it(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_ranks(WarmStartConfig(device="cpu")) as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
    with pytest.raises(ValueError, match="launch='torchrun' needs the processes that torchrun"):
        LiPTWarmStart(launch="torchrun").fit(make_net(), make_images(20))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with open_ranks(WarmStartConfig(launch="serial", device="cpu")) as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)


def test_states_survive_the_byte_buffer():
    state = {
        "flag": torch.tensor([True, False, True]),
        "wide": torch.randn(3, dtype=torch.float64),
        "half": torch.randn(5).to(torch.bfloat16),
        "scalar": torch.tensor(2**60),
        "nothing": torch.empty(0),
        "image": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    again = _from_bytes(_to_bytes(state), state)
    assert list(again) == list(state)
    assert same(again, state)
    assert {name: value.dtype for name, value in again.items()} == {
        name: value.dtype for name, value in state.items()
    }


def test_a_rank_alone_exchanges_nothing():
    ranks = Ranks(0, 1, torch.device("cpu"))
    flat = torch.ones(3, dtype=torch.int64)
    assert ranks.exchange(lambda exchange: exchange.sum(flat, torch.int32), "sum") is flat
    assert ranks.everywhere(lambda: 5, "five") == [5]
    assert ranks.on_main(lambda: 6, "six") == 6
    assert ranks.bytes_communicated == 0
