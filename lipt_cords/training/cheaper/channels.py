"""Channels that must be removed together, and their removal from a net.

The BatchNorm layers of a residual stream must lose the same channels. torch-pruning finds them in a
traced forward pass, and also cuts the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipt_cords.base.errors import missing_extra
from lipt_cords.data.batches import Inputs
from lipt_cords.models.copies import copy_model
from lipt_cords.models.heads import call_model
from lipt_cords.models.modes import frozen_entries


def scaled_batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers with scales, by which channels are ranked, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.affine
    }


def dependency_graph(model: nn.Module, example: Inputs) -> Any:
    """torch-pruning's graph of a net, traced on a small batch; all weights are then trainable.

    Raises:
        ImportError: torch-pruning is not installed.
        ValueError: the net cannot be traced.
    """
    try:
        import torch_pruning
    except ImportError:
        raise missing_extra("torch-pruning", "prune", "to remove channels") from None
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())  # it follows the backward pass
    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model,
                example_inputs=example,
                forward_fn=lambda net, inputs: call_model(net, inputs),
                verbose=False,
            )
    except Exception as error:  # any error of the tracer
        raise ValueError(
            f"torch-pruning cannot trace {type(model).__name__}, so no channel of it can be "
            f"removed ({type(error).__name__}: {error}): leave early_bird out"
        ) from error


class ChannelGroups:
    """The groups of BatchNorm channels of a net that must be removed together.

    Args:
        model: the net, which is not changed.
        example: a small batch of its inputs, on its device.

    Raises:
        ValueError: no BatchNorm layer with scales, or a net that cannot be traced.
    """

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        layers = scaled_batchnorms(model)
        sizes = {name: layer.num_features for name, layer in layers.items()}
        if not sizes:
            raise ValueError(
                f"early_bird ranks channels by the scales of BatchNorm layers, and "
                f"{type(model).__name__} has none: leave early_bird out, or build the net with them"
            )
        self.names = list(sizes)
        """BatchNorm layers, in the order in which the net has them."""
        self.sizes = [sizes[name] for name in self.names]
        self.starts = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        parents = list(range(sum(self.sizes)))

        def root_of(channel: int) -> int:
            while parents[channel] != channel:
                parents[channel] = parents[parents[channel]]
                channel = parents[channel]
            return channel

        traced, frozen = copy_model(model), frozen_entries(model)
        fixed = torch.zeros(len(parents), dtype=torch.bool)
        for here, there in self._couples(traced, dependency_graph(traced, example), frozen, fixed):
            parents[root_of(there)] = root_of(here)
        roots = torch.tensor([root_of(channel) for channel in range(len(parents))])
        self.group_of = torch.unique(roots, return_inverse=True)[1]
        """Group of every channel, shape (C,), the layers' channels one after the other."""
        self.size_of_group = torch.bincount(self.group_of)
        self.fixed = torch.isin(self.group_of, self.group_of[fixed])
        """Channels of frozen weights or kept statistics, which stay, shape (C,), bool."""
        if bool(self.fixed.all()):
            raise ValueError(
                f"early_bird removes channels, and all of {type(model).__name__} belong to frozen "
                "weights or to BatchNorm layers that are kept in eval mode: leave early_bird out"
            )

    def _couples(
        self, traced: nn.Module, graph: Any, frozen: set[str], fixed: Tensor
    ) -> list[tuple[int, int]]:
        """Pairs of channels, numbered over all layers, that must be removed together.

        Channels without which an entry in ``frozen`` would change are marked in ``fixed``.
        """
        start_of = dict(zip(self.names, self.starts, strict=True))
        layers = scaled_batchnorms(traced)
        name_of = {id(layer): name for name, layer in layers.items()}
        entries = {id(value): name for name, value in traced.state_dict(keep_vars=True).items()}
        pairs = []
        for name, layer in layers.items():
            for item in _group(graph, layer, range(layer.num_features)):
                module = item.dep.target.module
                parts = [module] if isinstance(module, nn.Parameter) else _own_tensors(module)
                if any(entries.get(id(part)) in frozen for part in parts):
                    fixed[torch.tensor(item.root_idxs) + start_of[name]] = True
                other = name_of.get(id(module))
                if other is not None and other != name:
                    pairs += [
                        (start_of[name] + here, start_of[other] + there)
                        for here, there in zip(item.root_idxs, item.idxs, strict=True)
                    ]
        return pairs

    def scales(self, state: Mapping[str, Tensor]) -> Tensor:
        """Scores of all channels: the mean scale size of their groups, shape (C,), float64.

        Those of channels that stay are infinite.
        """
        sizes = torch.cat([state[f"{name}.weight"].detach().abs().cpu() for name in self.names])
        sums = torch.zeros(len(self.size_of_group), dtype=torch.float64)
        sums.index_add_(0, self.group_of, sizes.double())
        return self.with_fixed((sums / self.size_of_group)[self.group_of])

    def with_fixed(self, scales: Tensor) -> Tensor:
        """Scores, shape (C,), infinite for channels that stay."""
        return scales.masked_fill(self.fixed, math.inf)

    def kept(self, mask: Tensor, scales: Tensor) -> tuple[dict[str, Tensor], list[str]]:
        """The channels that are kept in every layer, at least one per layer.

        Args:
            mask: which channels are kept, shape (C,), equal within a group.
            scales: their scores; a layer that would lose all channels keeps its best group.

        Returns:
            Ascending channel numbers by layer, and the layers that would have lost all.
        """
        mask, rescued = mask.clone(), []
        for name, start, size in zip(self.names, self.starts, self.sizes, strict=True):
            if not bool(mask[start : start + size].any()):
                best = self.group_of[start + int(scales[start : start + size].argmax())]
                mask |= self.group_of == best
                rescued.append(name)
        parts = torch.split(mask, self.sizes)
        return {n: p.nonzero().flatten() for n, p in zip(self.names, parts, strict=True)}, rescued

    def remove(self, model: nn.Module, graph: Any, kept: Mapping[str, Tensor]) -> None:
        """Remove all other channels from a net, in place.

        Args:
            model: the net.
            graph: its :func:`dependency_graph`.
            kept: ascending channel numbers of every BatchNorm layer.

        Raises:
            ValueError: channels of one group are not kept or removed together.
        """
        layers = scaled_batchnorms(model)
        stays = torch.zeros(len(self.group_of), dtype=torch.bool)
        for name, start in zip(self.names, self.starts, strict=True):
            stays[start + kept[name]] = True
        torn = torch.unique(self.group_of[stays])
        if bool((~stays & torch.isin(self.group_of, torn)).any()):
            raise ValueError("channels of one residual stream must be kept or removed together")
        here = torch.ones_like(stays)
        for name, start, size in zip(self.names, self.starts, self.sizes, strict=True):
            part = slice(start, start + size)
            present = here[part].nonzero().flatten()
            gone = (~stays[part][present]).nonzero().flatten().tolist()
            if gone:
                try:
                    _group(graph, layers[name], gone).prune()
                except Exception as error:  # grouped convolutions, parametrised weights
                    raise ValueError(
                        f"torch-pruning cannot remove channels of layer {name!r} "
                        f"({type(error).__name__}: {str(error).splitlines()[0]}): leave "
                        "early_bird out"
                    ) from error
                here &= ~torch.isin(self.group_of, self.group_of[part][present[gone]])


