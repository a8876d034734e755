"""What a selector is: one function from gradients and a budget to a `Selection`, found by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipt_cords.base.devices import synchronize
from lipt_cords.base.errors import unknown_name
from lipt_cords.base.messages import travels
from lipt_cords.base.registry import Registry
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.checks import (
    check_budget,
    check_gradients,
    check_labels,
    check_positive,
    check_validation,
)

logger = logging.getLogger(__name__)

Per = Literal["class", "all", "batch"]
PER_NAMES = ("class", "all", "batch")


@travels
@dataclass(frozen=True)
class Selection:
    """A subset of a pool, how much each member counts, and what choosing it cost.

    Attributes:
        indices: (k,) int64 on the CPU, distinct, in the order of choice (class by class when
            the selection is per class); of the data set, also where gradients of a part of it
            were given.
        weights: (k,) float32 on the CPU. For every selector the same convention: the mean of
            ``weights * gradient`` over the subset stands for the mean gradient of the pool, so
            an unweighted selector gives ones.
        scores: (k,) what each member was chosen for (a gain, a norm, a difficulty), or None.
        seconds: wall time of the selection, gradients not included.
        name: the selector's name.
        info: what happened on the way: budgets, fallbacks, objective, which memory path was taken;
            ``missing_classes`` and ``warning`` where classes of the pool are not in the subset.
    """

    indices: Tensor
    weights: Tensor
    scores: Tensor | None = None
    seconds: float = 0.0
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.indices.numel())


# What torch.save wrote, torch.load reads without being told that the class is trusted.
torch.serialization.add_safe_globals([Selection])


@dataclass(frozen=True)
class Choice:
    """What a selector function returns: `Selection` before the bookkeeping."""

    indices: Tensor
    weights: Tensor | None = None
    scores: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectionProblem:
    """The validated question that a selector function answers.

    Attributes:
        pool: last-layer gradients of the pool, or None when only labels were given.
        labels: (N,) int64 on the CPU.
        budget: how many samples to choose, 1..N.
        validation: last-layer gradients of a validation set, or None.
        per: choose within each class, over all samples, or among whole batches.
        linear_layer: gradients of weights and bias (True), or of the bias alone.
        seed: the seed from which every draw is derived.
        batch_size: samples a batch, for ``per="batch"``.
        memory_limit: bytes that the selection may take besides the gradients, or None for half
            of what is free on the device.
    """

    pool: LastLayerGradients | None
    labels: Tensor
    budget: int
    validation: LastLayerGradients | None = None
    per: Per = "class"
    linear_layer: bool = True
    seed: int = 0
    batch_size: int = 128
    memory_limit: int | None = None

    def __len__(self) -> int:
        return int(self.labels.numel())

    @property
    def gradients(self) -> LastLayerGradients:
        """The pool's gradients; selectors that work from labels alone never read them."""
        if self.pool is None:
            raise ValueError(
                "expected LastLayerGradients of the pool, received labels alone: "
                "only selectors that draw at random work from labels"
            )
        return self.pool


SelectorFunction = Callable[..., "Choice | Tensor"]
F = TypeVar("F", bound=SelectorFunction)
NeedsValidation = bool | Callable[[Mapping[str, Any]], bool]
"""Whether a selector needs validation gradients: always or never, or a function of its options."""

SELECTORS: Registry[SelectorFunction] = Registry(
    "selector",
    takes=("problem",),
    spelling=None,
    needs_validation=False,
    fresh=False,
    labels_only=False,
    keeps_scores=False,
    untrained=False,
)
"""All selectors. The facts of each:

- ``spelling``: its name in configurations and tables, such as ``GradMatch``;
- ``needs_validation``: see :data:`NeedsValidation`;
- ``fresh``: it gives another subset in every epoch, whatever ``select_every`` says;
- ``labels_only``: it draws from labels, so that a run computes no gradients for it;
- ``keeps_scores``: a run scores the pool once, and gives these ``scores`` in every epoch;
- ``untrained``: where no model was trained, a run gives it ``features`` of the samples and
  ``scores`` in closed form, once, and no gradients of an untrained net.
"""
_IN_METHOD_NAMES = "+/@=,"
_RESERVED = ("full", "adaptiverandom", "selector", "none")


