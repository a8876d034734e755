"""What a selector is: one function from gradients and a budget to a `Selection`, found by name."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from lipt_cords.base.errors import unknown_name
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.checks import (
    check_budget,
    check_finite,
    check_labels,
    check_positive,
    check_validation,
)

Per = Literal["class", "all", "batch"]
PER_NAMES = ("class", "all", "batch")


@dataclass(frozen=True)
class Selection:
    """A subset of a pool, how much each member counts, and what choosing it cost.

    Attributes:
        indices: (k,) int64 on the CPU, distinct, in the order of choice (class by class when
            the selection is per class).
        weights: (k,) float32 on the CPU. For every selector the same convention: the mean of
            ``weights * gradient`` over the subset stands for the mean gradient of the pool, so
            an unweighted selector gives ones.
        scores: (k,) what each member was chosen for (a gain, a norm, a difficulty), or None.
        seconds: wall time of the selection, gradients not included.
        name: the selector's name.
        info: what happened on the way: budgets, fallbacks, objective, which memory knob turned.
    """

    indices: Tensor
    weights: Tensor
    scores: Tensor | None = None
    seconds: float = 0.0
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.indices.numel())


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
        """The pool's gradients; selectors that work from labels alone never ask."""
        if self.pool is None:
            raise ValueError(
                "expected LastLayerGradients of the pool, received labels alone: "
                "only selectors that draw at random work from labels"
            )
        return self.pool


SelectorFunction = Callable[..., "Choice | Tensor"]
F = TypeVar("F", bound=SelectorFunction)
_SELECTORS: dict[str, SelectorFunction] = {}


def register_selector(name: str) -> Callable[[F], F]:
    """Make a function selectable by name.

    The function takes a `SelectionProblem`, then its own options as keyword-only arguments, and
    returns a `Choice` or just the chosen indices.

    Args:
        name: the name for `select`; it must be free.

    Raises:
        ValueError: the name is taken.

    >>> @register_selector("first")
    ... def first(problem, *, skip=0):
    ...     return torch.arange(skip, skip + problem.budget)
    >>> select("first", torch.tensor([0, 1, 0, 1]), 2, skip=1).indices
    tensor([1, 2])
    >>> unregister_selector("first")
    """
    key = name.lower()
    if key in _SELECTORS:
        raise ValueError(f"a selector named {name!r} exists already: choose another name")

    def register(function: F) -> F:
        _SELECTORS[key] = function
        return function

    return register


def unregister_selector(name: str) -> None:
    """Forget a selector of one's own, for instance at the end of a test."""
    _SELECTORS.pop(name.lower(), None)


def selector_names() -> tuple[str, ...]:
    """The names that `select` knows, sorted."""
    return tuple(sorted(_SELECTORS))


def selector_options(name: str) -> tuple[str, ...]:
    """The options that one selector takes besides those of `select`."""
    parameters = inspect.signature(_selector(name)).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _selector(name: str) -> SelectorFunction:
    function = _SELECTORS.get(str(name).lower())
    if function is None:
        raise unknown_name("selector", name, _SELECTORS)
    return function


def select(
    name: str,
    gradients: LastLayerGradients | Tensor,
    budget: int,
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
        gradients: last-layer gradients of the N samples of the pool. Selectors that draw at
            random also take the labels alone, (N,) integers.
        budget: how many samples to choose, 1..N; met exactly. Classes share it in proportion
            to their sizes, the fractions rounded by largest remainder.
        val_gradients: last-layer gradients of a validation set, for selectors that use one.
        per: ``"class"`` chooses within each class, ``"all"`` over the pool, ``"batch"`` among
            batches of ``batch_size`` consecutive samples.
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
        ValueError: unknown name or option, budget out of range, NaN or infinite gradients (the
            rows are named), shapes that do not match.

    >>> chosen = select("random", torch.tensor([0, 0, 0, 1, 1, 1]), 4, seed=1)
    >>> len(chosen), chosen.weights.tolist()
    (4, [1.0, 1.0, 1.0, 1.0])
    """
    function = _selector(name)
    known = selector_options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of selector {name!r}", option, (*known, *_COMMON_OPTIONS))
    problem = _validated(
        gradients, budget, val_gradients, per, linear_layer, seed, batch_size, memory_limit
    )
    started = _clock(problem)
    answer = function(problem, **options)
    choice = answer if isinstance(answer, Choice) else Choice(answer)
    seconds = _clock(problem) - started
    return _finished(str(name).lower(), problem, choice, seconds)


_COMMON_OPTIONS = ("val_gradients", "per", "linear_layer", "seed", "batch_size", "memory_limit")


def _validated(
    gradients: LastLayerGradients | Tensor,
    budget: int,
    val_gradients: LastLayerGradients | None,
    per: str,
    linear_layer: bool,
    seed: int,
    batch_size: int,
    memory_limit: int | None,
) -> SelectionProblem:
    pool = None if isinstance(gradients, Tensor) else gradients
    labels = check_labels(gradients if isinstance(gradients, Tensor) else gradients.labels)
    if per not in PER_NAMES:
        raise unknown_name("grouping (per=)", per, PER_NAMES)
    if pool is not None:
        check_finite(pool, "gradients", linear_layer)
    if val_gradients is not None:
        check_validation(pool, val_gradients, linear_layer)
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


def _clock(problem: SelectionProblem) -> float:
    """Wall time once the device has finished what it was given."""
    if problem.pool is not None and problem.pool.logit_grads.is_cuda:
        torch.cuda.synchronize(problem.pool.logit_grads.device)
    return time.perf_counter()


def _finished(name: str, problem: SelectionProblem, choice: Choice, seconds: float) -> Selection:
    indices = choice.indices.detach().to("cpu", torch.int64)
    distinct = len(set(indices.flatten().tolist()))
    if indices.shape != (problem.budget,) or distinct != problem.budget:
        raise ValueError(
            f"selector {name!r} returned {tuple(indices.shape)} indices, "
            f"{distinct} of them distinct: expected {problem.budget} distinct ones"
        )
    weights = choice.weights
    if weights is None:
        weights = torch.ones(problem.budget)
    scores = choice.scores
    info: Mapping[str, Any] = {"per": problem.per, "linear_layer": problem.linear_layer}
    return Selection(
        indices=indices,
        weights=weights.detach().to("cpu", torch.float32),
        scores=None if scores is None else scores.detach().to("cpu", torch.float32),
        seconds=seconds,
        name=name,
        info={**info, **choice.info},
    )
