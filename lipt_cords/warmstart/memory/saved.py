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
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Geometry:
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def on(self, whole: Tensor) -> Tensor:
        """The view, in the storage of a tensor."""
        empty = torch.empty(0, dtype=self.dtype, device=whole.device)
        return empty.set_(whole.untyped_storage(), self.offset, self.shape, self.stride)


def numbered(tensor: Tensor) -> bool:
    """Whether a tensor has a storage; its conjugate and negative views have the same."""
    return tensor.layout == torch.strided and tensor.device.type != "meta" and _has_storage(tensor)


def _has_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def whole_storage(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's storage, shape (bytes,); shares its memory, and holds it."""
    storage = tensor.untyped_storage()
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return empty.set_(storage, 0, (storage.nbytes(),), (1,))


def shape_of(tensor: Tensor) -> tuple[Any, ...]:
    """What a later step must save again, to be the same step."""
    return (str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


class Version:
    """How often a tensor was written to, without holding its memory.

    Args:
        tensor: any.
    """

    def __init__(self, tensor: Tensor) -> None:
        # A detached tensor shares the count of writes, and keeps it when it gets other memory.
        self._counter = tensor.detach()
        self._counter.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self._saved = self._counter._version

    def check(self, what: Any) -> None:
        """Complain as autograd does if it was written to since.

        Args:
            what: has the ``dtype`` and ``shape`` of the tensor.

        Raises:
            RuntimeError: its content is not what the backward pass needs.
        """
        check_version(self._counter._version, self._saved, what)


def check_version(now: int, saved: int, what: Any) -> None:
    """Complain as autograd does when a saved tensor was written to.

    Raises:
        RuntimeError: its content is not what the backward pass needs.
    """
    if now != saved:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: a {what.dtype} tensor of shape {list(what.shape)} is at version {now}; "
            f"expected version {saved} instead"
        )
