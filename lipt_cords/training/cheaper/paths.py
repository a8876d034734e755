"""Progressive subnetworks (RaPTr): every step trains a random path of residual blocks.

A path leaves out residual blocks, which are then the identity and are not executed; paths grow in
stages until the whole net trains (Panigrahi et al., "Efficient Stagewise Pretraining via
Progressive Subnetworks", arXiv 2402.05913). Blocks are changed by hooks that are removed
afterwards: the names of the weights do not change, and a path with all blocks gives exactly the
bits of plain training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lipt_cords.data.batches import Inputs
from lipt_cords.models.copies import copy_model
from lipt_cords.models.flops import flops_of_a_step
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.nets import ResidualBlock, WideBlock
from lipt_cords.training.cheaper.path_schedule import PathSchedule, Stage, SubnetworkConfig

TORCHVISION = {
    "torchvision.models.resnet.BasicBlock": "bn2",
    "torchvision.models.resnet.Bottleneck": "bn3",
}
"""Residual blocks of torchvision, and the module in which their branch ends."""


@dataclass(frozen=True)
class Block:
    """A residual block whose shortcut is the identity, so that it can be left out.

    Attributes:
        name: in ``model.named_modules()``.
        module: the block.
        ends: its modules whose outputs are residual branches, to be rescaled.
    """

    name: str
    module: nn.Module
    ends: tuple[nn.Module, ...]


def residual_blocks(model: nn.Module, names: Sequence[str] | None = None) -> list[Block]:
    """The blocks of a net that can be left out, in the order in which they were built.

    Found in this package's ResNets and WRNs, torchvision's ResNets and ``nn.TransformerEncoder``;
    of other nets they must be named, and are then not rescaled. Blocks that change the shape cannot
    be left out, so they are not in the list.

    Args:
        model: the net.
        names: of the blocks; None finds them.

    Raises:
        ValueError: no such block, or a name that the net does not have.
    """
    modules = dict(model.named_modules())
    if names is not None:
        if len(set(names)) < len(names) or not names:
            raise ValueError(
                f"subnetwork.blocks must name different blocks, at least one, received {names!r}"
            )
        unknown = [name for name in names if name not in modules]
        if unknown:
            raise ValueError(
                f"subnetwork.blocks names {unknown[0]!r}, which is not a module of the net: "
                "expected names of model.named_modules()"
            )
        return [Block(name, modules[name], _ends(modules[name]) or ()) for name in names]
    found = []
    for name, module in modules.items():
        ends = _ends(module)
        if ends is not None:
            found.append(Block(name, module, ends))
    if not found:
        raise ValueError(
            "subnetwork needs residual blocks with an identity shortcut, and none was found in "
            f"{type(model).__name__}: name them (subnetwork.blocks), or leave subnetwork out"
        )
    return found


def _ends(module: nn.Module) -> tuple[nn.Module, ...] | None:
    """The modules at the ends of a block's residual branches; None if it cannot be left out."""
    if isinstance(module, ResidualBlock | WideBlock):
        return (module.branch,) if isinstance(module.shortcut, nn.Identity) else None
    for kind in type(module).__mro__:
        # By name, because importing torchvision's nets takes seconds.
        end = TORCHVISION.get(f"{kind.__module__}.{kind.__name__}")
        if end is not None:
            return (getattr(module, end),) if module.downsample is None else None
    if isinstance(module, nn.TransformerEncoderLayer):
        return (module.dropout1, module.dropout2)
    return None


class _StageCounts:
    """Paths of one stage: for each block, the expected and the counted number of samples."""

    def __init__(self, blocks: int) -> None:
        self.steps, self.samples = 0, 0
        self.expected, self.ran = [0.0] * blocks, [0.0] * blocks

    def add(self, runs: Sequence[bool], chances: Sequence[float], samples: int) -> None:
        self.steps += 1
        self.samples += samples
        for block, (chance, runs_now) in enumerate(zip(chances, runs, strict=True)):
            self.expected[block] += chance * samples
            self.ran[block] += runs_now * samples

    def work(self, ran: Sequence[float], shares: Sequence[float]) -> float:
        """Operations, in sample-passes of the whole net."""
        left_out = (share * (self.samples - had) for share, had in zip(shares, ran, strict=True))
        return self.samples - sum(left_out)


