"""What people do today about activation memory: checkpoint every block, or save on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import Bottleneck

from benchmarks.memory.nets import Stage
from lipt_cords.models.nets import ResidualBlock
from lipt_cords.training.memory.link import PacedLink
from lipt_cords.training.memory.storages import Geometry
from lipt_cords.training.memory.transfer import Transfer

BLOCKS = (ResidualBlock, Bottleneck, nn.TransformerEncoderLayer, Stage)


@contextmanager
def checkpointed(net: nn.Module) -> Iterator[None]:
    """Every block is run again in the backward pass, as torch.utils.checkpoint does it."""
    blocks: list[Any] = [module for module in net.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise ValueError("no block of this net is known, so nothing would be checkpointed")
    try:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block in blocks:
            del block.forward  # that of the class shows again


class SavedOnHost(saved_tensors_hooks):
    """What torch.autograd.graph.save_on_cpu does on a GPU, over a simulated link.

    On a CPU torch's own does nothing. As there, every saved tensor is sent by itself, weights
    too, though another one shares its memory, and the step waits for each, out and back.

    Args:
        link: where they go.
    """

    def __init__(self, link: PacedLink) -> None:
        self._link = link
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> tuple[Transfer, Geometry]:
        values = tensor.detach()
        if not torch.ops.aten.is_non_overlapping_and_dense(values):
            values = values.contiguous()
        flat = values.as_strided((values.numel(),), (1,), values.storage_offset())
        transfer = self._link.send(flat.view(torch.uint8))
        transfer.settle()
        return transfer, Geometry(values.dtype, tuple(values.shape), values.stride(), 0)

    def _unpack(self, packed: tuple[Transfer, Geometry]) -> Tensor:
        transfer, geometry = packed
        return geometry.on(transfer.get())


def saved_on_host(device: torch.device, bandwidth: float) -> saved_tensors_hooks:
    """torch's own on a GPU, with pinned memory; the same over a simulated link on a CPU."""
    if device.type == "cuda":
        return torch.autograd.graph.save_on_cpu(pin_memory=True)
    return SavedOnHost(PacedLink(bandwidth))
