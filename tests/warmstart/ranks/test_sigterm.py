"""SIGTERM waits for a good place to stop, and then has the effect that it had before."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from lipt_cords.warmstart.ranks import sigterm as interrupt
from lipt_cords.warmstart.ranks.sigterm import Interrupted, stoppable

MESSAGE = "stopped by SIGTERM; what had finished is kept in {}: run the same command to resume"


@pytest.fixture
def heard():
    """SIGTERM is noted by a handler of the caller's while a test runs."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_the_process_finishes_its_step_and_dies_of_the_signal():
    # By its path: the package around it takes seconds to import, and the module needs none of it.
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(interrupt.__file__).parent)!r})
        from sigterm import stoppable
        with stoppable("a folder") as stop_request:
            for step in range(5):
                stop_request.check()
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                print("finished", step, flush=True)
        print("never said", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.splitlines() == ["finished 0", "finished 1", "finished 2"]
    assert done.stderr.splitlines() == [MESSAGE.format("a folder")]


def test_a_forked_process_leaves_what_belongs_to_the_one_that_forked_it():
    script = f"""
        import os, signal, sys, tempfile
        sys.path.insert(0, {str(Path(interrupt.__file__).parent)!r})
        from sigterm import stoppable
        with tempfile.TemporaryDirectory() as folder:
            pid = os.fork()
            if pid == 0:
                with stoppable("a folder") as stop_request:
                    signal.raise_signal(signal.SIGTERM)
                    stop_request.check()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(code, os.path.isdir(folder))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.stdout.split() == [str(-signal.SIGTERM), "True"]


def test_the_callers_handler_is_put_back_and_hears_of_it(heard, caplog):
    handler = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(Interrupted, match="stopped by SIGTERM") as stop,
        stoppable("here") as stop_request,
    ):
        signal.raise_signal(signal.SIGTERM)
        assert stop_request.requested and heard == []
        stop_request.check()
    assert stop.value.code == 143
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert caplog.messages == [MESSAGE.format("here")]


def test_without_a_signal_nothing_happens(heard, caplog):
    handler = signal.getsignal(signal.SIGTERM)
    with stoppable("here") as stop_request:
        stop_request.check()
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    assert heard == [] and caplog.messages == []


def test_a_signal_after_the_last_check_lets_the_work_end_and_is_passed_on(heard, caplog):
    with stoppable("here"):
        signal.raise_signal(signal.SIGTERM)
        finished = True
    assert finished and heard == [signal.SIGTERM]
    assert caplog.messages == []


def test_errors_of_the_work_pass_and_the_handler_is_put_back(heard):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="of the work"), stoppable("here"):
        raise ValueError("of the work")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_one_inside_of_another_stops_both(heard, caplog):
    with pytest.raises(Interrupted), stoppable("outer") as outer:
        with pytest.raises(Interrupted), stoppable("inner") as inner:
            signal.raise_signal(signal.SIGTERM)
            assert not outer.requested
            inner.check()
        assert outer.requested and heard == []
        outer.check()
    assert heard == [signal.SIGTERM]


def test_without_a_place_for_finished_work_nothing_is_changed(heard):
    handler = signal.getsignal(signal.SIGTERM)
    with stoppable(None) as stop_request:
        assert signal.getsignal(signal.SIGTERM) is handler
        signal.raise_signal(signal.SIGTERM)
        stop_request.check()
    assert heard == [signal.SIGTERM]


def test_other_threads_change_nothing(heard):
    handler, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stoppable("here") as stop_request:
            seen.append(signal.getsignal(signal.SIGTERM))
            stop_request.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_it_is_no_exception_that_work_may_swallow():
    assert issubclass(Interrupted, SystemExit)
    assert not issubclass(Interrupted, Exception)
    assert str(Interrupted("stopped by SIGTERM")) == "stopped by SIGTERM"
