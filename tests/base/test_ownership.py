"""One run at a time in a folder: the owner is named, and its lock dies with its process."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import ExitStack
from multiprocessing.synchronize import Event

import pytest
from holder import FORK, Other
from warmstart_material import make_images, make_net

from lipt_cords.base import files, locks, ownership
from lipt_cords.base.ownership import LOCK, owned, owns
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.demo import demo
from lipt_cords.experiments.run import fit_warm_start, run
from lipt_cords.experiments.select_once import select_once
from lipt_cords.training.subset import train_on_subset
from lipt_cords.warmstart.warm_start import LiPTWarmStart


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(ownership, "PATIENCE", 0.0)


def test_the_second_is_told_who_and_enters_when_the_first_has_ended(tmp_path):
    with Other(tmp_path) as other:
        with pytest.raises(ValueError, match="in use by another run") as refused, owned(tmp_path):
            pass
        said = str(refused.value)
        assert f"process {other.process.pid} on " in said and str(tmp_path) in said
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", said) and "test" in said
        os.kill(other.process.pid, signal.SIGSTOP)  # suspended, it still owns the folder
        with pytest.raises(ValueError, match="in use by another run"), owned(tmp_path):
            pass
        os.kill(other.process.pid, signal.SIGCONT)
        other.end()
        with owned(tmp_path):
            assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_owns_nothing_more_and_what_it_left_is_removed(tmp_path):
    with Other(tmp_path) as other:
        other.process.kill()
        other.process.join()
    assert (tmp_path / LOCK).exists()
    left = [tmp_path / ".lipt-cords.a.json.00000000.tmp"]
    left.append(tmp_path / "progress/round_00000/.lipt-cords.b.json.00000001.tmp")
    left[1].parent.mkdir(parents=True)
    others = [tmp_path / ".a.json.x8", tmp_path / "other/.lipt-cords.a.00000002.tmp"]
    others[1].parent.mkdir()
    for path in left + others:
        path.write_text("half")
    with owned(tmp_path):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in others)
    assert not (tmp_path / LOCK).exists()


def begin_and_wait(begun: Event, end: Event) -> None:
    begun.set()
    end.wait()


def test_children_keep_no_folder_for_their_parent(tmp_path):
    """Neither forked ones, nor those of ``multiprocessing`` and ``subprocess``."""
    begun, end = FORK.Event(), FORK.Event()
    with owned(tmp_path):
        child = FORK.Process(target=begin_and_wait, args=(begun, end))
        child.start()
        begun.wait()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as other:
            (held,) = ownership._held.values()
            ownership._close(held.descriptor)  # as if this process were killed now
            held.descriptor = None
            try:
                descriptor = os.open(tmp_path / LOCK, os.O_RDWR)
                assert locks.try_lock(descriptor)
                os.close(descriptor)
            finally:
                other.stdin.close()
                end.set()
                child.join()
    assert child.exitcode == 0


def test_a_forked_child_that_leaves_the_block_takes_nothing_from_its_parent(tmp_path):
    def leave(block: ExitStack) -> None:
        block.close()
        assert not ownership._held

    with ExitStack() as block:
        block.enter_context(owned(tmp_path))
        child = FORK.Process(target=leave, args=(block,))
        child.start()
        child.join()
        assert child.exitcode == 0 and (tmp_path / LOCK).exists()
        with pytest.raises(EOFError):
            Other(tmp_path)  # it is refused and ends


def test_one_thread_may_enter_again_and_another_may_not(tmp_path):
    link = tmp_path / "link"
    (tmp_path / "folder").mkdir()
    link.symlink_to(tmp_path / "folder")
    refused: list[str] = []

    def enter() -> None:
        try:
            with owned(link):
                pass
        except ValueError as error:
            refused.append(str(error))

    with owned(tmp_path / "folder") as first, owned(link) as second:
        assert first == second
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        (said,) = refused
        assert f"process {os.getpid()} " in said
    enter()
    assert len(refused) == 1


def test_processes_of_one_run_own_a_folder_together(tmp_path):
    with owned(tmp_path) as token:
        with Other(tmp_path, token) as rank:
            assert rank.token == token
            with pytest.raises(EOFError):
                Other(tmp_path, "of another run")  # it is refused and ends
            rank.end()
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_last_of_one_run_keeps_the_folder(tmp_path):
    with Other(tmp_path) as first, Other(tmp_path, first.token) as rank:
        first.end()
        with pytest.raises(ValueError, match=rf"process {rank.process.pid} "), owned(tmp_path):
            pass
        rank.end()
        with owned(tmp_path):
            pass


def test_a_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(logging.getLogger("lipt_cords"), "propagate", True)
    with caplog.at_level("WARNING", logger="lipt_cords"), owned(tmp_path):
        assert "has no locks (No locks available)" in caplog.text
        files.write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_without_shared_locks_the_token_alone_tells_who_belongs_together(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(ownership, "SHARES", False)
    with Other(tmp_path) as first:  # others here see a shared lock as an exclusive one
        with owned(tmp_path, first.token) as token:
            assert token == first.token
        with pytest.raises(ValueError, match="in use by another run"), owned(tmp_path, "mine"):
            pass
        first.end()
    with owned(tmp_path), pytest.raises(EOFError):
        Other(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_function_owns_the_folder_that_its_argument_names(tmp_path):
    @owns("output")
    def work(output: object = None) -> bool:
        return (tmp_path / LOCK).exists()

    assert work(tmp_path) and work(output=tmp_path) and not work()
    with pytest.raises(TypeError, match=r"work\(\) got an unexpected keyword argument 'outptu'"):
        work(outptu=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_kind_of_error_is_not_hidden(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"), owned(tmp_path):
        pass
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="Input/output"):
        locks.try_lock(file.fileno())


def test_a_folder_that_vanishes_meanwhile_ends_quietly(tmp_path):
    with owned(tmp_path / "gone"):
        shutil.rmtree(tmp_path / "gone")


def test_every_call_that_writes_a_folder_refuses_one_that_another_run_owns(tmp_path):
    data, net = make_images(32), make_net()
    warm_start = LiPTWarmStart(
        num_workers=2, epochs=1, common_steps=1, batch_size=8, launch="serial"
    )
    result = warm_start.fit(net, data)
    config = RunConfig()
    calls = [
        lambda: train_on_subset(net, data, [0, 1], epochs=1, checkpoint_dir=tmp_path),
        lambda: LiPTWarmStart(warm_start.config.model_copy(update={"work_dir": tmp_path})).fit(
            net, data
        ),
        lambda: LiPTWarmStart(num_workers=2, processes=2, work_dir=tmp_path).fit(net, data),
        lambda: result.save(tmp_path),
        lambda: run(config, output=tmp_path),
        lambda: compare(config, output=tmp_path),
        lambda: select_once(config, output=tmp_path),
        lambda: fit_warm_start(config, output=tmp_path),
        lambda: demo(tmp_path),
    ]
    with Other(tmp_path) as other:
        for call in calls:
            with pytest.raises(ValueError, match=rf"in use .*process {other.process.pid} on "):
                call()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        other.end()
    result.save(tmp_path)
    train_on_subset(net, data, [0, 1], epochs=1, checkpoint_dir=tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_new_folder_that_stays_empty_is_removed_again(tmp_path):
    deep = tmp_path / "runs" / "one"
    with pytest.raises(ValueError, match="refused"), owned(deep):
        raise ValueError("refused")
    assert not (tmp_path / "runs").exists()
    with owned(deep):
        (deep / "result").touch()
    assert (deep / "result").exists()
    (tmp_path / "mine").mkdir()
    with owned(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()
