"""CORDS's traps, found before any work is done.

CORDS trusts its arguments: a wrong one hangs, fails hours later with a bare IndexError, or
quietly selects something else. Each trap here is a clear ValueError. What runs, though not
as intended, is an error only for loaders with ``warm_start``, whose point is a sound selection, and
a warning for all others, so that existing runs still work.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import preserved_rng
from lipt_cords.cords.greedy_checks import check_greedy, is_number
from lipt_cords.data.labels import labels_of

COMMON_KEYS = ("fraction", "select_every", "device", "kappa")


@dataclass(frozen=True)
class Rules:
    """What one of CORDS's loaders accepts."""

    keys: tuple[str, ...]
    selection_types: tuple[str, ...]
    val_by_class: bool | None
    """Whether selecting per class reads the validation labels; None: as ``valid`` says."""


_MODEL_KEYS = ("model", "loss", "num_classes", "linear_layer", "selection_type")
RULES: dict[str, Rules] = {
    "GLISTERDataLoader": Rules(
        (*_MODEL_KEYS, "eta", "greedy"), ("PerBatch", "PerClass", "Supervised"), True
    ),
    "GradMatchDataLoader": Rules(
        (*_MODEL_KEYS, "eta", "valid", "v1", "lam", "eps"),
        ("PerBatch", "PerClass", "PerClassPerGradient"),
        None,
    ),
    "CRAIGDataLoader": Rules(
        (*_MODEL_KEYS, "optimizer", "if_convex"), ("PerBatch", "PerClass", "Supervised"), False
    ),
}
"""The loaders that select with a model; random ones have :data:`COMMON_KEYS` alone."""


def rules_of(loader_class: type) -> Rules | None:
    """The rules of a loader class, or of the CORDS class that it derives from."""
    for base in loader_class.__mro__:
        if base.__name__ in RULES and base.__module__.startswith("cords."):
            return RULES[base.__name__]
    return None


