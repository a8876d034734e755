"""Naive GLISTER in several classes at once: one product a step serves all of them.

Classes are independent, so their greedy choices can be made in parallel. With ten classes of a few
hundred samples, launching a step takes most of its time, and one launch for all of them saves it.
The choices are those of `gains.TaylorGains`, which serves everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.glister.gains import ROUNDING, longest_of
from lipt_cords.selectors.ties import first_best

_PACK_BYTES = 1 << 26
_PACK_CLASSES = 64


@dataclass(frozen=True)
class ClassShare:
    """One class: its candidates in the pool, its validation samples, its share of the budget."""

    label: int | None
    members: Tensor
    held: Tensor
    budget: int

    def nbytes(self, classes: int, width: int) -> int:
        """Bytes of its factors, kernel and validation samples."""
        per_candidate = 4 * (2 * classes + width + 2 * len(self.held))
        return len(self.members) * per_candidate + len(self.held) * 8 * (3 * classes + 2 * width)

    def suits(self, width: int) -> bool:
        """Whether the kernel is cheaper than the dense gradient, as in `TaylorGains`."""
        n, held = len(self.members), len(self.held)
        return n * held <= (n + held) * width


def packs(
    shares: Sequence[ClassShare], classes: int, width: int, limit: int
) -> Iterator[list[int]]:
    """Positions of shares that run together: of similar size, within the limit.

    A share that is too large for the limit by itself still makes a pack: check
    `ClassShare.nbytes` before.
    """
    order = sorted(range(len(shares)), key=lambda i: (len(shares[i].members), i))
    pack: list[int] = []
    for position in order:
        share = shares[position]
        # Shares are padded to the largest, which is the newest.
        grown = (len(pack) + 1) * share.nbytes(classes, width)
        uneven = pack and len(share.members) > 1.5 * len(shares[pack[0]].members)
        if pack and (grown > min(limit, _PACK_BYTES) or len(pack) == _PACK_CLASSES or uneven):
            yield pack
            pack = []
        pack.append(position)
    if pack:
        yield pack


class Lockstep:
    """Naive greedy of GLISTER with cross-entropy and the whole linear layer, class by class.

    Args:
        pool: gradients of the pool.
        val_gradients: gradients of the validation set.
        shares: the classes of this pack.
        eta: step size of the virtual update.
    """

    def __init__(
        self,
        pool: LastLayerGradients,
        val_gradients: LastLayerGradients,
        shares: Sequence[ClassShare],
        eta: float,
    ) -> None:
        self._pool, self._shares, self._eta = pool, shares, eta
        device = pool.logit_grads.device
        count = len(shares)
        candidates = max(len(share.members) for share in shares)
        held = max(len(share.held) for share in shares)
        classes, width = pool.logit_grads.shape[1], pool.embeddings.shape[1]

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self._members_GN = torch.zeros(count, candidates, dtype=torch.int64, device=device)
        self._g_GCN = torch.zeros(count, classes, candidates, device=device)
        self._taken_GN = torch.full((count, candidates), -math.inf, device=device)
        self._logits_GCM = zeros(count, classes, held)
        self._onehot_GCM = torch.zeros_like(self._logits_GCM)
        self._share_G1M = zeros(count, 1, held)
        self._held_GEM = zeros(count, width, held)
        kernel = torch.empty(count, held, candidates, device=device)
        longest = []
        for j, share in enumerate(shares):
            n, m = len(share.members), len(share.held)
            members = share.members.to(device)
            self._members_GN[j, :n] = members
            g_NC, e_NE = pool.logit_grads[members], pool.embeddings[members]
            self._g_GCN[j, :, :n] = g_NC.T
            self._taken_GN[j, :n] = 0.0
            part = val_gradients.subset(share.held)
            self._logits_GCM[j, :, :m] = part.logits.T
            self._onehot_GCM[j, part.labels, torch.arange(m, device=device)] = 1.0
            self._share_G1M[j, :, :m] = 1.0 / m
            self._held_GEM[j, :, :m] = part.embeddings.T
            kernel[j].fill_(1.0)
            kernel[j, :m, :n] += part.embeddings @ e_NE.T
            squares, widths = g_NC.square().sum(dim=1), e_NE.square().sum(dim=1).add_(1)
            lengths = part.embeddings.double().square().sum(dim=1).add_(1).sum().sqrt()
            longest.append(longest_of(squares, widths, g_NC.T) * float(lengths))
        self._kernel_GMN = kernel
        self._magnitude_G = torch.tensor(longest, dtype=torch.float64, device=device)
        self._start_GCM = self._logits_GCM.clone()

    def run(self) -> tuple[list[list[int]], list[list[float]]]:
        """Picks of every share, as positions among its members, and their gains."""
        budgets = [share.budget for share in self._shares]
        picks: list[list[int]] = [[] for _ in budgets]
        gains: list[list[float]] = [[] for _ in budgets]
        for step in range(max(budgets)):
            active = [budget > step for budget in budgets]
            chosen, scores = self._best(active)
            for j in range(len(budgets)):
                if active[j]:
                    picks[j].append(chosen[j])
                    gains[j].append(scores[j])
            self._add(chosen, active)
        return picks, gains

    def _best(self, active: list[bool]) -> tuple[list[int], list[float]]:
        p_GCM = self._logits_GCM.softmax(dim=1).sub_(self._onehot_GCM).mul_(self._share_G1M)
        units_G = torch.linalg.vector_norm(p_GCM, dim=(1, 2))
        units = units_G.tolist()
        # As in TaylorGains: in units of the gradient, so that float32 can hold it.
        divisor = units_G.clamp(min=torch.finfo(torch.float64).tiny)
        scaled = p_GCM.div(divisor[:, None, None]).float()
        if min(units) < 1e-6:
            scaled = nn.functional.hardshrink(scaled, 1e-30)
        rough_GN = torch.bmm(scaled, self._kernel_GMN).mul_(self._g_GCN).sum(dim=1)
        rough_GN += self._taken_GN
        largest_G = rough_GN.amax(dim=1)
        threshold_G = largest_G - (2 * ROUNDING) * self._magnitude_G
        close_GN = rough_GN >= threshold_G[:, None]
        counts = close_GN.sum(dim=1).tolist()
        chosen = close_GN.int().argmax(dim=1).tolist()
        scores = (largest_G * units_G).tolist()
        for j, several in enumerate(counts):
            if active[j] and several > 1:
                chosen[j], scores[j] = self._compared(j, p_GCM[j], close_GN[j], units[j])
        return chosen, scores

    def _compared(self, j: int, p_CM: Tensor, close_N: Tensor, unit: float) -> tuple[int, float]:
        """Candidates that float32 cannot separate, in float64."""
        close = torch.nonzero(close_N).view(-1)
        rows = self._members_GN[j, close]
        kernel_SM = (self._pool.embeddings[rows].double() @ self._held_GEM[j]).add_(1)
        along_SC = kernel_SM @ p_CM.T
        values = along_SC.mul_(self._pool.logit_grads[rows].double()).sum(dim=1)
        position = first_best(values, float(self._magnitude_G[j]) * unit)
        return int(close[position]), float(values[position])

    def _add(self, chosen: list[int], active: list[bool]) -> None:
        device = self._members_GN.device
        each = torch.arange(len(chosen), device=device)
        picks = torch.tensor(chosen, device=device)
        rows = self._members_GN[each, picks]
        g_GC = self._pool.logit_grads[rows].double()
        if not all(active):
            g_GC *= torch.tensor(active, device=device)[:, None]
        e_GE = self._pool.embeddings[rows].double()
        kernel_G1M = torch.bmm(e_GE[:, None, :], self._held_GEM).add_(1)
        self._logits_GCM.baddbmm_(g_GC[:, :, None], kernel_G1M, alpha=-self._eta)
        self._taken_GN[each, picks] = -math.inf

    def summaries(self) -> list[dict[str, Any]]:
        """The entry of every class in `info["groups"]`."""
        return [
            {
                "label": share.label,
                "candidates": len(share.members),
                "validation_samples": len(share.held),
                "validation_loss_before": self._loss(self._start_GCM, j),
                "validation_loss_after": self._loss(self._logits_GCM, j),
                "products": "gram",
                "knob": "none",
            }
            for j, share in enumerate(self._shares)
        ]

    def _loss(self, logits_GCM: Tensor, j: int) -> float:
        held = len(self._shares[j].held)
        logits_MC = logits_GCM[j, :, :held].T
        right = self._onehot_GCM[j, :, :held].argmax(dim=0)
        return float(nn.functional.cross_entropy(logits_MC, right))
