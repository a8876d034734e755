"""What callers do between rounds, on two ranks; and a run in local processes to be stopped.

Usage: python -m torch.distributed.run --nproc-per-node 2 rounds_script.py DIRECTORY
       python rounds_script.py DIRECTORY, which waits for SIGTERM
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import torch
from warmstart_material import make_images, make_net

from lipt_cords.warmstart.warm_start import LiPTWarmStart

OPTIONS = {
    "num_workers": 2, "epochs": 3, "batch_size": 16, "common_steps": 3, "rounds": 3,
    "outer": "nesterov", "threads": 1, "worker_timeout": 3600.0, "progress": False,
}  # fmt: skip


def fit(on_round=None, **options):
    warm_start = LiPTWarmStart(**{**OPTIONS, **options})
    return warm_start.fit(make_net(), make_images(80), make_images(40, seed=1), on_round=on_round)


def meddle(report, state):
    """Takes the weights for its own model, goes on training it, and spoils the report."""
    model = make_net()
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.zero_()
    report.stability.clear()


def give_a_lock(report, state):
    return threading.Lock()


def raise_a_lock(report, state):
    raise ValueError(threading.Lock())


def touch_and_wait(directory, report, state):
    (directory / "first round").touch()
    while not (directory / "go on").exists():
        time.sleep(0.01)


def attempt(on_round):
    """The weights of a run with a callback, or its error."""
    try:
        return fit(on_round).state_dict
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def on_ranks(directory: Path) -> None:
    rank = os.environ["RANK"]
    own = directory / f"disk_{rank}"
    outcome = {
        "clean": fit(work_dir=own).state_dict,
        "disk": sorted(path.name for path in (own / "progress").glob("round_*")),
        "meddled": attempt(meddle),
        "on rank 0 alone": attempt(give_a_lock if rank == "0" else None),
        "lock": attempt(raise_a_lock),
        "no function": attempt(5),
    }
    (directory / f"rank_{rank}.pickle").write_bytes(pickle.dumps(outcome))


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        on_ranks(directory)
    else:
        fit(functools.partial(touch_and_wait, directory), processes=2, rounds=500, epochs=500)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
