"""The few per cent of a data set worth training on, in one call and without training."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.data.batches import dataset_length
from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.data.labels import labels_of
from lipt_cords.models.features.extract import Features
from lipt_cords.models.features.extract import features as features_of
from lipt_cords.selectors.base import Selection, select
from lipt_cords.selectors.brightness import doubt_about
from lipt_cords.selectors.checks import check_budget
from lipt_cords.selectors.closed_form.judge import SubsetJudge
from lipt_cords.selectors.closed_form.kernel import nystroem
from lipt_cords.selectors.closed_form.principal import principal
from lipt_cords.selectors.closed_form.ridge import KERNEL_WIDTH, classes_of, leave_one_out
from lipt_cords.selectors.confident_learning import prune_by_noise_rate

logger = logging.getLogger(__name__)
DECIDED = frozenset({"scores", "score", "pilot", "val_gradients"})
"""Arguments of `select` and `covering` that follow from the others here."""
LANDMARKS = 800
COVER_WIDTH = 40
"""Principal directions in which coverage measures distances."""


def choose_subset(
    dataset: Dataset[Any],
    budget: int | float,
    *,
    val_dataset: Dataset[Any] | None = None,
    features: str | nn.Module | Features | Tensor | NDArray[Any] = "auto",
    balanced: bool = False,
    leave_out_suspects: bool = False,
    seed: int = 0,
    device: torch.device | str = "auto",
    collate_fn: CollateFunction | None = None,
    **options: Any,
) -> Selection:
    """Choose samples to train on, without training and without a model.

    Features of every sample (patches of images, n-grams of texts, columns of tables) go through a
    radial kernel; a ridge regression tells in closed form how hard each sample is to predict from
    the others; the easier part of each class is covered by k-means; how much is easier is found by
    ridge regressions on the candidate subsets.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        budget: how many samples, or a fraction of them below 1, such as 0.05.
        val_dataset: held-out samples that judge the candidates; None: samples of the pool, each by
            regressions that have not seen it.
        features: of :func:`lipt_cords.features`; a network for its embeddings, or rows.
        balanced: every class has the same weight in the regression that tells difficulty.
        leave_out_suspects: never choose a sample whose label is probably wrong, by the rule of
            :func:`lipt_cords.find_label_issues`.
        seed: of every draw.
        device: where features and products are computed.
        collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that pads
            texts; None stacks tensors.
        **options: of the selector `covering`: ``cut``, ``method``, ``weighted``, ``pilot_cuts``.

    Returns:
        The selection. ``info`` holds the kind of features, the leave-one-out accuracy, the cut,
        what each cut was worth, and a ``warning`` where the choice is in doubt. Equal arguments
        give equal bits on one machine with one number of threads; elsewhere products are rounded
        otherwise, and some samples may be others.

    Raises:
        ValueError: a budget out of range, samples that no kind of features fits, one class only,
            or whatever the features and `covering` refuse.

    >>> rows = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 2])
    >>> data = torch.utils.data.TensorDataset(rows, torch.arange(200) // 100)
    >>> chosen = choose_subset(data, 0.05)
    >>> len(chosen), chosen.info["features"]
    (10, 'columns')
    """
    for name in DECIDED.intersection(options):
        raise ValueError(
            f"{name} is decided by choose_subset: leave it out, or call select('covering', ...)"
        )
    started = time.perf_counter()
    dataset = collated(dataset, collate_fn)
    if val_dataset is not None:
        val_dataset = collated(val_dataset, collate_fn)
    count = dataset_length(dataset)
    wanted = check_budget(budget, count)
    labels = labels_of(dataset)
    classes, _ = classes_of(labels)
    judging = None if val_dataset is None else _labels_of_judges(val_dataset, classes)
    found = features_of(dataset, features, seed=seed, device=device)
    rows = found.values
    if val_dataset is not None:
        rows = torch.cat([rows, found.of(val_dataset, device=device).values])
    extracted = time.perf_counter()
    rows = principal(rows, KERNEL_WIDTH, seed)
    mapped = nystroem(rows, min(LANDMARKS, count), seed)
    own = mapped[:count]
    known = leave_one_out(own, labels, balanced=balanced, device=device, precision="float32")
    doubt = doubt_about(known, dataset, features, found, seed)
    if judging is None:
        judge = SubsetJudge.of_pool(own, labels, seed)
    else:
        judge = SubsetJudge.held_out(own, labels, mapped[count:], judging)
    pool = torch.arange(count)
    if leave_out_suspects:
        suspect = prune_by_noise_rate(known.probabilities, known.columns)
        pool = (~suspect).nonzero().flatten()
        if len(pool) < wanted:
            raise ValueError(
                f"only {len(pool)} of {count} samples are left after those whose label is probably "
                f"wrong, and {wanted} are to be chosen: lower the budget"
            )
    chosen = select(
        "covering", labels[pool], wanted, features=rows[pool, :COVER_WIDTH],
        scores=known.margin[pool], pilot=judge.within(pool), seed=seed, **options,
    )  # fmt: skip
    ended = time.perf_counter()
    lost = classes[~torch.isin(classes, labels[pool])].tolist()
    gone = None
    if lost:
        gone = (
            f"{len(lost)} of {len(classes)} classes are not in the subset "
            f"({', '.join(map(str, lost[:10]))}): all their labels are probably wrong"
        )
    for one in filter(None, (doubt, gone)):
        logger.warning("choose_subset: %s", one)
    said = [one for one in (doubt, gone, chosen.info.get("warning")) if one]
    missing = sorted([*lost, *chosen.info.get("missing_classes", [])])
    info = {
        **chosen.info,
        **({"warning": "; ".join(said)} if said else {}),
        **({"missing_classes": missing} if missing else {}),
        "suspects_left_out": count - len(pool),
        "features": found.kind,
        "leave_one_out_accuracy": known.accuracy,
        "ridge": known.ridge,
        "feature_seconds": extracted - started,
    }
    indices = pool[chosen.indices]
    return replace(
        chosen, indices=indices, name="choose_subset", seconds=ended - started, info=info
    )


def _labels_of_judges(dataset: Dataset[Any], classes: Tensor) -> Tensor:
    """Labels of held-out samples, of which some must be of the pool's classes."""
    if dataset_length(dataset) == 0:
        raise ValueError("val_dataset is empty: give held-out samples, or leave it out")
    labels = labels_of(dataset)
    if not bool(torch.isin(labels, classes).any()):
        raise ValueError(
            "no class of val_dataset is a class of the data set: give held-out samples of the same "
            "classes, or leave it out"
        )
    return labels
