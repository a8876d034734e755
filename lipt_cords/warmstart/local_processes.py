"""Local processes for a warm start, started and watched by torch's elastic agent.

The agent is the one behind ``torchrun``: when a process is killed, it stops the others and starts
all of them again, and they continue from the finished workers. An exception is not a crash: it is
raised here, without a restart.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lipt_cords.base.ownership import owned
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.registry import foreign_modules, import_modules
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.prepare.checks import Request
from lipt_cords.warmstart.ranks.conversation import LostContact
from lipt_cords.warmstart.ranks.ranks import portable
from lipt_cords.warmstart.ranks.sigterm import Interrupted
from lipt_cords.warmstart.result import WarmStartResult

logger = logging.getLogger(__name__)

LOADED_LATE = ("torch._dynamo", "torch.utils.flop_counter", "torchvision.transforms.v2")
"""Modules that torch imports at the first step of every process, which takes seconds."""


def fit_in_processes(config: WarmStartConfig, processes: int, request: Request) -> WarmStartResult:
    """Fit in local processes, and return their result.

    They are new Python processes: tensors are shared with them, not copied, and they open files
    themselves. CPU threads are divided among them.

    Args:
        config: the options.
        processes: how many.
        request: the arguments of the fit.

    Raises:
        ValueError: an argument cannot be handed to another process; or what the fit raised.
        LostContact: processes were killed more often than ``max_restarts`` allows.
    """
    if multiprocessing.parent_process() is not None and multiprocessing.current_process().daemon:
        raise ValueError("launch='processes' cannot start processes from a daemon: use 'serial'")
    threads = config.threads or max(1, torch.get_num_threads() // processes)
    with (
        nullcontext() if config.work_dir is None else owned(config.work_dir) as owners,
        tempfile.TemporaryDirectory(prefix="lipt-cords-") as scratch,
    ):
        # Without a work_dir finished workers are kept until the processes end.
        inner = config.model_copy(
            update={
                "launch": "torchrun",
                "processes": None,
                "work_dir": config.work_dir or Path(scratch) / "work",
                "progress": False if config.progress is None else config.progress,
            }
        )
        handed = (inner, threads, scratch, request, foreign_modules(), owners)
        _require_script([getattr(request, field.name) for field in fields(request)])
        _require_picklable(handed)
        try:
            launched = elastic_launch(_launch_config(config, processes), _fit_as_rank)
            outcomes = launched(*handed)
        except ChildFailedError as error:
            raise LostContact(_what_died(error, config)) from None
        except SignalException as signal_sent:
            raise Interrupted(f"stopped by {signal.Signals(signal_sent.sigval).name}") from None
        answer, raised = pickle.loads(outcomes[0])
        if raised is not None:
            raise raised
        return WarmStartResult.from_bytes(Path(answer).read_bytes(), request.model)


def _require_script(handed: Sequence[Any]) -> None:
    """Check that the main module is a file that new processes can import once more."""
    main = sys.modules["__main__"]
    path, alone = getattr(main, "__file__", None), "or set launch='serial'"
    if path is None:
        own = [type(one).__name__ for one in handed if type(one).__module__ == "__main__"]
        if own:
            raise ValueError(
                f"launch='processes' needs {own[0]} in a module that new processes can import, and "
                f"it was defined at a prompt or in a notebook: move it to a file, {alone}"
            )
    elif not Path(path).is_file():
        raise ValueError(
            f"launch='processes' starts processes that import the script, and {path} is not a "
            f"file: save the script, {alone}"
        )
    elif "__main__" not in Path(path).read_text(errors="replace"):
        raise ValueError(
            f"launch='processes' starts processes that import {path}, which would call fit again "
            f"in each of them: put the call under `if __name__ == '__main__':`, {alone}"
        )


def _require_picklable(handed: tuple[Any, ...]) -> None:
    try:
        ForkingPickler.dumps(handed)
    except (AttributeError, pickle.PicklingError, TypeError) as error:
        raise ValueError(
            f"launch='processes' must hand model, data and loss to new processes, and cannot: "
            f"{error}. Define their classes and functions in a module, without lambdas; or set "
            "launch='serial', or run the script under torchrun"
        ) from error


def _start_method() -> str:
    """A server that imports torch once and forks, where there is one; it holds no threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload([__name__, *LOADED_LATE])
    return "forkserver"


def _launch_config(config: WarmStartConfig, processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"lipt-cords-{uuid.uuid4().hex[:8]}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=config.max_restarts,
        monitor_interval=0.1,
        start_method=_start_method(),
    )


def _fit_as_rank(
    config: WarmStartConfig,
    threads: int,
    scratch: str,
    request: Request,
    modules: list[str],
    owners: str | None,
) -> bytes:
    """Run one rank; an error is returned, because only a crash is worth a restart."""
    from lipt_cords.warmstart.one_rank import fit_on_this_rank

    torch.set_num_threads(threads)
    keep_freed_memory()
    # A temporary work_dir is not the caller's; it is removed with the processes.
    temporary = config.work_dir is not None and config.work_dir.parent == Path(scratch)
    try:
        import_modules(modules)  # what the options name may be registered there
        result = fit_on_this_rank(config, request, temporary=temporary, owners=owners)
    except LostContact as error:
        return pickle.dumps((None, error))
    except Exception as error:
        return pickle.dumps((None, portable(error)))
    if os.environ["RANK"] != "0":
        return pickle.dumps((None, None))
    path = Path(scratch) / "result.pickle"
    path.write_bytes(result.to_bytes())
    return pickle.dumps((str(path), None))


def _what_died(error: ChildFailedError, config: WarmStartConfig) -> str:
    rank, failure = next(iter(error.failures.items()))
    kept = f"; finished workers are kept in {config.work_dir}" if config.work_dir else ""
    return (
        f"local rank {rank} died (exit code {failure.exitcode}) more often than max_restarts="
        f"{config.max_restarts} allows: look at the output above (a script that starts processes "
        f"needs `if __name__ == '__main__':`, and a code of -9 often means too little memory)"
        f"{kept}"
    )
