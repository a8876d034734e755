"""CORDS's loaders by name, with the compulsory options filled in."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from lipt_cords.base.errors import unknown_name
from lipt_cords.cords.checks import RULES
from lipt_cords.cords.importing import ADAPTIVE, import_cords
from lipt_cords.cords.patches import enabled
from lipt_cords.cords.schema import DssConfig
from lipt_cords.cords.strategies import SELECTION_TYPES, split_strategy

CLASSES: dict[str, tuple[str, ...]] = {
    "GLISTER": ("GLISTERDataLoader",),
    "GradMatch": ("GradMatchDataLoader",),
    "CRAIG": ("CRAIGDataLoader",),
    "Random": ("RandomDataLoader",),
    "AdaptiveRandom": ("AdaptiveRandomDataLoader", "OLRandomDataLoader"),  # main, 0.0.4
}
"""Class names of each loader: the first that this version of CORDS has is taken."""


def cords_loader(
    name: str,
    train_loader: Any,
    val_loader: Any,
    dss_args: Mapping[str, Any],
    logger: logging.Logger | None = None,
    **loader_kwargs: Any,
) -> Any:
    """Build one of CORDS's adaptive loaders, plugged in.

    CORDS's loaders take some fifteen options by name, all compulsory. What is left out here gets
    the default of a configuration file. The plug-in need not be enabled.

    Args:
        name: ``GLISTER``, ``GradMatch``, ``CRAIG``, ``Random`` or ``AdaptiveRandom``, in any of
            CORDS's spellings (``-Warm``, ``PB``), in any case.
        train_loader: gives the train set in order: ``shuffle=False``, ``drop_last=False``.
        val_loader: gives the validation set in order; random loaders do not use it.
        dss_args: options of the selection: ``fraction``, ``select_every``, ``warm_start``, ...;
            loaders that select with a model need ``model`` and ``num_classes``. Not changed.
        logger: gets CORDS's messages; None: one named like this module.
        **loader_kwargs: arguments of the DataLoader of the subset. ``batch_size`` is that of
            ``train_loader`` and ``shuffle`` is True unless given.

    Returns:
        The loader: one epoch an iteration, batches ``(inputs, targets, weights)``.

    Raises:
        ValueError: an unknown name, or options on which CORDS would fail.
        ImportError: CORDS is not installed.
    """
    strategy, per_batch, _ = split_strategy(name)
    if strategy not in CLASSES:
        raise unknown_name("loader of CORDS", name, CLASSES)
    import_cords()
    adaptive = importlib.import_module(ADAPTIVE)
    cls = next(getattr(adaptive, n) for n in CLASSES[strategy] if hasattr(adaptive, n))
    options = _dot_map(_defaults(strategy, per_batch, dss_args))
    loader_kwargs = {
        "batch_size": train_loader.batch_size,
        "shuffle": True,
        **({"collate_fn": dss_args["collate_fn"]} if "collate_fn" in dss_args else {}),
        **loader_kwargs,
    }
    loaders = (train_loader,) if strategy not in SELECTION_TYPES else (train_loader, val_loader)
    with enabled():
        return cls(*loaders, options, logger or logging.getLogger(__name__), **loader_kwargs)


def _defaults(strategy: str, per_batch: bool, dss_args: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: dss_args[key] for key in dss_args.keys()}  # noqa: SIM118
    fields = DssConfig.model_fields
    options = {key: fields[key].default for key in ("fraction", "select_every", "kappa")}
    model = given.get("model")
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    options["device"] = "cpu" if parameter is None else str(parameter.device)
    if strategy in SELECTION_TYPES:
        needed = RULES[CLASSES[strategy][0]].keys
        options.update({key: fields[key].default for key in needed if key in fields})
        options["selection_type"] = "PerBatch" if per_batch else SELECTION_TYPES[strategy]
        options["loss"] = nn.CrossEntropyLoss(reduction="none")
        if "eta" in needed:
            options["eta"] = 0.01
        if "greedy" in needed:
            options["r"] = fields["r"].default
    return {**options, **{key: value for key, value in given.items() if value is not None}}


def _dot_map(options: dict[str, Any]) -> Any:
    from dotmap import DotMap

    mapping = DotMap()
    for key, value in options.items():  # one by one: DotMap(options) would copy nested dicts
        mapping[key] = value
    return mapping
