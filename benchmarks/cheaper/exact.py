"""what must be equal to the bit, and how long a step really takes."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cheaper.nets import PatchEncoder
from lipt_cords.models import build_model
from lipt_cords.models.state import tensor_state
from lipt_cords.training.cheaper.channels import ChannelGroups, scaled_batchnorms
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.paths import Paths, block_shares
from lipt_cords.training.cheaper.tickets import EarlyBirdConfig, Ticket, TicketSearch

ROUNDS, STEPS = 8, 3
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: build_model("resnet20", 10, seed=0), (3, 32, 32)),
    "resnet56": (lambda: build_model("resnet56", 10, seed=0), (3, 32, 32)),
    "resnet18": (lambda: build_model("resnet18", 10, seed=0), (3, 32, 32)),
    "transformer, 12 blocks": (PatchEncoder, (1, 28, 28)),
}
LENGTHS = {"resnet20": (2, 3, 5, 7), "transformer, 12 blocks": (6, 8, 10, 12)}


class Steps:
    """Training steps of a net on one batch."""

    def __init__(self, net: nn.Module, images: torch.Tensor, paths: Paths | None = None) -> None:
        self.net, self.images, self.paths, self.number = net.train(), images, paths, 0
        self.labels = torch.arange(len(images)) % 10
        self.sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def __call__(self) -> None:
        if self.paths is not None:
            self.paths.choose(self.number % self.paths.schedule.steps)
        self.number += 1
        self.sgd.zero_grad()
        F.cross_entropy(self.net(self.images), self.labels).backward()
        self.sgd.step()


def exactness() -> list[dict[str, Any]]:
    """A row a net."""
    return [_row(name, build(), torch.randn(32, *shape)) for name, (build, shape) in NETS.items()]


def _row(name: str, net: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"net": name, "paths": _paths(net, images, LENGTHS.get(name))}
    if scaled_batchnorms(net):
        row["ticket"] = _ticket(net, images)
    print(row, flush=True)
    return row


def _same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _paths(net: nn.Module, images: torch.Tensor, lengths: Any) -> dict[str, Any]:
    """Full length against plain training, counted against planned, and a step's time."""
    steps, loss = 200, F.cross_entropy
    config = SubnetworkConfig(lengths=lengths)
    shares = block_shares(net, images[:2], torch.arange(2), loss, config)
    nets = [copy.deepcopy(net) for _ in range(4)]
    full = Paths(nets[0], SubnetworkConfig(lengths=(len(shares),)), 3, 0)
    plain, whole = Steps(nets[1], images[:8]), Steps(nets[0], images[:8], full)
    with full.applied():
        for _ in range(3):
            plain()
            whole()
    equal = _same(plain.net, whole.net)

    drawn = Paths(nets[2], config, steps, 0)
    with FlopCounterMode(display=False) as counter:
        loss(net(images[:2]), torch.arange(2)).backward()
    dense = counter.get_total_flops()
    with drawn.applied(), FlopCounterMode(display=False) as counter:
        for step in range(steps):
            drawn.choose(step)
            loss(nets[2](images[:2]), torch.arange(2)).backward()
    counted = counter.get_total_flops() / (steps * dense)
    planned = sum(stage["planned"] for stage in drawn.stages(shares)) / steps

    timed = Paths(nets[3], config, ROUNDS * STEPS, 1)
    with timed.applied():
        ratio = time_ratio(Steps(net, images), Steps(nets[3], images, timed))
    return {
        "lengths": [stage.length for stage in timed.schedule.stages], "bit_equal": equal,
        "flops_planned": planned, "flops_counted": counted, "time": ratio,
    }  # fmt: skip


def _ticket(net: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Half of the channels: outputs against the zeroed net, and a step's time."""
    net = copy.deepcopy(net)
    draws = torch.Generator().manual_seed(0)
    for layer in scaled_batchnorms(net).values():
        layer.weight.data = torch.rand(layer.num_features, generator=draws) + 0.1
    groups = ChannelGroups(net, images[:2])
    search = TicketSearch(EarlyBirdConfig(ratio=0.5), groups)
    search.add_mask(net.state_dict())
    ticket = Ticket.cut(net, groups, images[:2], *search.choose())
    small, zeroed = ticket.build(net).eval(), copy.deepcopy(net).eval()
    zeroed.load_state_dict(ticket.expand(tensor_state(small)))
    with torch.no_grad():
        difference = float((small(images) - zeroed(images)).abs().max())
    with FlopCounterMode(display=False) as counter:
        net(images[:2]).sum().backward()
        dense = counter.get_total_flops()
        small(images[:2]).sum().backward()
        share = (counter.get_total_flops() - dense) / dense
    return {
        "share_kept": ticket.share_kept, "flops": share, "largest_difference": difference,
        "time": time_ratio(Steps(net, images), Steps(small, images)),
    }  # fmt: skip


def time_ratio(one: Steps, other: Steps) -> dict[str, float]:
    """Seconds of the second's steps over the first's, in turns: median and quartiles."""
    one()
    other.number = 0
    ratios = []
    for _ in range(ROUNDS):
        seconds = []
        for steps in (one, other):
            started = time.perf_counter()
            for _ in range(STEPS):
                steps()
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    low, middle, high = statistics.quantiles(ratios, n=4)
    # Over a whole schedule the mean is what counts: its stages differ.
    return {"mean": statistics.fmean(ratios), "low": low, "median": middle, "high": high}
