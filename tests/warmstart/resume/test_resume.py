"""An interrupted warm start is resumed with the same bits, and merges nothing else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from crashes import Killed, Trainings
from torch.utils.data import Dataset
from warmstart_material import make_images, make_net, same_log

from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.warm_start import LiPTWarmStart

SMALL = {
    "num_workers": 4, "epochs": 3, "batch_size": 16, "common_steps": 3, "launch": "serial",
    "rounds": 3, "outer": "nesterov", "probe_every": 1,
}  # fmt: skip


def fit(work_dir=None, on_round=None, **options):
    warm_start = LiPTWarmStart(**{**SMALL, **options}, work_dir=work_dir)
    return warm_start.fit(make_net(), make_images(160), make_images(80, seed=1), on_round=on_round)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def crash(work_dir, workers, **options):
    """Let a run die when so many workers are finished and the next has begun."""
    with Trainings(die_in=1 + workers), pytest.raises(Killed):  # after the common start
        fit(work_dir, **options)


@pytest.fixture(scope="module")
def whole():
    return fit(keep_workers=True, log_samples=True)


@pytest.mark.parametrize("finished", [0, 1, 4, 6, 11])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(whole, tmp_path, finished):
    crash(tmp_path, finished, keep_workers=True, log_samples=True)
    with Trainings() as trained:
        resumed = fit(tmp_path, keep_workers=True, log_samples=True)
    # Neither the common start nor a finished worker is trained again.
    assert trained.begun == 12 - finished
    assert trained.steps == 3 * trained.begun
    assert same(resumed.state_dict, whole.state_dict)
    assert same(resumed.theta_star, whole.theta_star)
    pairs = zip(resumed.worker_states, whole.worker_states, strict=True)
    assert all(same(mine, theirs) for mine, theirs in pairs)
    assert same_log(resumed.dynamics, whole.dynamics)
    for name in ("passes", "critical_path_passes", "evaluation_passes", "merged_accuracy"):
        assert getattr(resumed.report, name) == getattr(whole.report, name), name
    assert [one.stability for one in resumed.report.rounds] == [
        one.stability for one in whole.report.rounds
    ]
    found = [note for note in resumed.report.notes if "not trained again" in note]
    assert bool(found) == (finished % 4 != 0)


@pytest.mark.parametrize("finished", [4, 6, 8])
def test_what_a_codec_has_not_sent_yet_is_part_of_a_worker_on_disk(tmp_path, finished):
    undisturbed = fit(codec="int4")
    crash(tmp_path, finished, codec="int4")
    resumed = fit(tmp_path, codec="int4")
    assert same(resumed.state_dict, undisturbed.state_dict)
    assert not same(undisturbed.state_dict, fit().state_dict)


def test_a_missing_residual_is_refused_by_name(tmp_path):
    crash(tmp_path, 6, codec="int4")
    (place,) = (tmp_path / "progress").glob("round_*/residual_00002.json")
    place.unlink()
    with pytest.raises(
        ValueError, match=r"residual_00002.json is missing.*not sent yet of worker 2"
    ):
        fit(tmp_path, codec="int4")


def test_a_merge_whose_residuals_found_no_room_is_not_resumed_from(tmp_path, monkeypatch):
    undisturbed = fit(codec="int4")
    write = RunFolder.keep

    def full(self, name, *args):
        return False if name == "round_00001/residual_00003" else write(self, name, *args)

    monkeypatch.setattr(RunFolder, "keep", full)
    crash(tmp_path, 9, codec="int4")
    monkeypatch.undo()
    with Trainings() as trained:
        resumed = fit(tmp_path, codec="int4")
    assert trained.begun == 3  # the second merge is made again, from its stored workers
    assert same(resumed.state_dict, undisturbed.state_dict)


def test_a_finished_run_is_read_again(whole, tmp_path):
    fit(tmp_path)
    with Trainings() as trained:
        again = fit(tmp_path)
    assert trained.begun == trained.steps == 0
    assert same(again.state_dict, whole.state_dict)
    assert again.report.passes == whole.report.passes


def test_a_run_that_died_after_its_last_merge_still_has_its_workers(whole, tmp_path):
    def dying(report, state):
        if report.round == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(tmp_path, dying, keep_workers=True, log_samples=True)
    with Trainings() as trained:
        resumed = fit(tmp_path, keep_workers=True, log_samples=True)
    assert trained.begun == 0
    assert same_log(resumed.dynamics, whole.dynamics)
    pairs = zip(resumed.worker_states, whole.worker_states, strict=True)
    assert all(same(mine, theirs) for mine, theirs in pairs)
    assert same(resumed.state_dict, whole.state_dict)


def test_a_stop_lowers_the_rate_and_ends_the_rounds_early_with_the_same_bits_after_a_crash(
    tmp_path,
):
    options = {
        "rounds": 12, "epochs": 12, "schedule": "wsd", "stop_when": {"merged_loss": 1e9},
        "probe_every": 3,
    }  # fmt: skip
    stopped = fit(**options)
    # It holds after three rounds and after six; a third of six follows.
    assert [one.round for one in stopped.report.rounds] == list(range(8))
    assert stopped.report.stopped_early
    assert stopped.report.merged_accuracy is not None
    crash(tmp_path, 25, **options)
    assert same(fit(tmp_path, **options).state_dict, stopped.state_dict)
    at_once = fit(**{**options, "schedule": "constant"})
    assert len(at_once.report.rounds) == 6
    assert not same(at_once.state_dict, stopped.state_dict)


def test_only_the_last_round_and_small_records_are_kept_on_disk(tmp_path):
    fit(tmp_path)
    assert sorted(path.name for path in (tmp_path / "progress").iterdir()) == [
        "history", "round_00002", "run.json", "theta_star.json", "theta_star.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "progress/history").iterdir()) == [
        "round_00000.json", "round_00001.json", "round_00002.json",
    ]  # fmt: skip


@pytest.fixture
def interrupted(tmp_path):
    """A work_dir in which two workers of the first round are finished."""
    crash(tmp_path, 2)
    return tmp_path


def test_a_truncated_worker_is_refused_by_name(interrupted):
    path = interrupted / "progress/round_00000/worker_00001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"worker_00001.safetensors is not"):
        fit(interrupted)


def test_a_changed_worker_is_refused_by_name(interrupted):
    path = interrupted / "progress/round_00000/worker_00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"worker_00001.safetensors is not what worker_00001.json"):
        fit(interrupted)


def test_a_worker_of_another_run_is_refused_by_name(interrupted, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    crash(other, 2, lr=0.01)
    for name in ("worker_00001.safetensors", "worker_00001.json"):
        place = f"progress/round_00000/{name}"
        shutil.copy(other / place, interrupted / place)
    with pytest.raises(ValueError, match=r"worker_00001.json is of another run"):
        fit(interrupted)


def test_another_configuration_in_the_same_work_dir_is_refused(interrupted):
    with pytest.raises(ValueError, match=r"belongs to another run \(lr is 0.05 there and 0.01 her"):
        fit(interrupted, lr=0.01)
    with pytest.raises(ValueError, match=r"log_samples is False there and True here"):
        fit(interrupted, log_samples=True)  # the finished workers have no log
    fit(interrupted, keep_workers=True, min_workers=2)  # these change no weights


def test_a_worker_that_ended_in_nan_stays_out_after_a_resume(tmp_path):
    class Huge(Dataset):
        """One shard's images are so large that its worker diverges."""

        def __init__(self, shard):
            self.base, self.shard = make_images(160), set(shard.tolist())

        def __len__(self):
            return len(self.base)

        def __getitem__(self, index):
            image, label = self.base[index]
            return image * (1e30 if index in self.shard else 1.0), int(label)

    shards = [torch.arange(worker, 160, 4) for worker in range(4)]
    options = {**SMALL, "rounds": 1, "work_dir": tmp_path, "common_steps": 0}

    def run():
        return LiPTWarmStart(**options).fit(make_net(), Huge(shards[2]), shards=shards)

    first = run()
    with Trainings() as trained:
        second = run()
    assert trained.begun == 0
    for result in (first, second):
        assert [one.kept for one in result.report.workers] == [True, True, False, True]
        assert any("worker 2 is not in the soup" in note for note in result.report.notes)
    assert same(first.state_dict, second.state_dict)


def test_records_are_plain_json_without_local_paths(interrupted):
    for path in interrupted.rglob("*.json"):
        text = path.read_text()
        json.loads(text)
        assert str(interrupted) not in text
