"""GLISTER's gains <G_i, V> for moving V, without ever writing a gradient out.

Two exact ways to the same numbers, and the cheaper one is taken:

- ``"dense"``: V is built (C x E) and multiplied with every candidate, (n + M) C E a step;
- ``"gram"``: K = 1 + E_train E_val' (n x M) is computed once; since V is a combination of
  validation gradients, a step costs n M C.

Steps run in float32 with a bound on their rounding; candidates that the bound cannot separate
are compared in float64, so the choice is the one that float64 would make.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.models.losses import PerSampleLoss, logit_gradients, per_sample_loss
from lipt_cords.selectors.grouping import batch_means, batch_sizes
from lipt_cords.selectors.memory import chunk_of
from lipt_cords.selectors.ties import first_best

ROUNDING = 4e-7
"""Error of a float32 gain at most, as a fraction of the magnitude of its terms."""


def longest_of(squares_N: Tensor, widths_N: Tensor, g_CN: Tensor) -> float:
    """The norm of the longest gradient: the largest |g| sqrt(1 + |e|^2).

    Args:
        squares_N: |g|^2 in float32, where the squares of small gradients are zero.
        widths_N: 1 + |e|^2.
        g_CN: the logit gradients.
    """
    largest = float((squares_N * widths_N).max())
    if 1e-30 < largest < math.inf:
        return math.sqrt(largest)
    lengths_N = torch.linalg.vector_norm(g_CN, dim=0, dtype=torch.float64)
    return float((lengths_N * widths_N.double().sqrt()).max())


class ValidationStep:
    """Validation logits while the head moves by -eta times the sum of the chosen gradients.

    Args:
        val_gradients: gradients of the validation set.
        where: which of its samples count, or None for all.
        linear_layer: whether the head's weights move, or its bias alone.
        eta: step size.
        loss: per-sample loss, or None for cross-entropy.
    """

    def __init__(
        self,
        val_gradients: LastLayerGradients,
        where: Tensor | None,
        linear_layer: bool,
        eta: float,
        loss: nn.Module | PerSampleLoss | None,
    ) -> None:
        part = val_gradients if where is None else val_gradients.subset(where)
        self.labels_M = part.labels
        self._eta, self._loss = eta, per_sample_loss(loss, part.logits.device)
        # Samples run along the rows of memory: a softmax over few classes is then far faster.
        logits_CM = torch.empty(part.logits.T.shape, dtype=torch.float64, device=part.logits.device)
        self._logits_CM = logits_CM.copy_(part.logits.T)
        self._each_M = torch.arange(len(part), device=part.logits.device)
        self.embeddings_ME = part.embeddings.double() if linear_layer else None
        self._loss_before = self._mean_loss()

    def __len__(self) -> int:
        return len(self.labels_M)

    def gradients(self) -> Tensor:
        """Mean-loss gradients in the moved logits, (C, M) float64."""
        if self._loss is None:
            grads_CM = self._logits_CM.softmax(dim=0)
            grads_CM[self.labels_M, self._each_M] -= 1
            return grads_CM.div_(len(self))
        logits_MC = self._logits_CM.T.float().contiguous()
        grads_MC = logit_gradients(logits_MC, self.labels_M, self._loss)
        return grads_MC.T.double().div_(len(self))

    def move(self, logit_grads_BC: Tensor, kernel_BM: Tensor | None, share: float) -> None:
        """Add ``share`` times the gradients of some samples to the step.

        Args:
            logit_grads_BC: their logit gradients, float64.
            kernel_BM: 1 + e_i . e_m against the validation samples; None for the bias alone.
            share: 1, or 1 / batch size for a mean.
        """
        if kernel_BM is None:
            total_C1 = logit_grads_BC.sum(dim=0).unsqueeze(1)
            self._logits_CM.sub_(total_C1, alpha=self._eta * share)
        else:
            self._logits_CM.addmm_(logit_grads_BC.T, kernel_BM, alpha=-self._eta * share)

    def losses(self) -> tuple[float, float]:
        """Mean validation loss at the start and now."""
        return self._loss_before, self._mean_loss()

    @property
    def nbytes(self) -> int:
        """Bytes held for the validation samples, and for two copies of their gradient."""
        held = 0 if self.embeddings_ME is None else self.embeddings_ME.nbytes
        return 3 * self._logits_CM.nbytes + held + held // 2

    def _mean_loss(self) -> float:
        logits_MC = self._logits_CM.T
        if self._loss is None:
            return float(nn.functional.cross_entropy(logits_MC, self.labels_M))
        with torch.no_grad():
            return float(self._loss(logits_MC.float(), self.labels_M).mean())


class TaylorGains:
    """Gains of n candidates, samples or batch means, against a moving validation gradient.

    Args:
        pool: gradients of the pool.
        members: the samples that compete, or None for all.
        linear_layer: whether the weight part of the gradients counts.
        step: the moving validation gradient.
        limit: bytes for what is held of the validation samples, copies and products. Beyond it the
            factors are used where they lie, and products are taken in chunks of samples; the
            choices are the same.
        batch_size: candidates are the means of that many consecutive samples; None: the samples.
    """

    def __init__(
        self,
        pool: LastLayerGradients,
        members: Tensor | None,
        linear_layer: bool,
        step: ValidationStep,
        limit: int,
        batch_size: int | None = None,
    ) -> None:
        self._pool, self.step, self._batch_size = pool, step, batch_size
        self._device = pool.logit_grads.device
        whole = members is None or len(members) == len(pool.labels)
        self._members = None if whole or members is None else members.to(self._device)
        self._size = len(pool.labels) if self._members is None else len(self._members)
        self._linear_layer = linear_layer
        self._plan(limit - step.nbytes)
        self._prepare()

    def _plan(self, limit: int) -> None:
        """Choose the cheaper product, then what fits the limit: copies, and samples a chunk."""
        n, held = self._size, len(self.step)
        classes = self._pool.logit_grads.shape[1]
        width = self._pool.embeddings.shape[1] if self._linear_layer else 0
        copies, kernel, sample = 4 * n * (classes + width), 4 * n * held, 4 * classes
        dense_cost, gram_cost = (n + held) * width, n * held
        self.products = "dense" if self._linear_layer else "bias"
        if self._linear_layer and gram_cost <= dense_cost and kernel + copies <= limit:
            self.products, sample = "gram", 4 * min(held, classes)
            copies += kernel
        self._copied = self._members is not None or copies <= limit
        left = limit - (copies if self._copied else 0)
        self._chunk = chunk_of(n, sample, left)
        self._wide_chunk = chunk_of(n, 4 * max(classes, width), left)
        self._exact_chunk = chunk_of(n, 8 * (2 * classes + width + 2 * held), left)
        self.knob = "none" if self._chunk == n else f"chunks of {self._chunk} samples"

    def _prepare(self) -> None:
        # Samples run along the rows of memory: the products below are then fastest.
        self._g_CN = self._laid_out(self._pool.logit_grads)
        squares_N = self._squares_of(self._g_CN)
        widths_N = torch.ones_like(squares_N)
        lengths_M = torch.ones(len(self.step), dtype=torch.float64, device=self._device)
        self._e_EN = self._kernel_MN = None
        held_ME = self.step.embeddings_ME
        if held_ME is not None:
            self._e_EN = self._laid_out(self._pool.embeddings)
            widths_N = self._squares_of(self._e_EN).add_(1)
            lengths_M = (held_ME.square().sum(dim=1) + 1).sqrt()
            self._held_ME = held_ME.float()
            if self.products == "gram":
                self._kernel_MN = (self._held_ME @ self._e_EN).add_(1)
                self._e_EN = None  # the kernel holds all that the gains need of it
        longest = longest_of(squares_N, widths_N, self._g_CN)
        self._magnitude = longest * float(lengths_M.norm())
        self._gains_N = torch.empty(self._size, device=self._device)
        count = self._size
        if self._batch_size is not None:
            count = len(batch_sizes(self._size, self._batch_size))
        self._taken = torch.zeros(count, device=self._device)
        self._refresh()

    def _squares_of(self, factors: Tensor) -> Tensor:
        """Squared lengths of the columns."""
        parts = torch.split(factors, self._wide_chunk, dim=1)
        return torch.cat([part.square().sum(dim=0) for part in parts])

    def _laid_out(self, factors: Tensor) -> Tensor:
        rows = factors if self._members is None else factors[self._members]
        return rows.T.contiguous() if self._copied else rows.T

    def __len__(self) -> int:
        return len(self._taken)

    def _refresh(self) -> None:
        """The validation gradient has moved: what every gain is multiplied with."""
        self._p_CM = self.step.gradients()
        self._unit = float(torch.linalg.vector_norm(self._p_CM))
        # No gain's terms add up to more than this (Cauchy and Schwarz).
        self.scale = self._magnitude * self._unit

    def best(self) -> tuple[int, float]:
        """The candidate of largest gain among those not yet added; lowest index on ties."""
        if self._unit == 0.0:  # nothing left to gain: all are ties
            return int(self._taken.argmax()), 0.0
        rough = self._rough()
        largest = rough.max()
        margin = 2 * ROUNDING * self._magnitude
        close = torch.nonzero(rough >= largest - margin).view(-1)
        if len(close) == 1:
            return int(close), float(largest) * self._unit
        values = self.exact(close)
        position = first_best(values, self.scale)
        return int(close[position]), float(values[position])

    def _rough(self) -> Tensor:
        """Gains in float32 over ``unit``, -inf for candidates already added.

        A fitted validation set has gradients far below float32's smallest number, hence the unit;
        what is then still negligible beside the largest would only slow the products down.
        """
        p_CM = self._p_CM.div(self._unit).float()
        if self._unit < 1e-6:
            p_CM = nn.functional.hardshrink(p_CM, 1e-30)
        bias_C = p_CM.sum(dim=1)
        if self.products == "bias":
            torch.mv(self._g_CN.T, bias_C, out=self._gains_N)
        else:
            weight_CE = None if self._e_EN is None else p_CM @ self._held_ME
            for start in range(0, self._size, self._chunk):
                part = slice(start, start + self._chunk)
                products = self._products(part, p_CM, bias_C.unsqueeze(1), weight_CE)
                torch.sum(products, dim=0, out=self._gains_N[part])
        if self._batch_size is None:
            return self._gains_N.add_(self._taken)
        return batch_means(self._gains_N, self._batch_size) + self._taken

    def _products(
        self, part: slice, p_CM: Tensor, bias_C1: Tensor, weight_CE: Tensor | None
    ) -> Tensor:
        """Terms of the gains of some samples, to be added up along the first dimension."""
        g_CP = self._g_CN[:, part]
        if weight_CE is not None and self._e_EN is not None:
            return torch.addmm(bias_C1, weight_CE, self._e_EN[:, part]).mul_(g_CP)
        kernel_MP = self._kernel_MN[:, part] if self._kernel_MN is not None else g_CP
        if p_CM.shape[1] < p_CM.shape[0]:
            return (p_CM.T @ g_CP).mul_(kernel_MP)
        return (p_CM @ kernel_MP).mul_(g_CP)

    def exact(self, candidates: Tensor | None = None) -> Tensor:
        """Gains in float64 of some candidates, or of all."""
        if self._batch_size is not None:
            chosen = torch.arange(len(self)) if candidates is None else candidates
            means = [self._exact_samples(self._samples_of(c)).mean() for c in chosen.tolist()]
            return torch.stack(means)
        if candidates is None:
            candidates = torch.arange(self._size, device=self._device)
        parts = torch.split(candidates.to(self._device), self._exact_chunk)
        return torch.cat([self._exact_samples(part) for part in parts])

    def _samples_of(self, candidate: int) -> Tensor:
        """The samples of a candidate: itself, or its batch."""
        size = self._batch_size or 1
        stop = min(size * (candidate + 1), self._size)
        return torch.arange(size * candidate, stop, device=self._device)

    def _exact_samples(self, samples: Tensor) -> Tensor:
        g_SC, kernel_SM = self._exact_parts(samples)
        if kernel_SM is None:
            return g_SC @ self._p_CM.sum(dim=1)
        if self._p_CM.shape[1] < self._p_CM.shape[0]:
            return (g_SC @ self._p_CM).mul_(kernel_SM).sum(dim=1)
        return (kernel_SM @ self._p_CM.T).mul_(g_SC).sum(dim=1)

    def _exact_parts(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logit gradients and 1 + e . e_m of some samples, in float64."""
        rows = samples if self._members is None else self._members[samples]
        g_SC = self._pool.logit_grads[rows].double()
        if self.step.embeddings_ME is None:
            return g_SC, None
        e_SE = self._pool.embeddings[rows].double()
        return g_SC, (e_SE @ self.step.embeddings_ME.T).add_(1)

    def add(self, candidates: list[int]) -> None:
        """Take candidates into the step; they cannot be chosen again."""
        for candidate in candidates:
            samples = self._samples_of(candidate)
            self.step.move(*self._exact_parts(samples), 1.0 / len(samples))
            self._taken[candidate] = -math.inf
        self._refresh()
