"""The field's table: fixed subsets by every published way, trained alike, all costs counted.

    python benchmarks/field.py --data DIR --set cifar10-jpeg
    python benchmarks/field.py --data DIR --set cifar10 --net resnet18 --pool 50000 --device cuda

Rows: random; ``choose_subset``; LiPT's soup (its margins and embeddings in place of those that
need no training); EL2N (the hardest; Paul et al., NeurIPS 2021); DUAL with its beta sampling (ICML
2025); CCS by the area under the margin (ICLR 2023); herding, k-centre, GLISTER, GradMatch and CRAIG
once, on the net that gave the scores. That net is one worker on all data for ``--score-epochs``
epochs, which logs what it sees. ``resnet8`` is trained as in choose.py, ``resnet18`` and ``fast``
as in augmented.py. ``--match iterations`` trains every subset with as many passes as choose.py,
scaled to the pool; ``--match epochs`` for 200 epochs each, as published tables do. Rows are written
as they are finished; with ``--resume`` those that are there are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from benchmarks.augmented import RECIPES
from benchmarks.augmented import train as train_augmented
from benchmarks.fixed_subset import PASSES, TRAINING, arguments, load, train
from benchmarks.rows import add, begun
from lipt_cords import LiPTWarmStart, WarmStartResult, choose_subset, select
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.randomness import generator
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.images import ImageTensors
from lipt_cords.models import build_model
from lipt_cords.selectors import Selection
from lipt_cords.selectors.difficulty import difficulty

NETS = ("resnet8", *RECIPES)
SETS = ("cifar10-jpeg", "cifar10", "fashion-mnist")
EPOCHS = 200
"""Of every subset where methods are matched by epochs."""
CCS_CUTS = {0.3: 0.1, 0.2: 0.1, 0.1: 0.3}
"""Hardest share that CCS leaves out, as published for CIFAR-10; below a tenth as at a tenth."""
DUAL_SHAPE, DUAL_POWER = 15.0, 5.5
"""Of DUAL's beta distribution, as published for CIFAR-10."""


@dataclass(frozen=True)
class Pool:
    """Data, a seed, and the models that methods share, each trained when it is first asked for."""

    splits: DataSplits
    seed: int
    net: str
    score_epochs: int
    device: str
    workers: int = 16

    @cached_property
    def labels(self) -> Tensor:
        return labels_of(self.splits.train)

    @cached_property
    def scorer(self) -> WarmStartResult:
        """One worker on all data, which logged what it saw."""
        return self._fit(
            num_workers=1, common_steps=0, rounds=1, epochs=self.score_epochs, batch_size=64,
            log_samples=True,
        )  # fmt: skip

    @cached_property
    def soup(self) -> WarmStartResult:
        """The preset."""
        return self._fit(num_workers=self.workers)

    def _fit(self, **options: Any) -> WarmStartResult:
        warm = LiPTWarmStart(
            seed=self.seed, device=self.device, launch="serial", precision="bf16", progress=False,
            **options,
        )  # fmt: skip
        return warm.fit(self._new_net(), self.splits.train)

    def _new_net(self) -> nn.Module:
        channels, size = self.splits.input_shape[0], self.splits.input_shape[-1]
        name = "resnet18" if self.net == "fast" else self.net
        return build_model(
            name, self.splits.num_classes, in_channels=channels, image_size=size, seed=self.seed
        )


Chosen = tuple[Selection | Tensor, WarmStartResult | None]
"""A subset, and the warm start that its scores are from."""


def _chosen_without_training(pool: Pool, fraction: float, budget: int) -> Chosen:
    return choose_subset(pool.splits.train, fraction, seed=pool.seed), None


def _random(pool: Pool, fraction: float, budget: int) -> Chosen:
    return select("random", pool.labels, budget, seed=pool.seed), None


def _soup(pool: Pool, fraction: float, budget: int) -> Chosen:
    gradients = pool.soup.gradients(pool.splits.train)
    return select("covering", gradients, budget, seed=pool.seed), pool.soup


def _hardest(pool: Pool, fraction: float, budget: int) -> Chosen:
    gradients = pool.scorer.gradients(pool.splits.train)
    scores = difficulty(gradients, "el2n")
    return scores.argsort(descending=True, stable=True)[:budget], pool.scorer


def _dual(pool: Pool, fraction: float, budget: int) -> Chosen:
    log = pool.scorer.dynamics
    mean, scores = 1 - log.score("confidence"), log.score("dual")
    chances = scores * beta_density(mean, *dual_shape(mean, scores, fraction))
    draws = generator(pool.seed, "dual")
    return torch.multinomial(chances, budget, replacement=False, generator=draws), pool.scorer


def dual_shape(mean: Tensor, scores: Tensor, fraction: float) -> tuple[float, float]:
    """Both parameters of DUAL's beta distribution (arXiv 2502.06905, and its code).

    Args:
        mean: probability of the label of each sample, averaged over its visits.
        scores: DUAL's.
        fraction: of the samples that are kept.
    """
    hardest = float(mean[scores.argsort()[-10:]].mean())
    right = DUAL_SHAPE * (1 - hardest) * (1 - (1 - fraction) ** DUAL_POWER)
    return DUAL_SHAPE + 1 - right, right


