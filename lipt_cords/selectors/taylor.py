"""GLISTER's gains <G_i, V> for moving V, without ever writing a gradient out.

Two exact ways to the same numbers, and the cheaper one is taken:

- ``"dense"``: V is built (C x E) and multiplied with every candidate, (n + M) C E a step;
- ``"gram"``: K = 1 + E_train E_val' (n x M) is computed once; since V is a combination of
  validation gradients, a step costs n M C.

Steps run in float32 with a bound on their rounding; candidates that the bound cannot tell apart
are compared in float64, so the choice is the one that float64 would make.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipt_cords.gradients import (
    LastLayerGradients,
    PerSampleLoss,
    logit_gradients,
    per_sample_loss,
)
from lipt_cords.selectors.grouping import batch_means, batch_sizes
from lipt_cords.selectors.memory import chunk_of
from lipt_cords.selectors.ties import first_best

_ROUNDING = 4e-7


class ValidationStep:
    """Validation logits while the head moves by -eta times the sum of the chosen gradients.

    Args:
        held_out: gradients of the validation set.
        where: which of its samples count, or None for all.
        linear_layer: whether the head's weights move, or its bias alone.
        eta: step size.
        loss: per-sample loss, or None for cross-entropy.
    """

    def __init__(
        self,
        held_out: LastLayerGradients,
        where: Tensor | None,
        linear_layer: bool,
        eta: float,
        loss: nn.Module | PerSampleLoss | None,
    ) -> None:
        part = held_out if where is None else held_out.subset(where)
        self.labels_M = part.labels
        self._eta, self._loss = eta, per_sample_loss(loss, part.logits.device)
        self._start_MC = part.logits.double()
        self.logits_MC = self._start_MC.clone()
        self.embeddings_ME = part.embeddings.double() if linear_layer else None

    def __len__(self) -> int:
        return len(self.labels_M)

    def gradients(self) -> Tensor:
        """Mean-loss gradients in the moved logits, (M, C) float64."""
        logits_MC = self.logits_MC if self._loss is None else self.logits_MC.float()
        return logit_gradients(logits_MC, self.labels_M, self._loss).double().div_(len(self))

    def move(self, logit_grads_BC: Tensor, kernel_BM: Tensor | None, share: float) -> None:
        """Add ``share`` times the gradients of some samples to the step.

        Args:
            logit_grads_BC: their logit gradients, float64.
            kernel_BM: 1 + e_i . e_m against the validation samples; None for the bias alone.
            share: 1, or 1 / batch size for a mean.
        """
        if kernel_BM is None:
            self.logits_MC.sub_(logit_grads_BC.sum(dim=0), alpha=self._eta * share)
        else:
            self.logits_MC.addmm_(kernel_BM.T, logit_grads_BC, alpha=-self._eta * share)

    def losses(self) -> tuple[float, float]:
        """Mean validation loss at the start and now."""
        return self._mean_loss(self._start_MC), self._mean_loss(self.logits_MC)

    def _mean_loss(self, logits_MC: Tensor) -> float:
        if self._loss is None:
            return float(nn.functional.cross_entropy(logits_MC, self.labels_M))
        with torch.no_grad():
            return float(self._loss(logits_MC.float(), self.labels_M).mean())


class TaylorGains:
    """Gains of n candidates, samples or batch means, against a moving validation gradient."""

    def __init__(
        self,
        pool: LastLayerGradients,
        members: Tensor | None,
        linear_layer: bool,
        step: ValidationStep,
        limit: int,
        batch_size: int | None = None,
    ) -> None:
        whole = members is None or len(members) == len(pool.labels)
        where = slice(None) if whole or members is None else members.to(pool.logit_grads.device)
        self._g_NC = pool.logit_grads[where]
        self._e_NE = pool.embeddings[where] if linear_layer else None
        self.step, self._batch_size = step, batch_size
        self._sizes = None if batch_size is None else batch_sizes(len(self._g_NC), batch_size)
        self._count = len(self._g_NC) if self._sizes is None else len(self._sizes)
        self._taken: list[int] = []
        self._plan(limit)
        self._prepare()

    def _plan(self, limit: int) -> None:
        """Choose the cheaper product, then the chunk of rows that fits the limit."""
        n, classes = self._g_NC.shape
        held = len(self.step)
        self.products, row = "bias", 4 * classes
        kernel_bytes = 0
        if self._e_NE is not None:
            width = self._e_NE.shape[1]
            dense, gram = (n + held) * width, n * held
            kernel_bytes = 4 * n * held
            if gram <= dense and kernel_bytes + 4 * n * min(held, classes) <= limit:
                self.products, row = "gram", 4 * min(held, classes)
            else:
                self.products, kernel_bytes = "dense", 0
        self._chunk = chunk_of(n, row, limit - kernel_bytes)
        self.knob = "none" if self._chunk == n else f"chunks of {self._chunk} rows"

    def _prepare(self) -> None:
        norms = self._g_NC.square().sum(dim=1)
        lengths_M = torch.ones(len(self.step), dtype=torch.float64, device=norms.device)
        self._kernel_NM: Tensor | None = None
        held_ME = self.step.embeddings_ME
        if self._e_NE is not None and held_ME is not None:
            norms = norms * (self._e_NE.square().sum(dim=1) + 1)
            lengths_M = (held_ME.square().sum(dim=1) + 1).sqrt()
            self._held_ME = held_ME.float()
            if self.products == "gram":
                self._kernel_NM = (self._e_NE @ self._held_ME.T).add_(1)
        self._longest = math.sqrt(float(norms.max()))
        self._lengths_M = lengths_M
        self._gains = torch.empty(len(self._g_NC), device=norms.device)
        self._mask = torch.zeros(self._count, device=norms.device)
        self._refresh()

    def __len__(self) -> int:
        return self._count

    def _refresh(self) -> None:
        """The validation gradient has moved: what every gain is multiplied with."""
        self._p_MC = self.step.gradients()
        # No sum of float32 products can be off by more than its terms' magnitudes allow.
        self.scale = self._longest * float(self._p_MC.norm(dim=1) @ self._lengths_M)

    def best(self) -> tuple[int, float]:
        """The candidate of largest gain among those not yet added; lowest index on ties."""
        largest = float(self._p_MC.abs().max())
        if largest == 0.0:  # nothing left to gain: all are ties
            return int(self._mask.argmax()), 0.0
        rough = self._rough(largest)
        margin = 2 * _ROUNDING * self.scale / largest
        close = torch.nonzero(rough >= rough.max() - margin).flatten()
        values = self.exact(close)
        position = first_best(values, self.scale)
        return int(close[position]), float(values[position])

    def _rough(self, unit: float) -> Tensor:
        """Gains in float32 over ``unit``, -inf for candidates already added.

        A fitted validation set has gradients far below float32's smallest number, hence the unit;
        what is still negligible beside the largest would only slow the products down.
        """
        p_MC = nn.functional.hardshrink((self._p_MC / unit).float(), 1e-30)
        bias_C = p_MC.sum(dim=0)
        if self._e_NE is None:
            torch.mv(self._g_NC, bias_C, out=self._gains)
        else:
            weight_CE = None if self.products == "gram" else p_MC.T @ self._held_ME
            for start in range(0, len(self._g_NC), self._chunk):
                rows = slice(start, start + self._chunk)
                self._rough_rows(rows, p_MC, bias_C, weight_CE)
        gains = self._gains
        if self._batch_size is not None:
            gains = batch_means(gains, self._batch_size)
        return gains + self._mask

    def _rough_rows(
        self, rows: slice, p_MC: Tensor, bias_C: Tensor, weight_CE: Tensor | None
    ) -> None:
        g_RC = self._g_NC[rows]
        if weight_CE is not None and self._e_NE is not None:
            products = torch.addmm(bias_C, self._e_NE[rows], weight_CE.T).mul_(g_RC)
        elif self._kernel_NM is not None and p_MC.shape[0] < p_MC.shape[1]:
            products = (g_RC @ p_MC.T).mul_(self._kernel_NM[rows])
        elif self._kernel_NM is not None:
            products = (self._kernel_NM[rows] @ p_MC).mul_(g_RC)
        torch.sum(products, dim=1, out=self._gains[rows])

    def exact(self, candidates: Tensor | None = None) -> Tensor:
        """Gains in float64 of some candidates, or of all."""
        if self._batch_size is not None:
            chosen = torch.arange(self._count) if candidates is None else candidates
            parts = [self._exact_samples(self._samples_of(int(c))).mean() for c in chosen]
            return torch.stack(parts)
        if candidates is not None:
            return self._exact_samples(candidates.to(self._g_NC.device))
        every = torch.arange(self._count, device=self._g_NC.device)
        return torch.cat([self._exact_samples(part) for part in torch.split(every, self._chunk)])

    def _samples_of(self, candidate: int) -> Tensor:
        """The samples of a candidate: itself, or its batch."""
        if self._batch_size is None:
            return torch.tensor([candidate], device=self._g_NC.device)
        start = candidate * self._batch_size
        stop = min(start + self._batch_size, len(self._g_NC))
        return torch.arange(start, stop, device=self._g_NC.device)

    def _exact_samples(self, samples: Tensor) -> Tensor:
        g_SC = self._g_NC[samples].double()
        kernel_SM = self._exact_kernel(samples)
        if kernel_SM is None:
            return g_SC @ self._p_MC.sum(dim=0)
        if self._p_MC.shape[0] < self._p_MC.shape[1]:
            return (g_SC @ self._p_MC.T).mul_(kernel_SM).sum(dim=1)
        return (kernel_SM @ self._p_MC).mul_(g_SC).sum(dim=1)

    def _exact_kernel(self, samples: Tensor) -> Tensor | None:
        if self._e_NE is None or self.step.embeddings_ME is None:
            return None
        return (self._e_NE[samples].double() @ self.step.embeddings_ME.T).add_(1)

    def add(self, candidates: list[int]) -> None:
        """Take candidates into the step; they will not come again."""
        for candidate in candidates:
            samples = self._samples_of(candidate)
            share = 1.0 / len(samples)
            self.step.move(self._g_NC[samples].double(), self._exact_kernel(samples), share)
        self._mask[candidates] = -math.inf
        self._refresh()
