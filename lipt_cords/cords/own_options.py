"""The ``selector`` key of a loader of CORDS: who selects there, and with which options.

``fast`` has none of the traps that :mod:`lipt_cords.cords.checks` guards CORDS's own
strategies against: samples are read by index, so a shuffling train loader is harmless; budgets
are met, so no number of rounds overshoots; a class may be absent. What remains is checked here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lipt_cords.base.devices import numbered_device, resolve_device
from lipt_cords.base.errors import unknown_name
from lipt_cords.cords.greedy_checks import GREEDY, is_number
from lipt_cords.cords.own_selection import PER, FastOptions
from lipt_cords.selectors.base import SELECTORS, check_option_names

WHO_SELECTS = ("cords", "fast")
"""Values of the ``selector`` key, besides the names of selectors."""

EXACT_GREEDY = ("lazy", "naive", "two-stage")
"""CRAIG's ``optimizer`` in apricot's words: all of them take the best sample at every step."""
OTHER_GREEDY = (
    "approximate-lazy", "bidirectional", "greedi", "modular", "random", "sample", "stochastic",
)  # fmt: skip
"""Apricot's cheaper or different searches."""

WITHOUT_GRADIENTS = ("RandomDataLoader", "OLRandomDataLoader", "AdaptiveRandomDataLoader")
"""Loaders that draw at random: there is nothing to make fast, both values mean the same."""

KINDS = {
    "GLISTER": ("PerBatch", "PerClass", "Supervised"),
    "GradMatch": ("PerBatch", "PerClass", "PerClassPerGradient", "Supervised"),
    "CRAIG": ("PerBatch", "PerClass", "Supervised"),
}
"""Selection types of the fast strategies. GradMatch over all classes is one that CORDS lacks."""


def who_selects(dss_args: Any) -> str:
    """The value of the ``selector`` key: ``cords``, ``fast`` or a selector; ``cords`` without one.

    Raises:
        ValueError: another value; the nearest name is suggested.
    """
    if not isinstance(dss_args, Mapping) or "selector" not in dss_args.keys():  # noqa: SIM118
        return "cords"
    value = dss_args["selector"]
    if value is None:
        return "cords"
    if value in WHO_SELECTS:
        return str(value)
    if value not in SELECTORS:
        known = unknown_name("selector in dss_args", value, (*WHO_SELECTS, *SELECTORS.names()))
        raise ValueError(f"{known} Import the module that registers another one first")
    return SELECTORS.entry(value).name


def fast_strategy(loader_class: type) -> str | None:
    """Which strategy a loader runs: ``GLISTER``, ``GradMatch``, ``CRAIG``; None for a random one.

    Raises:
        ValueError: a loader with a strategy of its own, which none of our selectors replaces.
    """
    names = [b.__name__ for b in loader_class.__mro__ if b.__module__.startswith("cords.")]
    for name in names:
        if name.removesuffix("DataLoader") in KINDS:
            return name.removesuffix("DataLoader")
        if name in WITHOUT_GRADIENTS:
            return None
    raise ValueError(
        f"{loader_class.__name__} has a strategy of its own, which selector='fast' cannot "
        f"replace (only {', '.join(KINDS)}): take the key out of dss_args, or set selector='cords'"
    )


def own_strategy(loader_class: type, dss_args: Any) -> str | None:
    """The strategy that our selectors run for a loader; None where CORDS selects.

    Raises:
        ValueError: a loader whose strategy cannot be replaced, or that selects without a model.
    """
    who = who_selects(dss_args)
    if who == "cords":
        return None
    replaced = fast_strategy(loader_class)
    if who == "fast":
        return replaced
    if replaced is None:
        raise ValueError(
            f"selector={who!r} needs gradients, and {loader_class.__name__} has no model: use "
            f"{', '.join(f'{name}DataLoader' for name in KINDS)}"
        )
    return str(SELECTORS.entry(who).facts["spelling"])


def loader_options(
    strategy: str, dss_args: Mapping[str, Any], batch_size: int | None
) -> FastOptions:
    """The options of a loader's selection by one of our selectors, checked.

    With ``selector: fast`` they are those of CORDS's strategy. Another selector takes
    ``selection_type``, ``linear_layer`` and ``loss`` of the loader, and its own ``options``.
    """
    given = dss_args["options"] if "options" in dss_args.keys() else {}  # noqa: SIM118
    if not isinstance(given, Mapping):
        raise ValueError(f"dss_args.options must be a mapping of options, received {given!r}")
    extra = {str(name): given[name] for name in given}
    if who_selects(dss_args) == "fast":
        return fast_options(strategy, dss_args, batch_size, seed=seed_of(dss_args), extra=extra)
    check_option_names(strategy.lower(), extra)
    kind = dss_args["selection_type"]
    if kind not in PER:
        raise unknown_name("selection_type in dss_args", kind, PER)
    return FastOptions(
        strategy=strategy,
        # The gradient in the sample's own class alone is a way of GradMatch.
        selection_type="PerClass" if kind == "PerClassPerGradient" else kind,
        linear_layer=bool(dss_args["linear_layer"]),
        loss=dss_args["loss"],
        batch_size=_batches(kind, batch_size),
        seed=seed_of(dss_args),
        extra=extra,
    )


