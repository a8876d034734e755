"""Which layer makes what a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lipt_cords.models.outputs import MATCHES, Place, tensors_in


class MadeByLayers:
    """Context in which the outputs of some layers are recorded.

    Args:
        layers: by name.

    Attributes:
        made: name and output of every call, in order.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self.made: list[tuple[str, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> MadeByLayers:
        names = {module: name for name, module in self._layers.items()}

        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() and not output.requires_grad:
                output.requires_grad_()  # of frozen weights: so that what depends on it is known
            self.made.append((names[module], output))

        self._handles = [module.register_forward_hook(record) for module in names]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def heads_in(output: Any, made: list[tuple[str, Tensor]]) -> dict[str, Place]:
    """The layers whose outputs are in what a network returned, and where.

    Outputs that are nearly equal count only where none is found exactly.
    """
    found: dict[str, Place] = {}
    for matches in (MATCHES[:-1], MATCHES[-1:]):
        for place, returned in tensors_in(output):
            for alike in matches:
                names = [n for n, t in made if t.numel() == returned.numel() and alike(returned, t)]
                if names:
                    found |= dict.fromkeys(names, place)
                    break
        if found:
            break
    return found


def pooled_in(output: Any, made: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The layers that read every token, of which a network returns logits; and what they made.

    Args:
        output: of the network, with history.
        made: outputs of its linear layers, with history.
    """
    found = {}
    for name, one in made:
        for _, returned in tensors_in(output):
            alike = returned.ndim == 2 and returned.shape == (one.shape[0], one.shape[-1])
            if one.ndim > 2 and alike and returned.requires_grad:
                ones = torch.ones_like(returned)
                slope = torch.autograd.grad(
                    returned, one, ones, allow_unused=True, retain_graph=True
                )[0]
                if slope is not None:
                    found[name] = one
    return found


def last_ones(made: Mapping[str, Tensor]) -> list[str]:
    """Of some layers those on whose outputs no other one's depends.

    Args:
        made: their outputs, with history.
    """

    def depends(one: Tensor, other: Tensor) -> bool:
        ones = torch.ones_like(one)
        found = torch.autograd.grad(one, other, ones, allow_unused=True, retain_graph=True)
        return found[0] is not None

    return [
        name
        for name, own in made.items()
        if not any(depends(other, own) for key, other in made.items() if key != name)
    ]
