"""Random nets whose steps change, to compare a planner with plain training."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH = 8
F = nn.functional


class SpoilsWhatItSaved(torch.autograd.Function):
    """Its backward pass writes to its saved tensors, past autograd's count of writes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y, x)
        return y * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, x = ctx.saved_tensors
        result: Tensor = gradient * (1 - y * y)
        y.data.mul_(0.9)
        x.data.mul_(0.9)
        return result


ACTS: list[Any] = [
    torch.tanh, torch.sigmoid, F.relu, F.gelu, lambda x: torch.exp(-x * x), lambda x: x.softmax(-1)
]  # fmt: skip
IN_PLACE: list[Any] = [
    lambda x: x.relu_(), lambda x: x.add_(0.1), lambda x: x[:, ::2].mul_(0.5),
    lambda x: x.t().tanh_(), lambda x: x.copy_(x * 0.5),
]  # fmt: skip
KINDS = (
    "layer", "act", "act", "product", "in place", "past autograd", "chunks", "views", "gru", "lstm",
    "rnn", "gru layers", "dropout", "norm", "checkpoint", "no gradients", "spoils", "shared",
    "buffer", "half", "hook writes", "kept", "filled",
)  # fmt: skip


class Instruction:
    """One line of a program: a kind, two of the values before it, and a variant."""

    def __init__(self, random: Random) -> None:
        self.kind = random.choice(KINDS)
        self.one, self.other = random.choice([0, 0, 0, 1, 2]), random.choice([0, 1, 1, 2])
        self.variant = random.randrange(60)


class Change:
    """How one step differs from the others."""

    def __init__(self, **what: int) -> None:
        self.what = what

    def shift(self, name: str, line: int) -> int:
        return int(self.what.get(name) == line)


class RandomNet(nn.Module):
    """A net that runs a program."""

    def __init__(self, program: list[Instruction]) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.gru, self.lstm = nn.GRUCell(WIDTH, WIDTH), nn.LSTMCell(WIDTH, WIDTH)
        self.rnn = nn.RNNCell(WIDTH, WIDTH)
        self.stacked = nn.GRU(WIDTH, WIDTH // 2, 2, bidirectional=True, dropout=0.2)
        self.norm, self.batch = nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, 4)
        self.register_buffer("scale", torch.ones(WIDTH))
        self.kept: Tensor | None = None
        self.last: Tensor | None = None

    def forward(self, x: Tensor, change: Change) -> Tensor:
        values = [x]
        for line, given in enumerate(self.program):
            if change.shift("skip", line):
                continue
            if change.shift("fail", line):
                raise KeyError("a user's error in the middle")
            one = given.one + change.shift("retarget", line)
            p = values[-1 - one % len(values)]
            q = values[-1 - given.other % len(values)]
            variant = given.variant + change.shift("variant", line)
            turns = 1 + variant % 2 + change.what.get("turns", 0)
            self.last = self._run(given.kind, p if p is not x else x * 1.0, q, variant, turns)
            values.append(self.last)
        logits: Tensor = self.head(values[-1] + values[len(values) // 2])
        return logits

    def _run(self, kind: str, p: Tensor, q: Tensor, variant: int, turns: int) -> Tensor:
        layer = self.layers[variant % 2]
        r: Tensor
        if kind == "layer":
            r = layer(p)
        elif kind == "act":
            r = ACTS[variant % len(ACTS)](p)
        elif kind == "product":
            r = p * q
        elif kind == "in place":
            r = p
            IN_PLACE[variant % len(IN_PLACE)](r)
        elif kind == "past autograd":
            IN_PLACE[variant % len(IN_PLACE)](p.data)
            r = p * 1.01
        elif kind == "chunks":
            u, v = torch.unsafe_chunk(torch.cat([p, q], 1), 2, 1)
            u = u.tanh_() if variant % 2 else u.sigmoid_()
            r = u * q
            r = r + v.add_(0.1).tanh_() * u
        elif kind == "views":
            r = torch.cat([p[:, ::2], q[:, 1::2].flip(1)], 1).view(-1, 2, WIDTH // 2)
            r = r.transpose(1, 2).reshape(-1, WIDTH)
        elif kind in ("gru", "rnn"):
            r = q
            for _ in range(turns):
                r = (self.gru if kind == "gru" else self.rnn)(p, r)
        elif kind == "lstm":
            r, cell = q, p
            for _ in range(turns):
                r, cell = self.lstm(p, (r, cell))
            r = r * cell
        elif kind == "gru layers":
            r = self.stacked(torch.stack([p, q] + [p * 0.5] * (turns - 1)))[0][-1]
        elif kind == "dropout":
            r = F.dropout(p, 0.3)
        elif kind == "norm":
            self.batch.train(variant % 3 != 0)
            r = self.norm(self.batch(p))
        elif kind == "checkpoint":
            r = checkpoint(lambda t: layer(t).tanh() * t.sigmoid(), p, use_reentrant=False)
        elif kind == "no gradients":
            with torch.no_grad():
                t = self.norm(p * 1.5).sigmoid()
            r = q * t
        elif kind == "spoils":
            r = SpoilsWhatItSaved.apply(p * 1.1)
        elif kind == "shared":
            r = F.linear(p, layer.weight.t())
        elif kind == "buffer":
            with torch.no_grad():
                self.scale.mul_(0.9).add_(p.float().mean(0) * 0.1)  # type: ignore[operator]
            r = torch.exp(-((p + self.scale) ** 2))
        elif kind == "half":
            with torch.autocast("cpu", torch.bfloat16):
                r = layer(p).tanh()
            r = r.float()
        elif kind == "hook writes":
            r = p.tanh() * 1.0
            if r.requires_grad:
                r.register_hook(lambda gradient: (q.data.mul_(0.95), gradient)[1])
        elif kind == "kept":
            r = p * (0.5 if self.kept is None or self.kept.shape != p.shape else self.kept)
            self.kept = q.detach()
        else:
            r = torch.empty_like(p)
            r.copy_(p)
            r[:, 0] = q[:, 1]
        return r