def _batches(kind: str, batch_size: int | None) -> int:
    if kind == "PerBatch" and batch_size is None:
        raise ValueError(
            "selection_type='PerBatch' needs a train_loader with a batch_size, received one with "
            "a batch_sampler of its own: give it batch_size=... and shuffle=False"
        )
    return batch_size or 1


def fast_options(
    strategy: str,
    dss_args: Mapping[str, Any],
    batch_size: int | None,
    *,
    seed: int,
    extra: Mapping[str, Any] | None = None,
) -> FastOptions:
    """The options of a fast selection, checked.

    Args:
        strategy: ``GLISTER``, ``GradMatch`` or ``CRAIG``.
        dss_args: with CORDS's compulsory keys; only those of the strategy are read.
        batch_size: samples in a batch of the train loader, for ``PerBatch``.
        seed: of the draws.
        extra: options of our selector that CORDS has no key for.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    check_option_names(strategy.lower(), extra or {})
    kind = dss_args["selection_type"]
    if kind not in PER or kind not in KINDS[strategy]:
        raise unknown_name(f"selection_type of {strategy}DataLoader", kind, KINDS[strategy])
    size = _batches(kind, batch_size)
    chosen: dict[str, Any] = {}
    if strategy == "GLISTER":
        chosen = {"eta": _above_zero(dss_args["eta"]), "greedy": dss_args["greedy"]}
        if chosen["greedy"] not in GREEDY:
            raise unknown_name("greedy of GLISTERDataLoader", chosen["greedy"], GREEDY)
        if chosen["greedy"] == "RGreedy":
            chosen["r"] = _rounds(dss_args["r"] if "r" in dss_args.keys() else None)  # noqa: SIM118
    elif strategy == "GradMatch":
        chosen = {key: dss_args[key] for key in ("valid", "lam", "eps")}
        for key, below in (("lam", math.inf), ("eps", 1.0)):
            if not is_number(chosen[key]) or not 0 <= chosen[key] < below:
                raise ValueError(
                    f"dss_args.{key} must lie in [0, {below:g}), received {chosen[key]!r}"
                )
    else:
        chosen = {"if_convex": bool(dss_args["if_convex"])}
        _check_optimizer(dss_args["optimizer"])
    return FastOptions(
        strategy=strategy,
        selection_type=kind,
        linear_layer=bool(dss_args["linear_layer"]),
        loss=dss_args["loss"],
        batch_size=size,
        seed=seed,
        extra=extra or {},
        **chosen,
    )


def seed_of(dss_args: Mapping[str, Any]) -> int:
    """The seed of a loader's draws: ``dss_args.seed``, or one that numpy's global state decides.

    CORDS draws from the global state, so seeding numpy before the loader is built makes a run
    repeatable there. It does here too, though the state is only read, not advanced.

    Raises:
        ValueError: a seed that is no whole number.
    """
    if "seed" not in dss_args.keys():  # noqa: SIM118
        _, keys, position, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
        text = np.asarray(keys, dtype=np.uint32).tobytes() + str(position).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
    seed = dss_args["seed"]
    if not is_number(seed) or seed != int(seed) or seed < 0:
        raise ValueError(f"dss_args.seed must be a whole number from 0, received {seed!r}")
    return int(seed)


def device_of(dss_args: Mapping[str, Any]) -> torch.device:
    """The device of a loader, which CORDS lets be a name, a number or a torch device."""
    device = dss_args["device"]
    return resolve_device(numbered_device(device) if isinstance(device, int) else device)


def _above_zero(eta: Any) -> float:
    if not is_number(eta) or not 0 < eta < math.inf:
        raise ValueError(f"dss_args.eta must be a step size above 0, received {eta!r}")
    return float(eta)


def _rounds(r: Any) -> int:
    if not is_number(r) or r < 1 or r != int(r):
        raise ValueError(f"dss_args.r must be a number of rounds from 1, received {r!r}")
    return int(r)


def _check_optimizer(optimizer: Any) -> None:
    if optimizer in OTHER_GREEDY:
        raise ValueError(
            f"selector='fast' takes the best sample at every step, and optimizer={optimizer!r} "
            "does not: set optimizer='lazy', which is cheaper here than any approximation is in "
            "CORDS, or selector='cords'"
        )
    if optimizer not in EXACT_GREEDY:
        raise unknown_name("optimizer of CRAIGDataLoader", optimizer, EXACT_GREEDY + OTHER_GREEDY)
