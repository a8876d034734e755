"""Between rounds: what callers may do there on one rank or two, and what is kept of a round."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from crashes import writing
from programs import run_program
from rounds_script import fit, give_a_lock, meddle
from torch import nn
from warmstart_material import make_images

from lipt_cords.warmstart.ranks.outcome import pack, unpack
from lipt_cords.warmstart.warm_start import LiPTWarmStart

SCRIPT = Path(__file__).parents[1] / "support" / "rounds_script.py"
PATHS = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])


class Crash(Exception):
    """Of a callback."""


class Stuck:
    """Cannot be pickled."""

    def __repr__(self):
        return "it stays here"

    def __reduce__(self):
        raise NotImplementedError


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def serial():
    return fit(launch="serial")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rounds")
    done = run_program(SCRIPT, directory, ranks=2, PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stdout + done.stderr
    return [pickle.loads((directory / f"rank_{r}.pickle").read_bytes()) for r in range(2)]


@pytest.mark.parametrize("on_round", [meddle, give_a_lock])
def test_a_callback_changes_nothing(serial, on_round):
    told = fit(on_round, launch="serial")
    assert same(told.state_dict, serial.state_dict)
    assert [one.stability for one in told.report.rounds] == [
        one.stability for one in serial.report.rounds
    ]


@pytest.mark.parametrize("name", ["clean", "meddled", "on rank 0 alone"])
def test_a_callback_changes_nothing_on_any_rank(serial, ranked, name):
    for outcome in ranked:
        assert same(outcome[name], serial.state_dict)


def test_an_error_that_cannot_be_pickled_keeps_its_message_and_no_rank_waits(ranked):
    # Who waited would do so for a worker_timeout of an hour.
    errors = [outcome["lock"] for outcome in ranked]
    assert errors[0].startswith("ValueError: <unlocked _thread.lock")
    assert errors[1].startswith("RuntimeError: ValueError: <unlocked _thread.lock")


def test_every_rank_forgets_the_rounds_on_its_own_disk(ranked):
    assert [outcome["disk"] for outcome in ranked] == [["round_00002"], ["round_00002"]]


def test_a_callback_that_is_no_function_is_refused_before_any_training(ranked):
    expected = "on_round must be a function of (RoundReport, state dict), or None, received 5"
    for outcome in ranked:
        assert outcome["no function"] == f"ValueError: {expected}"
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model[0].register_forward_hook(lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="on_round must be a function"):
        LiPTWarmStart(num_workers=2, launch="serial").fit(model, make_images(40), on_round=5)


def test_errors_that_every_process_can_read_are_left_as_they_are():
    for error in (ValueError("a", 1), FileNotFoundError(2, "gone", "there")):
        told = unpack(pack((None, error)))[1]
        assert (type(told), str(told)) == (type(error), str(error))
    for error, words in (
        (Crash("x"), "Crash: x"),
        (json.JSONDecodeError("torn", "{", 1), "JSONDecodeError: torn: line 1 column 2 (char 1)"),
        (ValueError(Stuck()), "ValueError: it stays here"),
    ):
        told = unpack(pack((None, error)))[1]
        assert (type(told), str(told)) == (RuntimeError, words)


def crashing(at):
    def on_round(report, state):
        if report.round == at:
            raise Crash

    return on_round


@pytest.mark.parametrize("options", [{}, {"soup": "greedy", "common_steps": 0}])
def test_a_resumed_run_has_the_whole_bill_and_says_where_it_went_on(tmp_path, options):
    whole, told = fit(launch="serial", **options), []
    with pytest.raises(Crash):
        fit(crashing(1), launch="serial", work_dir=tmp_path, **options)
    resumed = fit(
        lambda report, state: told.append(report.round),
        launch="serial", work_dir=tmp_path, **options,
    )  # fmt: skip
    for name in ("passes", "evaluation_passes", "refresh_passes", "forward_flops"):
        assert getattr(resumed.report, name) == getattr(whole.report, name), name
    assert same(resumed.state_dict, whole.state_dict)
    assert resumed.report.notes == [
        *whole.report.notes, "resumed after the merge of round 2 in work_dir",
    ]  # fmt: skip
    assert told == [2]  # a merge that is written is not announced again


def test_what_is_written_in_a_round_does_not_grow_with_their_number(tmp_path):
    sizes = []

    def weigh(report, state):
        root = tmp_path / "progress"
        files = [*root.glob(f"round_{report.round:05d}/merge.*")]
        files += [*root.glob(f"history/round_{report.round:05d}.*")]
        sizes.append(sum(path.stat().st_size for path in files))

    fit(weigh, launch="serial", work_dir=tmp_path, rounds=24, epochs=24)
    assert len(sizes) == 24
    assert sizes[-1] < sizes[2] + 200  # numbers with more digits


@pytest.mark.parametrize("name", ["history/round_00001", "round_00001/merge"])
@pytest.mark.parametrize("torn", [True, False])
def test_a_crash_or_a_full_disk_between_the_records_of_a_round(serial, tmp_path, name, torn):
    tried = []

    def failing(target):
        if target.with_suffix("") == tmp_path / "progress" / name:
            tried.append(target)
            raise Crash if torn else OSError(errno.ENOSPC, "No space left on device")

    with writing(failing), pytest.raises(Crash):
        fit(crashing(1), launch="serial", work_dir=tmp_path)
    assert tried
    resumed = fit(launch="serial", work_dir=tmp_path)
    assert same(resumed.state_dict, serial.state_dict)
    assert "resumed after the merge of round 1 in work_dir" in resumed.report.notes


def test_a_record_that_found_no_room_is_written_with_the_next_merge(serial, tmp_path):
    failed = []

    def failing(target):
        if target == tmp_path / "progress/history/round_00000.json" and not failed:
            failed.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")

    with writing(failing), pytest.raises(Crash):
        fit(crashing(1), launch="serial", work_dir=tmp_path)
    assert failed
    resumed = fit(launch="serial", work_dir=tmp_path)
    assert same(resumed.state_dict, serial.state_dict)
    assert [one.round for one in resumed.report.rounds] == [0, 1, 2]
    assert not [note for note in resumed.report.notes if "could not be written" in note]


@pytest.fixture
def interrupted(tmp_path):
    with pytest.raises(Crash):
        fit(crashing(1), launch="serial", work_dir=tmp_path)
    return tmp_path / "progress"


def test_a_missing_or_changed_record_of_a_round_is_named(interrupted):
    record = interrupted / "history/round_00000.json"
    text = record.read_text()
    record.write_text(text.replace('"kept": true', '"kept": false', 1))
    with pytest.raises(ValueError, match=r"round_00000\.json is truncated, damaged or changed"):
        fit(launch="serial", work_dir=interrupted.parent)
    record.unlink()
    with pytest.raises(ValueError) as refusal:
        fit(launch="serial", work_dir=interrupted.parent)
    assert str(refusal.value) == (
        f"{record} is missing, which the merge of round 2 needs: delete {interrupted} and run again"
    )


def test_folders_that_are_no_rounds_are_left_alone(serial, interrupted):
    for name in ("round_abc", "round_7", "round_00009x"):
        (interrupted / name).mkdir()
        (interrupted / name / "merge.json").write_text("{}")
    (interrupted / "round_00002").write_text("a file")
    resumed = fit(launch="serial", work_dir=interrupted.parent)
    assert same(resumed.state_dict, serial.state_dict)
    for name in ("round_abc", "round_7", "round_00009x"):
        assert (interrupted / name / "merge.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="signals are Linux's")
def test_processes_that_are_stopped_say_nothing_of_their_temporary_folder(tmp_path):
    temporary = Path(tempfile.mkdtemp(prefix="t"))  # short: a socket's path is limited
    with (tmp_path / "log").open("w") as log:
        variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path)],
            env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
        while not (tmp_path / "first round").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        (tmp_path / "go on").touch()
        code = process.wait()
    said = (tmp_path / "log").read_text()
    assert code == -signal.SIGTERM, said
    assert "finished workers are kept" not in said
    assert not [one for one in temporary.iterdir() if "torchinductor" not in one.name]
    shutil.rmtree(temporary)