class Paths:
    """Context in which blocks of a net are left out, drawn at every step.

    Args:
        model: the net; its blocks get hooks, which are removed at the end of the context.
        config: the options.
        steps: of the whole schedule.
        seed: of the draws.
        names: names from which they derive, in addition to the seed.

    Raises:
        ValueError: see :func:`residual_blocks` and :class:`PathSchedule`.
    """

    def __init__(
        self, model: nn.Module, config: SubnetworkConfig, steps: int, seed: int, *names: str | int
    ) -> None:
        self.found = residual_blocks(model, config.blocks)
        self.schedule = PathSchedule(config, len(self.found), steps)
        self._seed, self._names = seed, names
        self._runs = [True] * len(self.found)
        self._scales = [1.0] * len(self.found)
        self._stages: dict[Stage, _StageCounts] = {}

    def choose(self, step: int, samples: int = 1) -> list[bool]:
        """Draw the path of a step, for the next forward passes.

        Args:
            step: counted from 0.
            samples: in its batch, for the counts.
        """
        self._runs = self.schedule.path(step, self._seed, *self._names)
        self._scales = self.schedule.scales(step)
        tally = self._stages.setdefault(self.schedule.stage(step), _StageCounts(len(self.found)))
        tally.add(self._runs, self.schedule.chances(step), samples)
        return self._runs

    def stages(self, shares: Sequence[float]) -> list[dict[str, float]]:
        """The costs of every stage, planned and counted, as in :class:`WarmStartReport`.

        Args:
            shares: each block's share of the whole net's operations.
        """
        return [
            {
                "end": stage.end,
                "length": stage.length,
                "steps": tally.steps,
                "passes": tally.samples,
                "planned": tally.work(tally.expected, shares),
                "counted": tally.work(tally.ran, shares),
            }
            for stage, tally in self._stages.items()
        ]

    def spent(self, shares: Sequence[float]) -> float:
        """Operations of the drawn paths, in sample-passes of the whole net.

        Args:
            shares: each block's share of the whole net's operations.
        """
        return sum(tally.work(tally.ran, shares) for tally in self._stages.values())

    def run_all_blocks(self) -> None:
        """Let every block run unscaled, as in evaluation."""
        self._runs = [True] * len(self.found)
        self._scales = [1.0] * len(self.found)

    @contextmanager
    def applied(self) -> Iterator[Paths]:
        """Hook the blocks; every block runs until a path is chosen."""
        handles, own = [], []
        self.run_all_blocks()
        for number, block in enumerate(self.found):
            own.append(block.module.__dict__.get("forward"))
            block.module.__dict__["forward"] = self._skipping(number, block.module.forward)
            handles += [end.register_forward_hook(self._scaling(number)) for end in block.ends]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for block, forward in zip(self.found, own, strict=True):
                _put_back(block.module, forward)

    def _skipping(self, number: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(x: Any, *others: Any, **more: Any) -> Any:
            return plain(x, *others, **more) if self._runs[number] else x

        return forward

    def _scaling(self, number: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def scaled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            scale = self._scales[number]
            return None if scale == 1.0 else output * scale

        return scaled


def block_shares(
    model: nn.Module, inputs: Inputs, labels: Tensor, loss: LossFunction, config: SubnetworkConfig
) -> tuple[float, ...]:
    """Each block's share of a training step's operations, counted with and without it.

    Args:
        model: the net, which is not changed.
        inputs: a small batch on its device.
        labels: its labels.
        loss: mean loss of (logits, labels).
        config: which blocks.
    """
    copied = copy_model(model)
    blocks = residual_blocks(copied, config.blocks)
    whole, _ = flops_of_a_step(copied, inputs, labels, loss)
    shares = []
    for block in blocks:
        own = block.module.__dict__.get("forward")
        block.module.__dict__["forward"] = lambda x, *others, **more: x
        try:
            without, _ = flops_of_a_step(copied, inputs, labels, loss)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"block {block.name!r} cannot be left out: the net does not run without it. It "
                "must take its input first, by place, and give out the same shape "
                f"({str(error).splitlines()[0]}): take it out of subnetwork.blocks"
            ) from error
        _put_back(block.module, own)
        shares.append((whole - without) / whole)
    return tuple(shares)


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Restore the module's own ``forward``, or that of its class."""
    del module.__dict__["forward"]
    if forward is not None:
        module.__dict__["forward"] = forward
