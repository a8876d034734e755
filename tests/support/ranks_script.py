"""What every rank of the launcher's tests runs: several fits, their results written by rank.

Usage: python ranks_script.py DIRECTORY SIZE [SIZE ...]

One process imports everything, for seconds, and forks an agent for each size, the real one behind
torchrun, which forks its ranks.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import torch
import torch._dynamo  # at the first step torch would import it, in every rank
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from warmstart_material import Streamed, make_images, make_net

from lipt_cords.warmstart.merge.codecs import exact, register_codec
from lipt_cords.warmstart.merge.outer import register_outer
from lipt_cords.warmstart.merge.soup import register_soup
from lipt_cords.warmstart.warm_start import LiPTWarmStart

COMMON = {"num_workers": 4, "epochs": 2, "batch_size": 16, "common_steps": 4, "keep_workers": True}
FITS = {
    "uniform": {"batchnorm_refresh": "never"},
    "refreshed": {"augmentation": "randaugment", "batchnorm_refresh": "always"},
    "greedy": {"soup": "greedy"},
    "weighted": {"soup": "weighted", "sparsity": "snip", "densities": "erk"},
    "rounds": {
        "rounds": 3, "outer": "nesterov", "schedule": "cosine", "ema": 0.9, "log_samples": True,
    },
    "int8": {"rounds": 3, "codec": "int8", "outer": "nesterov"},
    "int4": {"rounds": 2, "codec": "int4", "soup": "weighted"},
}  # fmt: skip


START = "fork" if sys.platform == "linux" else "spawn"


class Rare(Streamed):
    """Noise in three items alone, which no probe of the whole set happens to read."""

    def __getitem__(self, index):
        noisy = super().__getitem__(index)
        return noisy if index in (3, 77, 112) else (self.base[index][0], noisy[1])


def fit(options, launch, work_dir=None, form=Streamed):
    """One fit; the ranks start from different weights, of which rank 0's must win."""
    net = make_net(int(os.environ.get("RANK", 0)))
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    train, val = form(make_images(160)), make_images(80, seed=1)
    options = {**COMMON, **options, "launch": launch, "work_dir": work_dir}
    result = LiPTWarmStart(**options).fit(net, train, val)
    result.template = None
    return result, sorted(set(train.read))


def message_of(work):
    """The error of some work, in words."""
    try:
        work()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def bad_shard():
    """A NaN that one worker alone, hence one rank, reads."""
    data = make_images(160)
    data.tensors[0][0] = float("nan")
    LiPTWarmStart(**{**COMMON, "common_steps": 0}).fit(make_net(), data)


def other_inputs(rank):
    """The ranks have the same labels, but inputs of their own."""
    data = make_images(160)
    data.tensors[0].mul_(1 + rank)
    LiPTWarmStart(**COMMON).fit(make_net(), data)


def other_loss(rank):
    """The ranks have losses of one name, but of different values."""
    losses = [lambda x, y: F.cross_entropy(x, y), lambda x, y: -F.cross_entropy(x, y)]
    LiPTWarmStart(**COMMON).fit(make_net(), make_images(160), loss=losses[min(rank, 1)])


def bad_held_out():
    """Held-out data that the last rank alone cannot read."""

    class Torn(Streamed):
        def __getitem__(self, index):
            if index == 9 and dist.get_rank() == dist.get_world_size() - 1:
                raise ValueError("sample 9 is torn")
            return super().__getitem__(index)

    LiPTWarmStart(**COMMON).fit(make_net(), make_images(160), Torn(make_images(40)))


def torn_on_one(rank):
    """A codec that the last rank alone cannot run."""

    @register_codec("torn on one")
    def torn(origin, members, wire):
        if rank == dist.get_world_size() - 1:
            raise RuntimeError("my codec is torn")
        return exact(origin, members, wire)

    LiPTWarmStart(**COMMON, codec="torn on one").fit(make_net(), make_images(160))


def other_merge(rank, kind):
    """A codec or an outer step that gives other weights on every rank."""

    def moved(state):
        return {n: v + rank if v.is_floating_point() else v for n, v in state.items()}

    @register_codec(f"other {kind}")
    def codec(origin, members, wire):
        return moved(exact(origin, members, wire))

    @register_outer(f"other {kind}")
    def outer(start, average, memory, *, trained, config):
        return moved(average)

    LiPTWarmStart(**COMMON, **{kind: f"other {kind}"}).fit(make_net(), make_images(160))


def random_soup():
    """A soup of other workers on every rank."""

    @register_soup("random soup")
    def one_of_them(workers):
        return [dist.get_rank()]

    LiPTWarmStart(**COMMON, soup="random soup").fit(make_net(), make_images(160))


def random_trials_of_workers():
    """A soup that tries other workers on every rank."""

    @register_soup("random trials", needs_validation=True)
    def random_trials(workers):
        yield [dist.get_rank()]
        return [0]

    LiPTWarmStart(**COMMON, soup="random trials").fit(
        make_net(), make_images(160), make_images(40, seed=1)
    )


def run_rank(directory: Path) -> None:
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    outcome = {name: fit(options, "torchrun") for name, options in FITS.items()}
    assert not dist.is_initialized()
    dist.init_process_group("gloo")
    outcome["own group"] = fit(FITS["uniform"], "auto", directory / "saved")
    outcome["rare"] = fit({}, "auto", form=Rare)
    outcome["two workers"] = fit({"num_workers": 2}, "auto")
    errors = {
        "different options": message_of(lambda: fit({"seed": rank}, "auto")),
        "min_workers": message_of(lambda: fit({"min_workers": 2 if rank else None}, "auto")),
        "keep_workers": message_of(lambda: fit({"keep_workers": rank == 0}, "auto")),
        "work_dir": message_of(lambda: fit({}, "auto", directory / "one" if rank else None)),
        "random trials": message_of(random_trials_of_workers),
        "random soup": message_of(random_soup),
        "torn on one": message_of(lambda: torn_on_one(rank)),
        "other codec": message_of(lambda: other_merge(rank, "codec")),
        "other outer": message_of(lambda: other_merge(rank, "outer")),
        "other inputs": message_of(lambda: other_inputs(rank)),
        "other loss": message_of(lambda: other_loss(rank)),
        "greedy": message_of(lambda: LiPTWarmStart(soup="greedy").fit(make_net(), make_images(40))),
        "processes": message_of(lambda: fit({"processes": 7}, "auto")),
        "nested": message_of(lambda: fit({}, "processes")),
        "bad shard": message_of(bad_shard),
        "bad held-out": message_of(bad_held_out),
    }
    assert dist.is_initialized() and dist.get_world_size() == size
    dist.destroy_process_group()
    (directory / f"rank_{rank}.pickle").write_bytes(pickle.dumps((outcome, errors)))


def run_agent(directory: Path, size: int) -> None:
    directory.mkdir()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=size, run_id=f"ranks of {size}",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.05,
        start_method=START, logs_specs=DefaultLogsSpecs(log_dir=str(directory / "elastic")),
    )  # fmt: skip
    elastic_launch(config, run_rank)(directory)


def main(directory: Path, sizes: list[int]) -> int:
    start = multiprocessing.get_context(START).Process
    agents = [start(target=run_agent, args=(directory / str(size), size)) for size in sizes]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join()
    return max(abs(agent.exitcode or 0) for agent in agents)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), list(map(int, sys.argv[2:]))))
