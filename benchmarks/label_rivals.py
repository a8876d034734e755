"""Wrong labels found by training: AUROC and passes of rivals of ``find_label_issues``.

    python benchmarks/label_rivals.py --data DIR --set fashion-mnist
    python benchmarks/label_rivals.py --data DIR --set cifar10-jpeg

The draws of benchmarks/label_issues.py, symmetric. ResNet-8 trained with Muon, its rate falling to
zero, on the pool with wrong labels for 1, 3 and 5 epochs: its loss and margin on the samples that
it was trained on, and the area under their margins over the 5 epochs; the same nets in 2-fold and
5-fold cross-validation, 5 epochs a fold, on the samples that they were not trained on; and LiPT's
workers after one merge, on those that they have not seen, and on their own as they trained. A
forward pass counts as a third of a pass. Rows are written as they are finished; ``--resume`` keeps
those that are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.chosen_batches import BATCH, Training, logits_of, shuffled
from benchmarks.fixed_subset import PLACE, POOL, arguments, load, net
from benchmarks.label_issues import SHARES, with_wrong_labels
from benchmarks.rows import begun
from benchmarks.wrong_labels import relabelled
from lipt_cords import LiPTWarmStart
from lipt_cords.base.files import write_json
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.base.randomness import generator
from lipt_cords.data import DataSplits, labels_of
from lipt_cords.data.images import ImageTensors
from lipt_cords.selectors import TrainingDynamics
from lipt_cords.warmstart.difficulty import worker_difficulty

LIPT: dict[str, Any] = {
    "num_workers": 8, "common_steps": 200, "epochs": 4, "batch_size": BATCH, "rounds": 1,
    "sparsity": "none", "augmentation": "none", "optimizer": "muon",
}  # fmt: skip
SCORERS = 3
EPOCHS = 5
FORWARD = 1 / 3

Scores = dict[str, tuple[Tensor, float]]
"""By name: larger for more suspect labels, (N,), and the passes that they took."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label less the largest other one, (B,)."""
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True))[:, 0]


def fitted(
    splits: DataSplits, members: Tensor, epochs: int, seed: int, log: Tensor | None = None
) -> nn.Module:
    """A net trained on some samples; ``log`` (N, epochs) gets their margins, visit by visit."""
    data = _images(splits)
    model, steps = net(splits, 1000 + seed), epochs * len(members) // BATCH
    training = Training(model, data, steps, "muon")
    batches = shuffled(members, BATCH, generator(seed, "label rivals", epochs))
    visits = torch.zeros(len(data), dtype=torch.int64)

    def seen(batch: Tensor, logits: Tensor) -> None:
        if log is not None:
            log[batch, visits[batch]] = margins(logits, data.labels[batch])
        visits[batch] += 1

    for _ in range(steps):
        training.step(next(batches), seen)
    return model


def in_sample(epochs: int) -> Callable[[DataSplits, int], Scores]:
    """Scores of samples by a net that was trained on them."""

    def scores(splits: DataSplits, seed: int) -> Scores:
        members = torch.arange(POOL)
        log = torch.full((POOL, epochs), torch.nan)
        model = fitted(splits, members, epochs, seed, log)
        found = _by(logits_of(model, _images(splits), members), splits, epochs * POOL)
        if epochs > 1:
            counts = (~log.isnan()).sum(dim=1)
            seen = TrainingDynamics(log.sigmoid(), log, counts)
            found["area under margins"] = (seen.score("aum"), float(epochs * POOL))
        return found

    return scores


def cross_validated(folds: int) -> Callable[[DataSplits, int], Scores]:
    """Scores of samples by nets of the other folds."""

    def scores(splits: DataSplits, seed: int) -> Scores:
        order = torch.randperm(POOL, generator=generator(seed, "folds"))
        logits = torch.empty(POOL, 10)
        for fold in range(folds):
            out = torch.zeros(POOL, dtype=torch.bool)
            out[order[fold::folds]] = True
            held = out.nonzero().flatten()
            model = fitted(splits, (~out).nonzero().flatten(), EPOCHS, seed)
            logits[held] = logits_of(model, _images(splits), held)
        return _by(logits, splits, EPOCHS * (folds - 1) * POOL)

    return scores


def workers(splits: DataSplits, seed: int) -> Scores:
    """Scores by LiPT's workers."""
    warm = LiPTWarmStart(
        **LIPT, **PLACE, seed=seed, progress=False, keep_workers=True, log_samples=True
    )
    result = warm.fit(net(splits, seed), splits.train)
    found, passes = {}, float(result.report.passes)
    for score in ("loss", "margin"):
        scored = worker_difficulty(result, splits.train, score, scorers=SCORERS, seed=seed)
        found[f"unseen: {score}"] = (scored.scores, passes + FORWARD * scored.passes)
    return found | {"own shards: area under margins": (result.dynamics.score("aum"), passes)}


RIVALS: dict[str, Callable[[DataSplits, int], Scores]] = {
    **{
        f"in-sample, {epochs} epoch{'s'[: epochs > 1]}": in_sample(epochs)
        for epochs in (1, 3, EPOCHS)
    },
    "LiPT's workers": workers,
    "2 folds": cross_validated(2),
    "5 folds": cross_validated(5),
}


def _images(splits: DataSplits) -> ImageTensors:
    assert isinstance(splits.train, ImageTensors)
    return splits.train


def _by(logits: Tensor, splits: DataSplits, trained: int) -> Scores:
    labels, passes = labels_of(splits.train), trained + FORWARD * POOL
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    return {"loss": (loss, passes), "margin": (-margins(logits, labels), passes)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.set_defaults(seeds=2)
    args = parser.parse_args()
    path, payload = begun(args, "label_rivals", pool=POOL, lipt=LIPT, scorers=SCORERS)
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = load(args.set, args.data)
    rows = payload["rows"]
    done = {(one["share"], one["seed"], one["rival"]) for one in rows}
    for seed in range(args.seeds):
        for share in sorted(SHARES, reverse=True):
            given, wrong = with_wrong_labels(labels_of(splits.train), share, "symmetric", seed)
            noisy = relabelled(splits, given)
            for rival in args.rivals:
                if (share, seed, rival) in done:
                    continue
                began = time.process_time()
                for score, (values, passes) in RIVALS[rival](noisy, seed).items():
                    rows.append(
                        {
                            "share": share, "seed": seed, "rival": rival, "score": score,
                            "auroc": float(roc_auc_score(wrong, values)), "passes": passes,
                            "cpu_seconds": time.process_time() - began,
                        }
                    )  # fmt: skip
                    print(rows[-1], flush=True)
                write_json(path, payload)
    print(path)


if __name__ == "__main__":
    main()