def register_selector(
    name: str,
    *,
    needs_validation: NeedsValidation = False,
    fresh: bool = False,
    labels_only: bool = False,
    keeps_scores: bool = False,
    untrained: bool = False,
    spelling: str | None = None,
) -> Callable[[F], F]:
    """Make a function selectable by name: in `select`, in configurations and on the command line.

    The function takes a `SelectionProblem`, then its own options as keyword-only arguments with
    defaults, and returns a `Choice` or just the chosen indices.

    Args:
        name: the name for `select` and for ``dss_args.type``; it must be free. Upper and lower
            case are the same. Comparisons combine names, so ``+``, ``/``, ``@``, ``=``, commas
            and spaces cannot be in it.
        needs_validation: whether the selector needs validation gradients
            (``problem.validation``): True, False, or a function of its options. Where it does,
            a run computes them, and `select` raises an error without them.
        fresh: the selector gives another subset in every epoch, whatever ``select_every`` says.
        labels_only: labels suffice: a run then computes no gradients for it.
        keeps_scores: the selector takes ``score`` and ``scores``, and every selection of a run
            should see the same ones: the run computes them once, with a trained model.
        untrained: the selector takes ``features``, ``scores`` and ``pilot``: where no model was
            trained, a run gives these, computed in closed form.
        spelling: the name in tables and records; None: ``name``.

    A run fills the option ``epoch``, where the function has it, with its epoch, counted from 0.
    With an option ``epochs`` beside it, both count the epochs on subsets alone.

    Raises:
        ValueError: the name is taken, reserved or no name, or the function cannot be called with
            a problem alone.

    >>> @register_selector("first")
    ... def first(problem, *, skip=0):
    ...     return torch.arange(skip, skip + problem.budget)
    >>> select("first", torch.tensor([0, 1, 0, 1]), 2, skip=1).indices
    tensor([1, 2])
    >>> unregister_selector("first")
    """
    text = str(name)
    if text.lower() in _RESERVED or any(c in _IN_METHOD_NAMES or c.isspace() for c in text):
        raise ValueError(
            f"a selector cannot be named {text!r}: expected a name without spaces and "
            f"{' '.join(_IN_METHOD_NAMES)}, and other than {', '.join(_RESERVED)}"
        )
    if name in SELECTORS:
        taken = SELECTORS.entry(name).module
        raise ValueError(
            f"a selector named {name!r} exists already, registered by {taken}: choose another name"
        )

    if needs_validation and (labels_only or keeps_scores):
        raise ValueError(
            f"selector {name!r}: labels_only and keeps_scores mean that a run gives no gradients, "
            "so needs_validation cannot be set too: leave one of them out"
        )

    def register(function: F) -> F:
        SELECTORS.register(
            name,
            spelling=spelling or name,
            needs_validation=needs_validation,
            fresh=fresh,
            labels_only=labels_only,
            keeps_scores=keeps_scores,
            untrained=untrained,
        )(function)
        return function

    return register


def unregister_selector(name: str) -> None:
    """Remove a registered selector, for instance at the end of a test."""
    SELECTORS.unregister(name)


def selector_names() -> tuple[str, ...]:
    """The names that `select` knows, sorted."""
    return tuple(sorted(SELECTORS.names()))


def selector_options(name: str) -> tuple[str, ...]:
    """The options that one selector takes besides those of `select`."""
    return SELECTORS.options(name)