def beta_density(values: Tensor, one: float, other: float) -> Tensor:
    """Density of a beta distribution, up to a factor; values from 0 to 1."""
    inside = values.clamp(1e-9, 1 - 1e-9)
    logs = (one - 1) * inside.log() + (other - 1) * (1 - inside).log()
    return (logs - logs.max()).exp()


def _ccs(pool: Pool, fraction: float, budget: int) -> Chosen:
    scores, cut = pool.scorer.dynamics.score("aum"), CCS_CUTS.get(fraction, CCS_CUTS[0.1])
    chosen = select(
        "stratified", pool.labels, budget, scores=scores, cut=cut, bins="width", per="all",
        seed=pool.seed,
    )  # fmt: skip
    return chosen, pool.scorer


def _covered(method: str, pool: Pool, fraction: float, budget: int) -> Chosen:
    gradients = pool.scorer.gradients(pool.splits.train)
    return (
        select("covering", gradients, budget, cut=0.0, method=method, seed=pool.seed), pool.scorer
    )  # fmt: skip


def _by_gradients(selector: str, pool: Pool, fraction: float, budget: int) -> Chosen:
    gradients = pool.scorer.gradients(pool.splits.train)
    held_out = pool.scorer.gradients(pool.splits.val) if selector == "glister" else None
    chosen = select(selector, gradients, budget, val_gradients=held_out, seed=pool.seed)
    return chosen, pool.scorer


METHODS: dict[str, Callable[[Pool, float, int], Chosen]] = {
    "random": _random,
    "choose_subset": _chosen_without_training,
    "LiPT's soup": _soup,
    "DUAL": _dual,
    "CCS": _ccs,
    "EL2N": _hardest,
    "herding": partial(_covered, "herding"),
    "k-centre": partial(_covered, "k-centre"),
    "GLISTER": partial(_by_gradients, "glister"),
    "GradMatch": partial(_by_gradients, "gradmatch"),
    "CRAIG": partial(_by_gradients, "craig"),
}


def row(pool: Pool, method: str, fraction: float, passes: int) -> dict[str, Any]:
    """A subset by one method, and the accuracy of a training on it."""
    budget = round(fraction * len(pool.labels))
    chosen, warm = METHODS[method](pool, fraction, budget)
    indices = chosen if isinstance(chosen, Tensor) else chosen.indices
    whole = pool.splits.train
    if pool.net == "resnet8":
        given = chosen if isinstance(chosen, Selection) else Selection(
            indices, torch.ones(budget), name=method
        )  # fmt: skip
        accuracy = train(pool.splits, given, passes, pool.seed)
    else:
        assert isinstance(whole, ImageTensors) and isinstance(pool.splits.test, ImageTensors)
        accuracy = train_augmented(
            RECIPES[pool.net], whole, indices, pool.splits.test, passes=passes, seed=pool.seed,
            device=pool.device, classes=pool.splits.num_classes,
        )  # fmt: skip
    return {
        "method": method, "fraction": fraction, "seed": pool.seed, "accuracy": accuracy,
        "budget": budget, "training_passes": passes,
        "scoring_passes": 0 if warm is None else warm.report.passes,
        "scoring_critical_passes": 0 if warm is None else warm.report.critical_path_passes,
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, SETS)
    parser.set_defaults(seeds=3)
    parser.add_argument("--net", choices=NETS, default="resnet8")
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--match", choices=("iterations", "epochs"), default="iterations")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--score-epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.net == "resnet8" and args.device != "cpu":
        parser.error("resnet8 is trained on the CPU, as in choose.py: take --net resnet18 or fast")
    apart = {"--net": "resnet8", "--match": "iterations"}
    part = " ".join(
        f"{option} {getattr(args, option[2:])}"
        for option, usual in apart.items() if getattr(args, option[2:]) != usual
    )  # fmt: skip
    path, payload = begun(
        args, "field", part, net=args.net, pool=args.pool, match=args.match,
        score_epochs=args.score_epochs, batch=RECIPES[args.net].batch
        if args.net in RECIPES else TRAINING["batch_size"],
    )  # fmt: skip
    if args.device == "cpu":
        torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data, args.pool)
    done = {(one["method"], one["fraction"], one["seed"]) for one in payload["rows"]}
    for seed in range(args.seeds):
        pool = Pool(splits, seed, args.net, args.score_epochs, args.device)
        for fraction in args.fractions:
            passes = round(PASSES[fraction] * args.pool / 20_000)
            if args.match == "epochs":
                passes = EPOCHS * round(fraction * len(pool.labels))
            for method in args.methods:
                if (method, fraction, seed) not in done:
                    add(path, payload, row(pool, method, fraction, passes))
    print(path)


if __name__ == "__main__":
    main()
