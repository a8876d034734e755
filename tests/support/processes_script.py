"""A user's script that fits in local processes; run as __main__, as spawning needs it.

Usage: python processes_script.py DIRECTORY
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from warmstart_material import make_images, make_net

from lipt_cords.warmstart.warm_start import LiPTWarmStart

OPTIONS = {
    "num_workers": 4, "epochs": 2, "batch_size": 16, "common_steps": 4, "rounds": 2,
    "keep_workers": True, "threads": 1, "log_samples": True,
}  # fmt: skip


class Deadly(Dataset):
    """Kills the second process that reads it, the first time."""

    def __init__(self, directory: Path) -> None:
        self.base, self.directory = make_images(160), directory

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index):
        if os.environ.get("RANK") == "1" and not (self.directory / "killed").exists():
            (self.directory / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.base[index]


class Disturbing(Dataset):
    """Disturbs the second process at its tenth read; the process that fits cannot be read in it."""

    def __init__(self, blow) -> None:
        self.base, self.blow, self.reads = make_images(160), blow, 0

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index):
        self.reads += 1
        if os.environ.get("RANK") == "1" and self.reads == 10:
            self.blow()
        return self.base[index]


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def leave() -> None:
    os._exit(0)


class Torn(Dataset):
    """Cannot be read in a process of its own."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index):
        if "RANK" in os.environ:
            raise ValueError("sample 9 is torn")
        return torch.zeros(1, 8, 8), index % 4


def fit(train, launch, **options):
    warm_start = LiPTWarmStart(**{**OPTIONS, **launch, **options})
    result = warm_start.fit(make_net(), train, make_images(80, seed=1))
    result.template = None
    return result


def message_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def main(directory: Path) -> None:
    two = {"processes": 2}
    outcome = {
        "serial": fit(make_images(160), {"launch": "serial"}),
        "two": fit(make_images(160), two),
        "three": fit(make_images(160), {"launch": "processes", "processes": 3}),
        "killed once": fit(Deadly(directory), two),
        "lambda": message_of(lambda: LiPTWarmStart(**OPTIONS, **two).fit(
            make_net(), make_images(160), loss=lambda logits, labels: logits.sum()
        )),
        "torn": message_of(lambda: fit(Torn(), two)),
    }  # fmt: skip
    open_files = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    outcome["stands still"] = message_of(
        lambda: fit(Disturbing(stand_still), two, worker_timeout=2.0)
    )
    outcome["leaves"] = message_of(lambda: fit(Disturbing(leave), two, max_restarts=0))
    (directory / "killed").unlink()
    outcome["killed too often"] = message_of(
        lambda: fit(Deadly(directory), two, max_restarts=0, work_dir=directory / "work")
    )
    outcome["same work_dir again"] = fit(
        Deadly(directory), two, max_restarts=0, work_dir=directory / "work"
    )
    if sys.platform == "linux":
        outcome["more open files"] = len(list(Path("/proc/self/fd").iterdir())) - open_files
        tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        names = [Path(f"/proc/{pid}/cmdline").read_text() for pid in tasks]
        outcome["children"] = [one for one in names if "multiprocessing" not in one]
        outcome["handlers"] = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    files = [one.name for one in Path(os.environ["TMPDIR"]).iterdir()]
    outcome["left"] = [one for one in files if "lipt-cords" in one or "elastic" in one]
    (directory / "outcome.pickle").write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
