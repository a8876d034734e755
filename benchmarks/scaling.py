"""What processes buy and cost: the same bits, the bytes on the wire, the speed, the start.

    python benchmarks/scaling.py --output benchmarks/results

ResNet-8 on random 28x28 images, one thread a process, local processes over Gloo. Bytes are read
off the loopback interface of a network namespace that holds nothing else (Linux, as root;
elsewhere they are left out). Speed compares one process with two, in alternation: the ratio of
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch.utils.data import TensorDataset

from benchmarks import EARLIER, RESULTS
from lipt_cords import LiPTWarmStart, WarmStartResult
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.models import build_model

ALONE = "LIPT_BENCHMARK_ALONE_IN_ITS_NETWORK"


def material(samples: int) -> tuple[torch.nn.Module, TensorDataset]:
    """The net, and images that mean nothing."""
    images = torch.rand(samples, 1, 28, 28, generator=generator(0, "images"))
    labels = torch.randint(0, 10, (samples,), generator=generator(0, "labels"))
    return build_model("resnet8", 10, in_channels=1, image_size=28), TensorDataset(images, labels)


def fit(processes: int, samples: int = 512, **options: Any) -> WarmStartResult:
    """A warm start in that many processes; none is this one."""
    launch = {"processes": processes} if processes else {"launch": "serial"}
    common = {
        **EARLIER,
        "num_workers": 4,
        "common_steps": 2,
        "batch_size": 32,
        "device": "cpu",
        "threads": 1,
    }
    warm_start = LiPTWarmStart(**{**common, "progress": False, **launch, **options})
    return warm_start.fit(*material(samples))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def equality() -> list[dict[str, Any]]:
    """Workers and merge on 1 to 4 ranks against serial, with one round and with three."""
    rows = []
    for rounds in (1, 3):
        options = {"rounds": rounds, "local_steps": 6, "outer": "nesterov", "keep_workers": True}
        serial = fit(0, **options)
        for ranks in (1, 2, 3, 4):
            ranked = fit(ranks, **options)
            pairs = zip(serial.worker_states, ranked.worker_states, strict=True)
            rows.append(
                {
                    "rounds": rounds,
                    "ranks": ranks,
                    "workers_bitwise": all(same(mine, theirs) for mine, theirs in pairs),
                    "merge_bitwise": same(serial.state_dict, ranked.state_dict),
                }
            )
    return rows


def sent_bytes() -> int:
    """Bytes that the loopback interface has sent so far, headers included."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def wire() -> list[dict[str, Any]]:
    """Bytes of one round: what six rounds send beyond what one sends, over five."""
    state = material(1)[0].state_dict().values()
    floats = sum(value.nbytes for value in state if value.is_floating_point())
    rows = []
    for ranks in (2, 3, 4):
        sent = {}
        for rounds in (1, 6):
            before = sent_bytes()
            report = fit(ranks, rounds=rounds, local_steps=6).report
            sent[rounds] = sent_bytes() - before
        measured = (sent[6] - sent[1]) / 5
        rows.append(
            {
                "ranks": ranks,
                "float_state_bytes": floats,
                "measured_bytes_per_round": measured,
                "reported_weight_bytes_per_round": report.rounds[-1].weight_bytes,
                "measured_over_state_times_ranks": measured / (floats * ranks),
                "measured_bytes_of_a_whole_run_of_one_round": sent[1],
            }
        )
    return rows


def in_own_network() -> list[dict[str, Any]] | None:
    """Run :func:`wire` where nothing else uses the network; None where that is not allowed."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return None
    inner = f"ip link set lo up && exec {sys.executable} {Path(__file__).resolve()}"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", inner],
        env={**os.environ, ALONE: "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        print(f"bytes on the wire are left out: {done.stderr.strip().splitlines()[-1:]}")
        return None
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def speed(rounds: int, steps: int) -> dict[str, Any]:
    """Worker passes a second of two one-thread ranks, against one one-thread process."""
    passes: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(rounds + 1):
        for name, processes in (("one", 1), ("two", 2)):
            result = fit(
                processes, samples=4096, num_workers=2, local_steps=steps, batch_size=64,
                common_steps=1, batchnorm_refresh="never",
            )  # fmt: skip
            worked = sum(one.passes for one in result.report.workers)
            passes[name].append(worked / result.report.seconds["workers"])
    medians = {name: statistics.median(values[1:]) for name, values in passes.items()}
    return {
        "passes_per_second": {name: values[1:] for name, values in passes.items()},
        "two_ranks_over_one": medians["two"] / medians["one"],
    }


def overhead(ranks: int, times: int) -> dict[str, Any]:
    """Seconds of a fit in processes beyond the fit itself, once everything is imported."""
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        result = fit(ranks, local_steps=1)
        seconds.append(time.perf_counter() - started - result.report.seconds["total"])
    return {"ranks": ranks, "seconds": seconds[1:], "median": statistics.median(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternations of the speed test")
    parser.add_argument("--steps", type=int, default=100, help="steps of a worker in it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if os.environ.get(ALONE):
        print(json.dumps(wire()))
        return
    directory = output_directory(args.output)
    payload = {
        "kind": "scaling",
        "command": "python benchmarks/scaling.py",
        "settings": {"rounds": args.rounds, "steps": args.steps},
        "net": "resnet8 (width 16), 28x28, one channel",
        "equality": equality(),
        "launch_overhead": overhead(4, 5),
        "wire": in_own_network(),
        "speed": speed(args.rounds, args.steps),
        "provenance": provenance(),
    }
    path = write_json(directory / "scaling.json", payload)
    for row in payload["equality"]:
        print(row)
    for row in payload["wire"] or []:
        print(
            f"{row['ranks']} ranks: {row['measured_bytes_per_round']:,.0f} bytes a round, "
            f"{row['measured_over_state_times_ranks']:.2f} x float state x ranks"
        )
    print(f"two ranks over one: {payload['speed']['two_ranks_over_one']:.2f}")
    print(f"launch of 4 ranks: {payload['launch_overhead']['median']:.2f} s")
    print(path)


if __name__ == "__main__":
    main()
