"""Tensors of what users bring: arrays with any strides and byte order, lists, numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(name: str, values: Any) -> Tensor:
    """A dense tensor without a gradient, of a tensor, an array with any strides, or numbers.

    Raises:
        ValueError: it holds no real numbers.
    """
    try:
        # Torch takes no negative strides and no foreign byte order.
        if isinstance(values, np.ndarray):
            native = values.astype(values.dtype.newbyteorder("="), copy=False)
            values = native.copy() if min(native.strides, default=0) < 0 else native
        tensor: Tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        received = f"{type(values).__name__}: {error}"
        raise ValueError(f"expected numbers as {name}, received {received}") from None
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
        kind = "complex numbers" if tensor.is_complex() else str(tensor.layout)
        raise ValueError(f"expected {name} as a dense tensor of real numbers, received {kind}")
    return tensor
