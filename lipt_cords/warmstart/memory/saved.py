"""Tensors that autograd saves: where their memory is, and how they are put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def storage_key(tensor: Tensor) -> int:
    """What tells the storage of a tensor from every other that is alive."""
    key: int = tensor.untyped_storage()._cdata
    return key


def plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but memory, sizes and strides."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor.is_quantized
        and tensor.device.type != "meta"
    )


@dataclass(frozen=True)
class Geometry:
    """A view into a storage."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Geometry:
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def on(self, whole: Tensor) -> Tensor:
        """The view, in the storage of a tensor."""
        empty = torch.empty(0, dtype=self.dtype, device=whole.device)
        return empty.set_(whole.untyped_storage(), self.offset, self.size, self.stride)


def whole_storage(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's storage, shape (bytes,); shares its memory, and holds it."""
    storage = tensor.untyped_storage()
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return empty.set_(storage, 0, (storage.nbytes(),), (1,))


def shape_of(tensor: Tensor) -> tuple[Any, ...]:
    """What a later step must save again, to be the same step."""
    return (str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


def check_version(tensor: Tensor, version: int) -> None:
    """Complain as autograd does when a saved tensor was written to.

    Raises:
        RuntimeError: its content is not what the backward pass needs.
    """
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: a {tensor.dtype} tensor of shape {list(tensor.shape)} is at version "
            f"{tensor._version}; expected version {version} instead"
        )