def _own_tensors(module: Any) -> list[Tensor]:
    """The weights and buffers of a module itself; none of an operation without a module."""
    if not isinstance(module, nn.Module):
        return []
    own = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in own if tensor is not None]


def _group(graph: Any, layer: nn.Module, channels: Sequence[int]) -> Any:
    import torch_pruning

    return graph.get_pruning_group(
        layer, torch_pruning.prune_batchnorm_out_channels, idxs=list(channels)
    )


def ticket_mask(scales: Tensor, ratio: float) -> Tensor:
    """Which channels are kept: those strictly above the ``ratio`` quantile of all.

    Args:
        scales: sizes of the scales of all channels, pooled, shape (C,); infinite ones stay, and do
            not count.
        ratio: share of the others that is removed, in [0, 1).

    Returns:
        Boolean mask, shape (C,). Ties with the threshold are removed too, so it may be a few more.

    Source: You et al., Early-Bird tickets, ICLR 2020; the threshold as in network slimming (Liu et
    al., ICCV 2017).

    >>> ticket_mask(torch.tensor([0.4, 0.1, 0.3, 0.2]), 0.5)
    tensor([ True, False,  True, False])
    """
    ranked = scales[scales.isfinite()]
    going = math.floor(ratio * len(ranked))
    if going == 0:
        return torch.ones_like(scales, dtype=torch.bool)
    return scales > ranked.kthvalue(going).values
