"""Forgetting: exact worker by worker, and DeltaGrad on heads, against doing it all again.

    python benchmarks/unlearning.py --part exact --data DIR

exact: 16 workers on 15,000 images of Fashion-MNIST, one sample goes; and 50 random deletions
compared bit by bit with a warm start that never had them. deltagrad: a logistic head on the pixels
of all 54,000 training images, and on their embeddings under a ResNet-8, standardised: samples that
go, that come, and a hundred that go one by one, with the time of retraining in the same run.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from benchmarks import EARLIER, RESULTS
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator
from lipt_cords.data import BatchSource, load_dataset
from lipt_cords.models import build_model
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.warmstart.unlearning.deltagrad import DeltaGrad

EXACT: dict[str, Any] = {
    **EARLIER, "common_steps": 0, "epochs": 4, "batch_size": 32, "keep_workers": True, "threads": 1,
    "launch": "serial",
}  # fmt: skip
HEAD: dict[str, Any] = {
    "epochs": 50, "batch_size": 16_384, "lr": 0.01, "l2": 5e-3, "period": 7, "burn_in": 10,
    "memory": 4,
}  # fmt: skip
ROUNDS = 5
"""Times that a change is timed, in turns with training anew."""


def tensors(dataset: Any, flat: bool = False) -> TensorDataset:
    """A data set in memory."""
    images, labels = next(BatchSource(dataset).batches(batch_size=len(dataset)))
    return TensorDataset(images.flatten(1) if flat else images, labels)


def exact(data: str, cases: int) -> dict[str, Any]:
    """What forgetting one sample costs, and how often the bits are those of never having had it."""
    splits = load_dataset("fashion-mnist", data, limit=15_000, val_fraction=0.1)
    train, val = tensors(splits.train), Subset(tensors(splits.val), range(1_000))
    net = build_model("resnet8", 10, in_channels=1, image_size=28, seed=0)
    started = time.perf_counter()
    result = LiPTWarmStart(num_workers=16, **EXACT).fit(net, train, val)
    whole = time.perf_counter() - started
    ratios, shares = [], []
    for number in range(5):
        started = time.perf_counter()
        left = result.forget([int(result.shards[3 * number][0])])
        ratios.append((time.perf_counter() - started) / whole)
        shares.append(left.unlearning.share)
        print(f"forget: {shares[-1]:.4f} of passes, {ratios[-1]:.4f} of seconds", flush=True)
    small = Subset(train, range(320))
    few, little = Subset(val, range(200)), {**EXACT, "num_workers": 8, "progress": False}
    cnn = build_model("cnn", 10, in_channels=1, image_size=28, seed=0)
    base, equal = LiPTWarmStart(**little).fit(cnn, small, few), 0
    for case in range(cases):
        gone = torch.randperm(320, generator=generator(0, "case", case))[: 1 + case % 4]
        stays = torch.ones(320, dtype=torch.bool)
        stays[gone] = False
        place = stays.cumsum(0) - 1
        shards = [place[shard[stays[shard]]] for shard in base.shards]
        never = LiPTWarmStart(**little).fit(
            cnn, Subset(small, stays.nonzero().flatten().tolist()), few, shards=shards
        )
        mine = base.forget(gone).state_dict
        equal += all(torch.equal(mine[name], value) for name, value in never.state_dict.items())
    return {
        "workers": 16, "samples": len(train), "share_of_passes": statistics.fmean(shares),
        "share_of_seconds": ratios, "cases": cases, "bit_equal": equal,
    }  # fmt: skip


def replay(
    name: str, make: Callable[..., DeltaGrad], samples: int, in_a_row: int
) -> list[dict[str, Any]]:
    """Samples that go and come, against training anew in the same run."""
    rows = []
    few, many = max(1, round(5e-5 * samples)), round(0.01 * samples)
    order = torch.randperm(samples, generator=generator(0, "unlearning"))
    jobs: list[tuple[str, int, bool]] = [
        ("remove", few, False), ("remove", many, False), ("add", few, True), ("add", many, True),
    ]  # fmt: skip
    for kind, count, adds in jobs:
        first = make(start_with=order[count:] if adds else None)
        seconds, anew = [], []
        for _ in range(ROUNDS):  # the same change again, in turns with training anew
            delta = copy.copy(first)
            seconds.append(timed(delta.add if adds else delta.remove, order[:count]))
            anew.append(timed(delta.retrained))
        rows.append(measured(name, kind, count, 1, delta, seconds, anew))
    delta, seconds, anew = make(), [], []
    for number, sample in enumerate(order[:in_a_row].tolist()):
        seconds.append(timed(delta.remove, [sample]))
        if number % max(1, in_a_row // ROUNDS) == 0:
            anew.append(timed(delta.retrained))
    rows.append(measured(name, "remove, one by one", 1, in_a_row, delta, seconds, anew))
    return rows


def timed(job: Callable[..., Any], *given: Any) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    job(*given)
    return time.perf_counter() - started


def measured(
    name: str, kind: str, count: int, times: int, delta: DeltaGrad, seconds: list[float],
    anew: list[float],
) -> dict[str, Any]:  # fmt: skip
    """A row."""
    distance, last = delta.distance(), delta.last
    if last is None:
        raise ValueError("nothing was replayed")
    row = {
        "head": name, "change": kind, "samples": count, "times": times,
        "faster": statistics.median(anew) / statistics.median(seconds), "seconds": seconds,
        "seconds_anew": anew, "to_retraining": distance.to_retraining,
        "of_change": distance.of_change, "explicit": last.explicit, "steps": last.steps,
        "gradients": last.sample_gradients / last.retraining_gradients,
    }  # fmt: skip
    print({k: v for k, v in row.items() if not isinstance(v, list)}, flush=True)
    return row


def deltagrad(data: str, in_a_row: int) -> list[dict[str, Any]]:
    """DeltaGrad on pixels and on embeddings."""
    train = load_dataset("fashion-mnist", data, val_fraction=0.1).train
    pixels = tensors(train, flat=True)
    rows = replay(
        "pixels, 784", lambda **o: DeltaGrad(head(784), pixels, **HEAD, **o), len(train), in_a_row
    )
    net = build_model("resnet8", 10, in_channels=1, image_size=28, seed=0)
    warm = LiPTWarmStart(
        **EARLIER | {"sparsity": "none"}, num_workers=1, common_steps=300, local_steps=1,
        batch_size=64, precision="bf16", batchnorm_refresh="never",
    ).fit(net, train)  # fmt: skip
    found = last_layer_gradients(warm.model(), train)
    spread, mean = torch.std_mean(found.embeddings, dim=0)
    standard = TensorDataset((found.embeddings - mean) / spread.clamp(min=1e-6), found.labels)
    width = found.embedding_dim
    return rows + replay(
        f"ResNet-8 embeddings, {width}", lambda **o: DeltaGrad(head(width), standard, **HEAD, **o),
        len(train), in_a_row,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=("exact", "deltagrad"), required=True)
    parser.add_argument("--data", required=True, help="directory of Fashion-MNIST")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--in-a-row", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    found: dict[str, Any] = {"settings": EXACT, "seed": 0}
    if args.part == "exact":
        found |= exact(args.data, args.cases)
    else:
        found |= {"settings": HEAD, "rows": deltagrad(args.data, args.in_a_row)}
    payload = {
        "kind": "unlearning", "command": f"python benchmarks/unlearning.py --part {args.part} "
        "--data DIR", **found, "provenance": provenance(),
    }  # fmt: skip
    print(write_json(output_directory(args.output) / f"unlearning-{args.part}.json", payload))


def head(inputs: int) -> nn.Linear:
    """A linear head of zeros."""
    made = nn.Linear(inputs, 10)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


if __name__ == "__main__":
    main()
