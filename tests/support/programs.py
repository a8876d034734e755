"""Python programs in processes of their own, without seconds of imports for each.

A server imports torch and the package once and forks a process for every program. In it the
program finds its arguments, environment, folder and streams as after a start of Python. What is
said of imports, or of the start itself, needs a new interpreter.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
IMPORTED = (
    "torch._dynamo", "torch.distributed.launcher.api", "lipt_cords.cli.commands",
    "sklearn.datasets",
)  # fmt: skip
"""What most programs import; ``torch._dynamo`` is needed at the first step of an optimizer."""


def run_program(
    *words: object, ranks: int | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit code and what it said.

    Args:
        words: path of a script, or ``-m`` and a module; then its arguments.
        ranks: start it so many times, as torchrun does.
        cwd: the working directory.
        environment: variables beside those of this process.
    """
    told = list(map(str, words))
    variables = {**os.environ, **ONE_THREAD, **environment}
    if sys.platform != "linux":
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *(torchrun if ranks else []), *told]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        code = _asked(
            {
                "words": told, "ranks": ranks, "cwd": str(cwd or Path.cwd()),
                "environment": variables, "streams": [os.devnull, str(out), str(err)],
            }
        )  # fmt: skip
        return subprocess.CompletedProcess(told, code, out.read_text(), err.read_text())


def _asked(request: dict[str, Any]) -> int:
    """Have the server run a program; its exit code."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    try:
        print(json.dumps(request), file=server.stdin, flush=True)
        return int(server.stdout.readline())
    except BaseException:  # a time-out: the program may still run
        _server.cache_clear()
        _end(server)
        raise


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The server of this process, which is ended with it."""
    server = subprocess.Popen(
        [sys.executable, __file__], env={**os.environ, **ONE_THREAD}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    """End the server and its programs, however many processes hold its pipes open."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def serve() -> dict[str, Any] | None:
    """Fork a process for every request; None at the last one's end, and in a fork its request."""
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            return dict(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Be the program of a request."""
    for number, path in enumerate(request["streams"]):
        target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(target, number)
        os.close(target)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # as the environment says
    if request["ranks"] is None:
        run(request["words"])
        return
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=request["ranks"], run_id="program",
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
            monitor_interval=0.05, start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )  # fmt: skip
        elastic_launch(config, run_rank)(request["words"])


def run(words: list[str]) -> None:
    """Run a script or a module as the main program."""
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    first = str(Path.cwd() if module else Path(words[0]).resolve().parent)
    mine = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [first, *(one for one in mine if one and one not in sys.path[1:])]
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def run_rank(words: list[str]) -> None:
    """The same in a process of torch's agent, which waits for an answer even after exit code 0."""
    try:
        run(words)
    except SystemExit as error:
        if error.code:
            raise


if __name__ == "__main__":
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # what is collected in a fork would be copied
    if (asked := serve()) is not None:
        become(asked)
