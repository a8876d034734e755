"""Tensors that autograd saves: their storages, and how they are rebuilt."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors in anything nested, in order."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class ByStorage(Generic[T]):
    """A mapping by storage, as long as it lives: afterwards its address may be reused."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], T]] = {}

    def get(self, storage: Any) -> T | None:
        """The value of a storage; None if it has none."""
        known = self._known.get(storage._cdata)
        return known[1] if known is not None and known[0]() is storage else None

    def set(self, storage: Any, value: T) -> None:
        """Set the value of a storage."""
        self._known[storage._cdata] = weakref.ref(storage), value

    def __bool__(self) -> bool:
        return bool(self._known)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is only memory, sizes and strides."""
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
        """The geometry of a tensor."""
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
    """All bytes of a tensor's storage, shape (bytes,); it shares the memory and keeps it alive."""
    return all_bytes(tensor.untyped_storage())


def all_bytes(storage: Any) -> Tensor:
    """All bytes of a storage, shape (bytes,); it shares the memory and keeps it alive."""
    empty = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return empty.set_(storage, 0, (storage.nbytes(),), (1,))


def shape_of(tensor: Tensor) -> tuple[Any, ...]:
    """Facts of a saved tensor that must be equal in later steps of the same kind."""
    return (str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


class Version:
    """How often a tensor was written to, without keeping its memory alive.

    Args:
        tensor: any.
    """

    def __init__(self, tensor: Tensor) -> None:
        # A detached tensor shares the count of writes, and keeps it when its memory is replaced.
        self._counter = tensor.detach()
        self._counter.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self._saved = self._counter._version

    def check(self, what: Any) -> None:
        """Raise autograd's error if it was written to since.

        Args:
            what: has the ``dtype`` and ``shape`` of the tensor.

        Raises:
            RuntimeError: its content was changed.
        """
        check_version(self._counter._version, self._saved, what)


def check_version(now: int, saved: int, what: Any) -> None:
    """Raise autograd's error for a saved tensor that was written to.

    Raises:
        RuntimeError: its content is not what the backward pass needs.
    """
    if now != saved:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: a {what.dtype} tensor of shape {list(what.shape)} is at version {now}; "
            f"expected version {saved} instead"
        )
