"""Local processes for a warm start: they share its data, and end with it.

When a process is killed, all are ended and started again, and they continue from the finished
workers. An exception is not a crash: it is raised here, without a restart; and so is the silence of
a process that hangs or is stopped.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lipt_cords.base.files import remove_left_over
from lipt_cords.base.ownership import OURS, owned
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.registry import foreign_modules, import_modules
from lipt_cords.base.scratch import scratch_directory
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.one_rank import fit_on_this_rank
from lipt_cords.warmstart.prepare.checks import Request, data_length
from lipt_cords.warmstart.presets import cost_line, scaled
from lipt_cords.warmstart.progress import announce
from lipt_cords.warmstart.ranks.attempt import Attempt
from lipt_cords.warmstart.ranks.conversation import LostContact
from lipt_cords.warmstart.ranks.handed import Handed
from lipt_cords.warmstart.ranks.sigterm import stoppable
from lipt_cords.warmstart.ranks.watch_ranks import Verdict
from lipt_cords.warmstart.result import WarmStartResult

logger = logging.getLogger(__name__)


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
    _require_script([getattr(request, field.name) for field in fields(request)])
    samples = data_length(request.dataset, "training")
    options = scaled(config, samples, processes, model=request.model, shards=request.shards)
    if samples:  # else a rank refuses the data
        announce(cost_line(options, samples), config.progress)
    threads = config.threads or max(1, torch.get_num_threads() // processes)
    # The ranks log where finished workers are kept.
    with (
        stoppable("processes", log_place=False) as stop_request,
        nullcontext() if config.work_dir is None else owned(config.work_dir) as owners,
        scratch_directory("lipt-cords-fit-") as scratch,
    ):
        # Without a work_dir finished workers are kept until the processes end.
        work_dir = config.work_dir or scratch / "work"
        inner = config.model_copy(
            update={
                "launch": "torchrun",
                "processes": None,
                "work_dir": work_dir,
                "progress": False if config.progress is None else config.progress,
            }
        )
        handed = Handed(inner, threads, scratch, request, foreign_modules(), owners)
        for restarts in range(config.max_restarts + 1):
            last = restarts == config.max_restarts
            attempt = Attempt(inner, processes, _fit_as_rank, handed, (__name__,))
            try:
                verdict = attempt.run(stop_request.check, last=last)
            finally:
                remove_left_over(work_dir, *OURS)  # no rank is there to write
            if last or not verdict.crash:
                break
            logger.warning(
                "%s: all ranks are started again (%d of max_restarts=%d)",
                verdict.error, restarts + 1, config.max_restarts,
            )  # fmt: skip
        if verdict.answer is None:
            raise _last_word(verdict, config)
        return WarmStartResult.from_bytes(Path(verdict.answer).read_bytes(), request.model)


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


def _fit_as_rank(handed: Any, progress: Callable[[], None]) -> str | None:
    """Run one rank; the file of the result on rank 0."""
    config, threads, scratch, request, modules, owners = handed
    torch.set_num_threads(threads)
    keep_freed_memory()
    # A temporary work_dir is not the caller's; it is removed with the processes.
    temporary = config.work_dir.parent == scratch
    import_modules(modules)  # what the options name may be registered there
    result = fit_on_this_rank(
        config, request, temporary=temporary, owners=owners, on_progress=progress
    )
    progress()
    if os.environ["RANK"] != "0":
        return None
    path: Path = scratch / "result"
    path.write_bytes(result.to_bytes())
    return str(path)


def _last_word(verdict: Verdict, config: WarmStartConfig) -> Exception:
    """What to raise; a loss also says what was tried and what is kept."""
    error = verdict.error
    if error is None:
        return LostContact("the ranks ended without a result and without an error: run again")
    if not isinstance(error, LostContact):
        return error
    tried = f" on {config.max_restarts + 1} attempts (max_restarts)" if verdict.crash else ""
    kept = f"; what had finished is kept in {config.work_dir}" if config.work_dir else ""
    return LostContact(f"{error}{tried}{kept}")
