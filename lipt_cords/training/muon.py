"""Muon: momentum whose matrices are made orthogonal before a step; SGD or AdamW on the rest."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Rest = Literal["sgd", "adamw"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, which ends with singular values near one."""
ITERATIONS = 3
"""As in airbench (Jordan, 2024): with momentum 0.6, more of them gain nothing."""
BETAS, EPS = (0.9, 0.999), 1e-8
"""Of AdamW."""


class Muon(Optimizer):
    """Muon over matrices, and SGD with Nesterov momentum or AdamW over everything else.

    A weight of more than two dimensions counts as the matrix (outputs, everything else). Matrices
    of one shape are made orthogonal in one batch. The change of a matrix is scaled by
    sqrt(max(1, outputs / inputs)), so that one rate serves all shapes.

    Args:
        matrices: weights with at least two dimensions.
        others: all other parameters.
        lr: peak rate of the matrices.
        momentum: of the matrices, in [0, 1), in Nesterov's form.
        weight_decay: decoupled; a step shrinks the matrices by lr * weight_decay.
        rest: the optimizer of the others.
        rest_lr: peak rate of the others.
        rest_momentum: of SGD, in [0, 1).
        rest_weight_decay: L2 for SGD, decoupled for AdamW.
        precision: dtype of the iteration; None: that of the weights.
        stacked: the first dimension counts nets, each with its own matrix.

    Raises:
        ValueError: no matrices, or one with fewer than two dimensions.

    Source: Jordan et al., Muon, 2024.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        lr: float = 0.03,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
        rest: Rest = "sgd",
        rest_lr: float = 0.05,
        rest_momentum: float = 0.9,
        rest_weight_decay: float = 0.0,
        precision: torch.dtype | None = None,
        stacked: bool = False,
    ) -> None:
        if not matrices:
            raise ValueError(
                "optimizer 'muon' found no hidden weight matrix to train: expected a linear layer "
                "or a convolution before the head; take 'sgd' or 'adamw' for this model"
            )
        self._leading = 1 if stacked else 0
        for one in matrices:
            if one.ndim < 2 + self._leading:
                raise ValueError(f"Muon trains matrices, received a weight of {tuple(one.shape)}")
        self._precision = precision
        groups: list[dict[str, Any]] = [
            {"params": matrices, "kind": "muon", "lr": lr, "momentum": momentum,
             "weight_decay": weight_decay},
            {"params": others, "kind": rest, "lr": rest_lr, "momentum": rest_momentum,
             "weight_decay": rest_weight_decay},
        ]  # fmt: skip
        super().__init__(groups if others else groups[:1], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        steps = {"muon": self._step_muon, "sgd": self._step_sgd, "adamw": self._step_adamw}
        for group in self.param_groups:
            parameters = [one for one in group["params"] if one.grad is not None]
            if parameters:
                steps[group["kind"]](parameters, [one.grad for one in parameters], group)
        return value

    def _step_muon(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        buffers = self._kept(parameters, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        updates = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for places in self._alike(list(updates)):
            matrices = torch.stack([updates[place].flatten(self._leading + 1) for place in places])
            outputs, inputs = matrices.shape[-2:]
            scale = group["lr"] * sqrt(max(1.0, outputs / inputs))
            changes = orthogonalised(matrices, self._precision)
            for place, change in zip(places, changes.unbind(), strict=True):
                parameters[place].sub_(change.view(parameters[place].shape), alpha=scale)

    def _alike(self, updates: list[Tensor]) -> list[list[int]]:
        """Places of the matrices of each shape."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for place, one in enumerate(updates):
            of_matrix = one.flatten(self._leading + 1).shape
            found.setdefault((of_matrix, one.dtype, one.device), []).append(place)
        return list(found.values())

    def _step_sgd(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        momentum = group["momentum"]
        buffers = self._kept(parameters, "momentum_buffer") if momentum else []
        sgd(
            parameters, gradients, list(buffers) or [None] * len(parameters), foreach=True,
            weight_decay=group["weight_decay"], momentum=momentum, lr=group["lr"], dampening=0.0,
            nesterov=momentum > 0, maximize=False,
        )  # fmt: skip

    def _step_adamw(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        for one in parameters:
            if "step" not in self.state[one]:
                self.state[one]["step"] = torch.zeros(())
        counts = [self.state[one]["step"] for one in parameters]
        adamw(
            parameters, gradients, self._kept(parameters, "exp_avg"),
            self._kept(parameters, "exp_avg_sq"), [], counts,
            foreach=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=EPS, maximize=False,
        )  # fmt: skip

    def _kept(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """This optimizer's tensors of some parameters; zeros at first."""
        for one in parameters:
            if name not in self.state[one]:
                self.state[one][name] = torch.zeros_like(one)
        return [self.state[one][name] for one in parameters]


def orthogonalised(matrices: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Matrices with the same singular vectors, whose singular values are moved towards one.

    Args:
        matrices: shape (..., outputs, inputs).
        precision: dtype to compute in; None: that of the matrices.

    Returns:
        The same shape, in the dtype of the matrices. A matrix of zeros stays one.

    Source: Newton-Schulz iteration with the coefficients of Jordan et al., Muon, 2024.
    """
    tiny = torch.finfo(matrices.dtype).tiny
    # First by the largest entry: squares of very small or large ones are not representable.
    largest = matrices.abs().amax(dim=(-2, -1), keepdim=True)
    scaled = matrices / largest.clamp_min(tiny)
    norms = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True)
    values = (scaled / norms.clamp_min(tiny)).to(precision or matrices.dtype)
    tall = values.shape[-2] > values.shape[-1]
    wide = (values.mT if tall else values).reshape(-1, *sorted(values.shape[-2:]))
    # In 16 bits, small eigenvalues of the Gram matrix are rounded below zero, and grow.
    through_gram = wide.dtype.itemsize >= 4 and wide.shape[-1] >= 2 * wide.shape[-2]
    moved = _through_gram(wide) if through_gram else _step_by_step(wide)
    found = (moved.mT if tall else moved).reshape(matrices.shape)
    return found.to(matrices.dtype)


def _step_by_step(values: Tensor) -> Tensor:
    """Newton-Schulz as it is written: every iteration multiplies the matrices themselves."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = values @ values.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        values = torch.baddbmm(values, factor, values, beta=a)
    return values


def _through_gram(values: Tensor) -> Tensor:
    """The same of wide matrices, whose long side is multiplied twice in place of six times.

    An iteration multiplies X from the left with a polynomial P of G = XX', and so G becomes PGP: as
    all of them commute, G alone is iterated, and X is multiplied once with the product of all P.
    """
    gram = values @ values.mT
    product = factor = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    return product @ values


def _polynomial(gram: Tensor) -> Tensor:
    """What an iteration multiplies matrices with, from their Gram matrix: a I + b G + c GG."""
    a, b, c = NEWTON_SCHULZ
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
