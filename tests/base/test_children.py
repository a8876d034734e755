"""Processes that we start end with their parent, and can always be ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lipt_cords.base import children

SCRIPT = f"""
    import multiprocessing, os, signal, sys, time
    sys.path.insert(0, {str(Path(children.__file__).parent)!r})  # alone, it imports at once
    from children import end_with_parent

    def stay(sender, stop):
        end_with_parent()
        sender.send((stop, os.getpid()))
        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        receiver, sender = context.Pipe(duplex=False)
        for stop in (False, sys.platform == "linux"):
            context.Process(target=stay, args=(sender, stop)).start()
        if os.fork() == 0:  # a copy of the parent, which holds its pipes open
            time.sleep(1000)
        said = sorted([receiver.recv(), receiver.recv()])  # the stopped one last
        print(*(pid for stop, pid in said), flush=True)
        time.sleep(1000)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not state.stdout.strip() or state.stdout.strip().startswith("Z")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_killed_parent_leaves_no_child_running_or_stopped(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    parent = subprocess.Popen(
        [sys.executable, str(script), method],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2 and not any(map(gone, pids))
        parent.kill()
        parent.wait()
        # The fork server waits for the copy of the parent too, so only the children's own watch
        # and, for stopped ones, the kernel's can end them.
        alive = pids[: 1 if method == "forkserver" else 2]
        while not all(map(gone, alive)):
            time.sleep(0.05)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(1000)


def test_a_process_that_ignores_sigterm_or_stands_still_is_ended() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    context = multiprocessing.get_context("fork")
    deaf_one, stopped = (
        context.Process(target=deaf),
        context.Process(target=time.sleep, args=(1000,)),
    )
    try:
        stopped.start()
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        deaf_one.start()
        while not heard:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGUSR1, before)
    pids = [deaf_one.pid, stopped.pid]
    children.end_all([deaf_one, stopped], 0.1)
    assert all(gone(pid) for pid in pids if pid is not None)


def test_processes_are_ended_even_if_the_wait_for_them_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    process.start()
    pid, join, waits = process.pid, process.join, []

    def interrupted(timeout: float | None = None) -> None:
        waits.append(timeout)
        if len(waits) == 1:
            raise KeyboardInterrupt
        join(timeout)

    monkeypatch.setattr(process, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.end_all([process], 10.0, ask=False)
    assert pid is not None and gone(pid)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL (often by too little memory)"),
        (-11, "was killed by SIGSEGV"),
        (-250, "was killed by signal 250"),
    ],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert children.how_it_ended(code) == words
