"""Local processes: equal bits, deaths survived, errors passed on, nothing left."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program
from warmstart_material import same_log

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks import launch
from lipt_cords.warmstart.ranks.launch import local_processes

SCRIPT = Path(__file__).parents[1] / "support" / "processes_script.py"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    (directory / "tmp").mkdir()
    paths = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])
    done = run_program(SCRIPT, directory, PYTHONPATH=paths, TMPDIR=str(directory / "tmp"))
    assert done.returncode == 0, done.stderr
    return pickle.loads((directory / "outcome.pickle").read_bytes())


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "ranks"), [("two", 2), ("three", 3), ("killed once", 2), ("same work_dir again", 2)]
)
def test_processes_give_the_bits_of_a_serial_run(outcome, name, ranks):
    result, expected = outcome[name], outcome["serial"]
    assert result.report.ranks == ranks
    assert same(result.state_dict, expected.state_dict)
    pairs = zip(result.worker_states, expected.worker_states, strict=True)
    assert all(same(mine, theirs) for mine, theirs in pairs)
    assert result.report.passes == expected.report.passes
    assert same_log(result.dynamics, expected.dynamics)


def test_what_a_process_raises_is_raised_here(outcome):
    assert outcome["torn"] == "ValueError: sample 9 is torn"


def test_what_cannot_be_handed_over_is_explained(outcome):
    assert outcome["lambda"].startswith("ValueError: launch='processes' must hand model, data")


def test_too_many_deaths_are_told_with_what_to_do(outcome):
    message = outcome["killed too often"]
    assert re.match(r"LostContact: rank 1 \(pid \d+\) was killed by SIGKILL", message)
    assert "on 1 attempts (max_restarts); what had finished is kept in" in message


def test_a_process_that_stands_still_ends_the_fit_within_the_timeout(outcome):
    expected = r"LostContact: rank 1 \(pid \d+\) stands still .*: no progress for 2 s"
    assert re.match(expected, outcome["stands still"])


def test_a_process_that_ends_with_0_before_its_work_is_done_has_died(outcome):
    expected = r"LostContact: rank 1 \(pid \d+\) ended with exit code 0 before its work was done"
    assert re.match(expected, outcome["leaves"])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_nothing_is_left_of_all_these_fits(outcome):
    assert outcome["more open files"] == 0
    assert outcome["children"] == []
    assert outcome["left"] == []
    assert outcome["handlers"]  # signals have the effect that they had


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"launch": "serial"}, None),
        ({"processes": 3}, 3),
        ({"processes": 20}, 20),
        ({"launch": "processes", "processes": 1}, 1),
        ({"launch": "processes", "num_workers": 1}, 1),
    ],
)
def test_how_many_processes_are_started(monkeypatch, options, expected):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "accelerator_count", lambda: 0)
    assert local_processes(WarmStartConfig(**options)) == expected


def test_auto_takes_a_process_for_each_accelerator(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "accelerator_count", lambda: 4)
    assert local_processes(WarmStartConfig()) == 4
    assert local_processes(WarmStartConfig(num_workers=3)) == 3
    for options in ({"device": "cpu"}, {"device": "cuda:1"}, {"launch": "serial"}):
        assert local_processes(WarmStartConfig(**options)) is None
