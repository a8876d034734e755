"""Candidates as vectors whose inner products are known: samples in factors, or batch means.

OMP and facility location read nothing but inner products. They are taken in float64 from the
float32 factors, because both methods decide on differences of them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lipt_cords.models.gradients import HeadGradient, LastLayerGradients
from lipt_cords.selectors.grouping import batch_means, batch_sizes
from lipt_cords.selectors.memory import chunk_of, refuse


class Atoms(Protocol):
    """What a solver needs of its n candidates."""

    linear_layer: bool

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def inner(self, rows: Tensor) -> Tensor:
        """Inner products of some candidates with all, (rows, n) float64."""
        ...

    def column(self, atom: int) -> Tensor:
        """Inner products of one candidate with all, (n,) float64; the caller may overwrite it."""
        ...

    def squared_norms(self) -> Tensor:
        """(n,) float64."""
        ...

    def against(self, target: HeadGradient) -> Tensor:
        """Inner products of all candidates with one dense gradient, (n,) float64."""
        ...

    def own_sum(self) -> tuple[Tensor, float]:
        """Inner products of all candidates with their sum, (n,), and its squared norm."""
        ...


class FactoredAtoms:
    """Samples, in factors: <G_i, G_j> = (g_i . g_j)(1 + e_i . e_j).

    Args:
        logit_grads: (n, C).
        embeddings: (n, E), or None for the gradient of the bias alone.
        limit: bytes for float64 copies of the factors. When they do not fit, the factors are
            converted in chunks at every use; the products are the same.
    """

    def __init__(self, logit_grads: Tensor, embeddings: Tensor | None, limit: int) -> None:
        width = logit_grads.shape[1] + (0 if embeddings is None else embeddings.shape[1])
        size = len(logit_grads)
        self.linear_layer = embeddings is not None
        self.resident = 8 * width * size <= limit
        # What is converted is multiplied too, and the products are as wide.
        self._chunk = size if self.resident else chunk_of(size, 24 * width, limit)
        dtype = torch.float64 if self.resident else logit_grads.dtype
        self._logit_grads = logit_grads.to(dtype)
        self._embeddings = None if embeddings is None else embeddings.to(dtype)
        self._arrays: tuple[Any, Any] = (None, None)
        if self.resident and self.device.type == "cpu":
            weights = None if self._embeddings is None else self._embeddings.numpy()
            self._arrays = (self._logit_grads.numpy(), weights)

    @classmethod
    def of(
        cls, gradients: LastLayerGradients, members: Tensor, linear_layer: bool, limit: int
    ) -> FactoredAtoms:
        """The samples at ``members``, in that order."""
        where = members.to(gradients.logit_grads.device)
        whole = len(members) == len(gradients.labels)
        logit_grads = gradients.logit_grads if whole else gradients.logit_grads[where]
        if not linear_layer:
            return cls(logit_grads, None, limit)
        return cls(
            logit_grads, gradients.embeddings if whole else gradients.embeddings[where], limit
        )

    @property
    def device(self) -> torch.device:
        return self._logit_grads.device

    def __len__(self) -> int:
        return len(self._logit_grads)

    def _chunks(self) -> list[tuple[Tensor, Tensor | None]]:
        """Views of the factors; converted one at a time by the caller."""
        logit_grads = torch.split(self._logit_grads, self._chunk)
        if self._embeddings is None:
            return [(chunk, None) for chunk in logit_grads]
        return list(zip(logit_grads, torch.split(self._embeddings, self._chunk), strict=True))

    def inner(self, rows: Tensor) -> Tensor:
        g_rows = self._logit_grads[rows].double()
        e_rows = None if self._embeddings is None else self._embeddings[rows].double()
        if self.resident:
            return _products(g_rows, e_rows, self._logit_grads, self._embeddings)
        out = torch.empty(len(g_rows), len(self), dtype=torch.float64, device=self.device)
        start = 0
        for g, e in self._chunks():
            stop = start + len(g)
            other = None if e is None else e.double()
            out[:, start:stop] = _products(g_rows, e_rows, g.double(), other)
            start = stop
        return out

    def column(self, atom: int) -> Tensor:
        if not self.resident:
            return self.inner(torch.tensor([atom], device=self.device))[0]
        if self.device.type == "cpu":  # the same products, with a third of the overhead
            return torch.from_numpy(_column(self._arrays, atom))
        products = torch.mv(self._logit_grads, self._logit_grads[atom])
        if self._embeddings is not None:
            products.mul_(torch.mv(self._embeddings, self._embeddings[atom]).add_(1.0))
        return products

    def squared_norms(self) -> Tensor:
        parts = []
        for g, e in self._chunks():
            norms = g.double().square().sum(dim=1)
            if e is not None:
                norms = norms * (e.double().square().sum(dim=1) + 1)
            parts.append(norms)
        return torch.cat(parts)

    def against(self, target: HeadGradient) -> Tensor:
        bias, weight = target.bias.double(), target.weight.double()
        parts = []
        for g, e in self._chunks():
            along = bias if e is None else torch.addmm(bias, e.double(), weight.T)
            parts.append((g.double() * along).sum(dim=1))
        return torch.cat(parts)

    def own_sum(self) -> tuple[Tensor, float]:
        total = self._total()
        norm = total.bias.square().sum() + total.weight.square().sum()
        return self.against(total), float(norm)

    def _total(self) -> HeadGradient:
        classes = self._logit_grads.shape[1]
        width = 0 if self._embeddings is None else self._embeddings.shape[1]
        bias = torch.zeros(classes, dtype=torch.float64, device=self.device)
        weight = torch.zeros(classes, width, dtype=torch.float64, device=self.device)
        for g, e in self._chunks():
            double = g.double()
            bias += double.sum(dim=0)
            if e is not None:
                weight += double.T @ e.double()
        return HeadGradient(bias, weight)


def _column(arrays: tuple[Any, Any], atom: int) -> Any:
    logit_grads, embeddings = arrays
    products = logit_grads @ logit_grads[atom]
    if embeddings is not None:
        along = embeddings @ embeddings[atom]
        along += 1.0
        products *= along
    return products


def _products(g_a: Tensor, e_a: Tensor | None, g_b: Tensor, e_b: Tensor | None) -> Tensor:
    products = g_a @ g_b.T
    if e_a is not None and e_b is not None:
        products.mul_((e_a @ e_b.T).add_(1.0))
    return products


class BatchAtoms:
    """Means of batches of consecutive samples; their Gram matrix is built block by block.

    A mean has rank up to the batch size, so it is written out, but only for a block of classes
    at a time: every block adds its part to the (B, B) Gram matrix and is dropped.

    Args:
        gradients: the pool.
        batch_size: samples a batch; the last one may be short.
        linear_layer: whether the weight part counts.
        limit: bytes for the Gram matrix and one block.

    Raises:
        ValueError: the Gram matrix alone is over the limit.
    """

    def __init__(
        self, gradients: LastLayerGradients, batch_size: int, linear_layer: bool, limit: int
    ) -> None:
        self.linear_layer = linear_layer
        batches = -(-len(gradients) // batch_size)
        if 8 * batches**2 > limit:
            raise refuse(
                f"choosing among {batches} batches", 8 * batches**2, limit,
                "choose larger batches, select per='class', or raise memory_limit=",
            )  # fmt: skip
        limit -= 8 * batches**2
        self._samples = FactoredAtoms(
            gradients.logit_grads, gradients.embeddings if linear_layer else None, limit // 4
        )
        self._batch_size = batch_size
        count = len(batch_sizes(len(gradients.labels), batch_size))
        classes = gradients.logit_grads.shape[1]
        width = 1 + (gradients.embeddings.shape[1] if linear_layer else 0)
        # The means of a block are made one by one, and put together.
        self.block = chunk_of(classes, 16 * count * width, limit - limit // 4)
        self._gram = torch.zeros(count, count, dtype=torch.float64, device=self._samples.device)
        for start in range(0, classes, self.block):
            means = self._means(gradients, linear_layer, slice(start, start + self.block))
            self._gram.addmm_(means, means.T)

    def _means(self, gradients: LastLayerGradients, linear_layer: bool, block: slice) -> Tensor:
        rows = []
        logit_grads = torch.split(gradients.logit_grads, self._batch_size)
        embeddings = torch.split(gradients.embeddings, self._batch_size)
        for g, e in zip(logit_grads, embeddings, strict=True):
            some = g[:, block].double()
            parts = [some.mean(dim=0)]
            if linear_layer:
                parts.append((some.T @ e.double()).flatten() / len(g))
            rows.append(torch.cat(parts))
        return torch.stack(rows)

    @property
    def device(self) -> torch.device:
        return self._gram.device

    def __len__(self) -> int:
        return len(self._gram)

    def inner(self, rows: Tensor) -> Tensor:
        return self._gram[rows]

    def column(self, atom: int) -> Tensor:
        return self._gram[atom].clone()

    def squared_norms(self) -> Tensor:
        return self._gram.diagonal().clone()

    def against(self, target: HeadGradient) -> Tensor:
        return batch_means(self._samples.against(target), self._batch_size)

    def own_sum(self) -> tuple[Tensor, float]:
        return self._gram.sum(dim=1), float(self._gram.sum())