def check_loader(
    loader_class: type,
    train_loader: Any,
    val_loader: Any,
    dss_args: Any,
    *,
    warm: bool,
    fast: bool = False,
) -> None:
    """Raise for everything that would crash, hang or select wrongly in CORDS.

    Args:
        loader_class: the adaptive loader about to be built.
        train_loader: its train loader, whose order stands for the data set's.
        val_loader: its validation loader; the train loader again for random ones.
        dss_args: its options.
        warm: whether ``warm_start`` is set, which makes doubtful settings errors too.
        fast: whether our selectors stand in for CORDS's strategy, whose traps are then left out.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    rules = rules_of(loader_class)
    check_dss_args(dss_args, COMMON_KEYS + (rules.keys if rules else ()), loader_class.__name__)
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            raise ValueError(
                f"{name} must be a torch.utils.data.DataLoader over a map-style data set, received "
                f"{type(loader).__name__}"
            )
    budget = _check_numbers(dss_args, len(train_loader.dataset), warm)
    if rules is None:
        return
    if getattr(dss_args["loss"], "reduction", None) != "none":
        raise ValueError(
            "dss_args.loss must give one loss a sample: build it with reduction='none', received "
            f"{dss_args['loss']!r}"
        )
    kind = dss_args["selection_type"]
    if fast:
        if kind == "PerBatch":  # batches of the loader are what is chosen
            _check_order("train_loader", train_loader, True)
        return
    if kind not in rules.selection_types:
        raise unknown_name(
            f"selection_type of {loader_class.__name__}", kind, rules.selection_types
        )
    by_class = kind.startswith("PerClass")
    val_by_class = dss_args["valid"] if rules.val_by_class is None else rules.val_by_class
    _check_order("train_loader", train_loader, warm)
    counts: Tensor | None = None
    if by_class:
        if val_by_class and val_loader is not train_loader:
            _check_order("val_loader", val_loader, warm)
            _class_counts("validation", val_loader, dss_args["num_classes"])
        counts = _class_counts("training", train_loader, dss_args["num_classes"])
    if "greedy" in rules.keys:
        check_greedy(dss_args, budget, train_loader, val_loader, counts)


def check_dss_args(dss_args: Any, keys: Iterable[str], owner: str) -> None:
    """Raise unless ``dss_args`` is read by attributes and holds every key.

    Reading a missing key of a DotMap creates it as an empty DotMap, which is false and is not None:
    nothing here reads a key that may be missing, and an empty one counts as missing.
    """
    if not isinstance(dss_args, Mapping):
        raise ValueError(
            f"dss_args of {owner} must be a DotMap, received {type(dss_args).__name__}: "
            "from dotmap import DotMap; DotMap(fraction=0.1, ...)"
        )
    known = set(dss_args.keys())
    if known and not hasattr(dss_args, str(next(iter(dss_args.keys())))):
        raise ValueError(
            f"dss_args of {owner} is a plain {type(dss_args).__name__}, but CORDS reads it by "
            "attributes: wrap it, DotMap(dss_args)"
        )
    for key in keys:
        if key not in known:
            raise ValueError(f"dss_args of {owner} lacks {key!r}: add it (given: {sorted(known)})")
        value = dss_args[key]
        if isinstance(value, Mapping) and len(value) == 0:
            raise ValueError(
                f"dss_args.{key} of {owner} is an empty {type(value).__name__}, where a value is "
                "needed: reading a missing key of a DotMap creates one. Set it before it is read"
            )


def _check_numbers(dss_args: Any, size: int, warm: bool) -> int:
    fraction, every, kappa = (dss_args[k] for k in ("fraction", "select_every", "kappa"))
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise ValueError(f"dss_args.fraction must lie in (0, 1], received {fraction!r}")
    if not is_number(every) or every < 1 or every != int(every):
        raise ValueError(
            f"dss_args.select_every must be a number of epochs from 1, received {every!r}"
        )
    if not is_number(kappa) or not 0 <= kappa <= 1:
        raise ValueError(f"dss_args.kappa must lie in [0, 1], received {kappa!r}")
    if kappa > 0 and not warm:
        check_dss_args(dss_args, ("num_epochs",), "a loader with kappa > 0")
    budget = int(size * fraction)
    if budget == 0:
        raise ValueError(
            f"the budget is 0: fraction {fraction} of {size} samples. Raise dss_args.fraction to "
            f"{1 / max(size, 1):.2g} or more"
        )
    return budget


def _check_order(name: str, loader: DataLoader[Any], warm: bool) -> None:
    """CORDS takes the position of a sample in the loader for its index in the data set."""
    sampler: Any = loader.batch_sampler
    size = len(loader.dataset)  # type: ignore[arg-type]
    if sampler is None:
        raise ValueError(f"{name} has no batches (batch_size=None): give it a batch_size")
    plain = type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler
    if plain and not (sampler.drop_last and size % sampler.batch_size and name == "train_loader"):
        return
    if not plain:
        with preserved_rng():  # looking at a random order draws one
            order = list(chain.from_iterable(sampler))
        in_order = order == list(range(size))
        if in_order or (name == "val_loader" and order == list(range(len(order)))):
            return
    message = (
        f"{name} must give the data set in its own order and whole (shuffle=False, no sampler, "
        "drop_last=False): CORDS takes positions in it for indices and would select the wrong "
        "samples. The loader of the subset may shuffle"
    )
    _refuse(message, warm)


def _class_counts(role: str, loader: DataLoader[Any], num_classes: int) -> Tensor:
    """Samples of each class; a class without any makes CORDS fail with a bare IndexError."""
    labels = labels_of(loader.dataset)
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        span = f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "none"
        raise ValueError(
            f"the {role} labels must lie in [0, num_classes = {num_classes}), received {span}"
        )
    counts = torch.bincount(labels, minlength=num_classes)
    absent = torch.where(counts == 0)[0].tolist()
    if absent:
        raise ValueError(
            f"the {role} data has no sample of class {', '.join(map(str, absent))}, and selection "
            "per class needs one of each: add some, or select with selection_type='Supervised' "
            "(GLISTER, CRAIG) or 'PerBatch'"
        )
    return counts


def check_subset(indices: Any, weights: Any, owner: str) -> Any:
    """Raise unless a selection has one weight an index; replace weights that are not finite.

    Returns:
        The weights: the same object if all are finite. Where the gradients of a class vanish,
        CORDS's matching pursuit divides by zero; such a sample gets weight 1, as CORDS gives the
        samples that it adds at random.
    """
    if len(indices) != len(weights):
        raise ValueError(
            f"{owner} selected {len(indices)} indices with {len(weights)} weights, expected one "
            "weight an index: check selection_type, greedy and r against the budget"
        )
    if len(indices) == 0:
        raise ValueError(f"{owner} selected nothing: check selection_type and fraction")
    if isinstance(weights, Tensor) and not bool(torch.isfinite(weights).all()):
        wrong = int((~torch.isfinite(weights)).sum())
        warn_user(
            f"{owner} gave {wrong} of {len(weights)} selected samples no finite weight (their "
            "gradients vanish); they train with weight 1"
        )
        return torch.where(torch.isfinite(weights), weights, torch.ones_like(weights))
    return weights


def warn_user(message: str) -> None:
    """Warn at the line outside of this package and of CORDS that led here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("lipt_cords", "cords.")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _refuse(message: str, warm: bool) -> None:
    if warm:
        raise ValueError(message)
    warn_user(message)
