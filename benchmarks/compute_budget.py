"""Batches chosen while training, against random ones of the same operations in all.

    python benchmarks/compute_budget.py --data DIR --set fashion-mnist
    python benchmarks/compute_budget.py --data DIR --set cifar10-jpeg

ResNet-8 from scratch on a pool of 20,000 images, as they are and with 40 % wrong labels
(symmetric). Everybody spends the operations of 40,000 training passes: what is spent on cleaning,
on scores and on a proxy is not trained on. RS2 walks through the pool without repetition. RHO-LOSS
(Mindermann et al., ICML 2022) trains on the candidates whose loss exceeds most the irreducible one,
here that of the closed-form prediction without the sample. As in airbench96 (Jordan, 2024) a proxy,
here a small CNN, scores the candidates and is trained on every fourth batch that it keeps.
Operations are those of torch's counter, and of decompositions by their textbook counts. Rows are
written as they are finished; ``--resume`` keeps those that are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.chosen_batches import BATCH, Training, shuffled, tested
from benchmarks.fixed_subset import POOL, TRAINING, arguments, load, net
from benchmarks.label_issues import with_wrong_labels
from benchmarks.rows import add, begun
from benchmarks.wrong_labels import relabelled
from lipt_cords import features, find_label_issues, leave_one_out
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.randomness import generator
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.images import ImageTensors
from lipt_cords.models import build_model
from lipt_cords.models.flops import flops_per_sample

BUDGET = 40_000
"""Passes whose operations a method may spend."""
SHARES = (0.4, 0.0)
"""Of wrong labels."""
PROXY, PROXY_EVERY = "cnn", 4
DECOMPOSITIONS = {
    torch.ops.aten._linalg_eigh: lambda shape, *_, **__: 9 * shape[-1] ** 3,
    torch.ops.aten.linalg_cholesky_ex: lambda shape, *_, **__: shape[-1] ** 3 // 3,
    torch.ops.aten.linalg_inv_ex: lambda shape, *_, **__: 2 * shape[-1] ** 3,
}
"""Operations that torch does not count (Golub and Van Loan, 2013)."""


@dataclass(frozen=True)
class Method:
    """How a training gets its batches."""

    cleaned: bool = False
    """From the pool without the suspects of ``find_label_issues``."""
    candidates: int = 1
    """Scored for each sample that is trained on."""
    scorer: str = ""
    """``net`` or ``proxy``."""
    reducible: bool = False
    """By the loss less the irreducible one; else by the loss."""


METHODS = {
    "RS2": Method(),
    "RS2 on the cleaned pool": Method(cleaned=True),
    "RHO-LOSS, 1 of 10": Method(candidates=10, scorer="net", reducible=True),
    "RHO-LOSS, 1 of 2": Method(candidates=2, scorer="net", reducible=True),
    "RHO-LOSS by a proxy, 1 of 2": Method(candidates=2, scorer="proxy", reducible=True),
    "highest loss by a proxy, 1 of 2": Method(candidates=2, scorer="proxy"),
}


@dataclass
class Pool:
    """A pool with its labels as given, and what closed forms say of them."""

    splits: DataSplits
    seed: int

    @property
    def data(self) -> ImageTensors:
        assert isinstance(self.splits.train, ImageTensors)
        return self.splits.train

    @cached_property
    def scored(self) -> tuple[Tensor, Tensor, int, float]:
        """Samples without suspects, irreducible losses, operations, processor seconds."""
        began = time.process_time()
        with FlopCounterMode(display=False, custom_mapping=DECOMPOSITIONS) as counter:
            rows = features(self.data, seed=self.seed)
            known = leave_one_out(rows, labels_of(self.data), kernel="rbf", seed=self.seed)
            found = find_label_issues(self.data, out_of_sample=known)
        clean = torch.ones(len(self.data), dtype=torch.bool)
        clean[found.indices] = False
        spent = time.process_time() - began
        return clean.nonzero().flatten(), known.loss.float(), counter.get_total_flops(), spent


def operations(model: nn.Module, data: ImageTensors) -> tuple[int, int]:
    """Of a training step and of a forward pass, each of one sample."""
    return flops_per_sample(model, *data.gather(torch.arange(BATCH)), nn.functional.cross_entropy)


def row_of(pool: Pool, method: Method, test: ImageTensors) -> dict[str, Any]:
    """One training: what it reached and what it spent, in passes."""
    data, seed = pool.data, pool.seed
    model = net(pool.splits, 1000 + seed)
    size = data.images.shape[-1]
    proxy = build_model(PROXY, 10, in_channels=data.images.shape[1], image_size=size, seed=seed)
    whole, forward = operations(model, data)
    proxy_whole, proxy_forward = operations(proxy, data)
    preparing, seconds, members = 0, 0.0, torch.arange(len(data))
    if method.cleaned or method.reducible:
        kept, _, preparing, seconds = pool.scored
        members = kept if method.cleaned else members
    choosing = 0.0  # of a step
    if method.scorer == "net":
        choosing = method.candidates * BATCH * forward
    if method.scorer == "proxy":
        choosing = BATCH * (method.candidates * proxy_forward + proxy_whole / PROXY_EVERY)
    steps = int((BUDGET * whole - preparing) / (BATCH * whole + choosing))
    began = time.process_time()
    training = Training(model, data, steps)
    helper = Training(proxy, data, -(-steps // PROXY_EVERY))
    draws = generator(seed, "compute budget")
    batches = shuffled(members, method.candidates * BATCH, draws)
    for number in range(steps):
        batch = _chosen(method, batches, helper if method.scorer == "proxy" else training, pool)
        if method.scorer == "proxy" and number % PROXY_EVERY == 0:
            helper.step(batch)
        training.step(batch)
    seconds += time.process_time() - began
    return {
        "accuracy": tested(model, test), "steps": steps, "trained_passes": steps * BATCH,
        "choosing_passes": steps * choosing / whole, "preparing_passes": preparing / whole,
        "cpu_seconds": seconds,
    }  # fmt: skip


def _chosen(method: Method, batches: Iterator[Tensor], scorer: Training, pool: Pool) -> Tensor:
    """The samples of the next step."""
    candidates = next(batches)
    if method.candidates == 1:
        return candidates
    scores = scorer.losses(candidates)
    if method.reducible:
        scores -= pool.scored[1][candidates]
    return candidates[scores.topk(BATCH).indices]


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(seeds=3)
    args = parser.parse_args()
    path, payload = begun(
        args, "compute_budget", training=TRAINING, pool=POOL, budget=BUDGET, proxy=PROXY
    )
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    assert isinstance(splits.test, ImageTensors)
    done = {(one["share"], one["seed"], one["method"]) for one in payload["rows"]}
    for seed in range(args.seeds):
        for share in SHARES:
            given, _ = with_wrong_labels(labels_of(splits.train), share, "symmetric", seed)
            pool = Pool(relabelled(splits, given), seed)
            for name, method in METHODS.items():
                if (share, seed, name) in done:
                    continue
                row = {"share": share, "seed": seed, "method": name}
                add(path, payload, row | row_of(pool, method, splits.test))
    print(path)


if __name__ == "__main__":
    main()