def needs_validation(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a selector needs validation gradients when it is called with these options.

    >>> needs_validation("glister", {}), needs_validation("gradmatch", {})
    (True, False)
    >>> needs_validation("gradmatch", {"target": "validation"})
    True
    """
    fact: NeedsValidation = SELECTORS.entry(name).facts["needs_validation"]
    return bool(fact(options)) if callable(fact) else fact


def check_option_names(name: str, options: Iterable[str]) -> None:
    """Refuse options that a selector does not take.

    Raises:
        ValueError: the first such option; the nearest one is suggested.
    """
    known = SELECTORS.options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of selector {name!r}", option, (*known, *_COMMON_OPTIONS))


def select(
    name: str,
    gradients: LastLayerGradients | Tensor | NDArray[Any],
    budget: int | float,
    *,
    val_gradients: LastLayerGradients | None = None,
    per: Per = "class",
    linear_layer: bool = True,
    seed: int = 0,
    batch_size: int = 128,
    memory_limit: int | None = None,
    **options: Any,
) -> Selection:
    """Choose ``budget`` samples of a pool from its last-layer gradients.

    Args:
        name: a registered selector; `selector_names` lists them.
        gradients: last-layer gradients of the N samples of the pool, read as float32 (other
            precisions are copied). Selectors that draw at random also take the labels alone,
            (N,) integers.
        budget: how many samples to choose, 1..N, or a float in (0, 1]: their share of the pool,
            rounded, at least one sample. It is met exactly. With ``per="class"`` classes share
            it in proportion to their sizes, the fractions rounded by largest remainder, and each
            gets at least one sample if the budget is not below their number.
        val_gradients: last-layer gradients of a validation set, for selectors that use one.
        per: ``"class"`` chooses within each class, ``"all"`` over the pool, ``"batch"`` among
            batches of ``batch_size`` consecutive samples. The last two promise no class a sample;
            classes that get none are logged, and stand in ``info["missing_classes"]``.
        linear_layer: whether gradients are those of the head's weights and bias, or of its
            bias alone.
        seed: the seed of every draw.
        batch_size: samples a batch for ``per="batch"``. Whole batches are chosen in order; the
            last one is cut so that the budget is met exactly.
        memory_limit: bytes that the selection may allocate. When an estimate exceeds it, slower
            paths in chunks are taken and ``info["memory"]`` says which. None: half of what is
            free.
        **options: the selector's own options, see its function.

    Returns:
        The selection; equal arguments give equal bits. Ties go to the lowest index.

    Raises:
        ValueError: unknown name or option, budget out of range, gradients that are NaN, infinite
            or longer than 1e15 (the rows are named), shapes that do not match.

    >>> chosen = select("random", torch.tensor([0, 0, 0, 1, 1, 1]), 4, seed=1)
    >>> len(chosen), chosen.weights.tolist()
    (4, [1.0, 1.0, 1.0, 1.0])
    """
    function = SELECTORS[name]
    check_option_names(name, options)
    problem = _validated(
        gradients, budget, val_gradients, per, linear_layer, seed, batch_size, memory_limit
    )
    if val_gradients is None and needs_validation(name, options):
        raise ValueError(
            f"selector {name!r} chooses by validation gradients: expected val_gradients=, received "
            "none. Compute them with last_layer_gradients(model, validation_set)"
        )
    started = _seconds_now(problem)
    answer = function(problem, **options)
    choice = answer if isinstance(answer, Choice) else Choice(answer)
    seconds = _seconds_now(problem) - started
    return _finished(str(name).lower(), problem, choice, seconds)


_COMMON_OPTIONS = ("val_gradients", "per", "linear_layer", "seed", "batch_size", "memory_limit")


def _validated(
    gradients: LastLayerGradients | Tensor | NDArray[Any],
    budget: int | float,
    val_gradients: LastLayerGradients | None,
    per: str,
    linear_layer: bool,
    seed: int,
    batch_size: int,
    memory_limit: int | None,
) -> SelectionProblem:
    if not isinstance(gradients, LastLayerGradients | Tensor | np.ndarray):
        raise ValueError(
            "expected LastLayerGradients, or labels of shape (N,) as a tensor or array, received "
            f"{type(gradients).__name__}: last_layer_gradients(model, data) gives them"
        )
    pool = gradients if isinstance(gradients, LastLayerGradients) else None
    labels = check_labels(gradients if pool is None else pool.labels)
    if per not in PER_NAMES:
        raise unknown_name("grouping (per=)", per, PER_NAMES)
    if pool is not None:
        pool = check_gradients(pool, "gradients", linear_layer)
    if val_gradients is not None:
        val_gradients = check_validation(pool, val_gradients, linear_layer)
    return SelectionProblem(
        pool=pool,
        labels=labels,
        budget=check_budget(budget, labels.numel()),
        validation=val_gradients,
        per=cast(Per, per),
        linear_layer=bool(linear_layer),
        seed=seed,
        batch_size=check_positive("batch_size", batch_size),
        memory_limit=None if memory_limit is None else check_positive("memory_limit", memory_limit),
    )


def _seconds_now(problem: SelectionProblem) -> float:
    """Wall time once the device has finished what it was given."""
    if problem.pool is not None:
        synchronize(problem.pool.logit_grads.device)
    return time.perf_counter()


def _finished(name: str, problem: SelectionProblem, choice: Choice, seconds: float) -> Selection:
    indices = choice.indices.detach().to("cpu", torch.int64)
    distinct = len(set(indices.flatten().tolist()))
    if indices.shape != (problem.budget,) or distinct != problem.budget:
        raise ValueError(
            f"selector {name!r} returned {tuple(indices.shape)} indices, "
            f"{distinct} of them distinct: expected {problem.budget} distinct ones"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= len(problem):
        raise ValueError(
            f"selector {name!r} returned indices {int(indices.min())} to {int(indices.max())}: "
            f"expected some in [0, {len(problem)})"
        )
    chosen = indices
    places = None if problem.pool is None else problem.pool.indices
    if places is not None:
        indices = places[indices]
    weights = choice.weights
    if weights is None:
        weights = torch.ones(problem.budget)
    scores = choice.scores
    info: dict[str, Any] = {"per": problem.per, "linear_layer": problem.linear_layer}
    missing = _missing_classes(name, problem, chosen)
    info |= missing | choice.info
    if "warning" in missing and "warning" in choice.info:
        info["warning"] = f"{missing['warning']}; {choice.info['warning']}"
    return Selection(
        indices=indices,
        weights=weights.detach().to("cpu", torch.float32),
        scores=None if scores is None else scores.detach().to("cpu", torch.float32),
        seconds=seconds,
        name=name,
        info=info,
    )


def _missing_classes(name: str, problem: SelectionProblem, chosen: Tensor) -> dict[str, Any]:
    """Classes of the pool that the subset lacks, with a warning that is logged too."""
    known = problem.labels.unique()  # type: ignore[no-untyped-call]
    found = problem.labels[chosen].unique()  # type: ignore[no-untyped-call]
    missing = known[~torch.isin(known, found)].tolist()
    if not missing:
        return {}
    shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    if problem.budget < len(known):
        remedy = f"a budget of at least {len(known)} has room for all"
    else:
        remedy = "per='class' (selection_type: PerClass) chooses at least one of each"
    warning = f"{len(missing)} of {len(known)} classes are not in the subset ({shown}): {remedy}"
    # Who draws anew in every epoch finds in another one what this one lacks.
    if problem.per == "class" or not SELECTORS.entry(name).facts["fresh"]:
        logger.warning("selector %r: %s", name, warning)
    return {"missing_classes": missing, "warning": warning}
