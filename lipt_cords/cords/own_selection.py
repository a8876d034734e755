"""``selector: fast``: CORDS's GLISTER, GradMatch and CRAIG by our selectors, option for option.

One function from a strategy's options and a way to read gradients to a selection. The plugged-in
loaders call it, and so does a run that has no CORDS.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.devices import synchronize
from lipt_cords.base.randomness import derive_seed, preserved_rng
from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.base import Selection, needs_validation, select, selector_options
from lipt_cords.selectors.report import ReadGradients, SelectionReport, report_on

PER = {
    "PerClass": "class",
    "PerClassPerGradient": "class",
    "PerBatch": "batch",
    "Supervised": "all",
}
"""CORDS's ``selection_type`` in our words."""


LEAST_WEIGHT = 1e-6
"""Weight of a sample that the selector gave none, in units of the mean weight."""


@dataclass(frozen=True)
class FastOptions:
    """The options of a strategy of CORDS, in CORDS's own names and spellings."""

    strategy: str
    """``GLISTER``, ``GradMatch`` or ``CRAIG``, or the name of another selector."""
    selection_type: str
    """``PerClass``, ``PerBatch``, ``Supervised`` or, for GradMatch, ``PerClassPerGradient``."""
    linear_layer: bool = True
    """Gradients of the head's weights and bias, or of its bias alone."""
    loss: Any = None
    """The loss of one sample; None for cross-entropy."""
    eta: float = 0.01
    """GLISTER's step size."""
    greedy: str = "Naive"
    """GLISTER's search: ``Naive``, ``RGreedy`` or ``Stochastic``."""
    r: int = 15
    """Rounds of ``RGreedy``."""
    valid: bool = False
    """GradMatch matches the validation gradient."""
    lam: float = 0.0
    """GradMatch's ridge; CORDS ignores it on a CPU."""
    eps: float = 1e-4
    """GradMatch's tolerance; CORDS ignores it on a CPU."""
    if_convex: bool = False
    """CRAIG compares inputs, not gradients."""
    batch_size: int = 128
    """Samples in a batch, for ``PerBatch``."""
    seed: int = 0
    """Of every draw."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Options of our selector that CORDS has no key for, such as GLISTER's ``validation``."""

    @property
    def needs_validation(self) -> bool:
        """Whether validation gradients decide."""
        return needs_validation(self.strategy, self.own)

    @property
    def own(self) -> dict[str, Any]:
        """The same options as our selector takes them."""
        return {**_own_options(self), **self.extra}


def fast_selection(
    options: FastOptions,
    budget: int,
    train: BatchSource,
    val: BatchSource | None,
    read: ReadGradients,
    *,
    epoch: int = 0,
) -> tuple[Selection, SelectionReport]:
    """Select with our selectors, as the options of a strategy of CORDS say.

    Args:
        options: the strategy and its options.
        budget: samples to choose; met exactly, where CORDS rounds up per class and batch.
        train: the pool.
        val: the validation set, where the strategy needs one.
        read: last-layer gradients of a source, by the model that selects.
        epoch: when; the draws of two epochs are independent.

    Returns:
        The selection, its weights in the convention of `Selection`, and the report.

    Raises:
        ValueError: whatever the selector refuses.
    """
    started = time.perf_counter()
    convex = options.strategy == "CRAIG" and options.if_convex
    if convex:
        pool, validation = input_gradients(train), None
    else:
        pool = read(train)
        validation = read(val) if val is not None and options.needs_validation else None
    held = pool.nbytes + (0 if validation is None else validation.nbytes)
    synchronize(pool.logit_grads.device)
    gradient_seconds = time.perf_counter() - started
    asked, asked_validation, linear = pool, validation, options.linear_layer
    if options.selection_type == "PerClassPerGradient":
        asked = own_class(pool)
        asked_validation = None if validation is None else own_class(validation)
    if convex:
        linear = True  # the constant bias gradients hold nothing, the "embeddings" are the inputs
    name, own = options.strategy.lower(), options.own
    if "epoch" in selector_options(name):
        own.setdefault("epoch", epoch)
    selection = select(
        name,
        asked,
        budget,
        val_gradients=asked_validation,
        per=PER[options.selection_type],  # type: ignore[arg-type]
        linear_layer=linear,
        batch_size=options.batch_size,
        seed=derive_seed(options.seed, "selection", epoch),
        **own,
    )
    return selection, report_on(
        selection,
        pool,
        strategy=options.strategy,
        selection_type=options.selection_type,
        epoch=epoch,
        gradient_seconds=gradient_seconds,
        gradient_bytes=held,
        has_logits=not convex,
    )


def cords_weights(selection: Selection, strategy: str, pool: int) -> Tensor:
    """Weights on CORDS's scale: they sum up to the pool, GLISTER's are ones.

    CORDS's loop divides a batch by the sum of its weights, so no weight may be zero: a batch of
    such samples alone would be 0 / 0. Samples that got none count a millionth of the mean.

    Args:
        selection: weights in the convention of `Selection`.
        strategy: who chose.
        pool: N, the samples that were chosen from.

    Returns:
        (k,) float32 on the CPU, all positive.
    """
    weights = selection.weights
    if strategy == "GLISTER":
        return weights
    least = max(LEAST_WEIGHT * float(weights.mean()), torch.finfo(torch.float32).tiny)
    return weights.clamp_min(least) * (pool / len(selection))


def own_class(gradients: LastLayerGradients) -> LastLayerGradients:
    """Every sample's gradient in the output of its own class alone: ``PerClassPerGradient``.

    Within a class this is the slice of the gradient that CORDS takes, and between classes nothing
    is compared.
    """
    own = gradients.labels[:, None]
    return LastLayerGradients(
        gradients.logit_grads.gather(1, own),
        gradients.embeddings,
        gradients.labels,
        gradients.logits.gather(1, own),
    )


def input_gradients(source: BatchSource) -> LastLayerGradients:
    """Inputs in the form of gradients: of a linear model, distances between them are the same.

    With g = 1 and e = x, the squared distance of [g ; g e] and [g' ; g' e'] is that of x and x'.

    Raises:
        ValueError: dict batches, which have no one input.
    """
    inputs, labels = [], []
    with preserved_rng():
        for x, y in source.batches(batch_size=1024):
            if not isinstance(x, Tensor):
                raise ValueError(
                    "if_convex=True compares inputs and needs batches (x, y) of tensors, received "
                    f"dicts of {sorted(x)}: set if_convex=False"
                )
            inputs.append(x.flatten(1).float())
            labels.append(y)
    embeddings = torch.cat(inputs)
    ones = embeddings.new_ones(len(embeddings), 1)
    return LastLayerGradients(ones, embeddings, torch.cat(labels), torch.zeros_like(ones))


def _own_options(options: FastOptions) -> dict[str, Any]:
    if options.strategy == "GLISTER":
        chosen = {"eta": float(options.eta), "greedy": options.greedy.lower(), "loss": options.loss}
        return {**chosen, "r": int(options.r)} if options.greedy == "RGreedy" else chosen
    if options.strategy == "GradMatch":
        target = "validation" if options.valid else "train"
        return {"target": target, "ridge": float(options.lam), "tolerance": float(options.eps)}
    return {}
