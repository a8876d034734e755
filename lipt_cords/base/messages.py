"""Messages between processes: plain values as JSON, tensors as safetensors; nothing is executed.

A message is a mark, the length of its JSON part (8 bytes, big-endian), that part, and a safetensors
file with its tensors by number. Dataclasses travel by name and only if they were declared with
:func:`travels`, so the bytes that a stranger wrote can never name a function to call.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

C = TypeVar("C", bound=type)

MARK = b"lipt-cords message 1\n"
LENGTH_BYTES = 8
MOST_BITS = 1024
"""Of a whole number; JSON readers refuse very long ones."""
_TRAVELLERS: dict[str, type] = {}
_DTYPES = {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def travels(cls: C) -> C:
    """Declare a dataclass whose instances messages may carry; its name is its name in messages.

    Raises:
        ValueError: no dataclass, or one whose name is taken.
    """
    if not is_dataclass(cls):
        raise ValueError(f"only a dataclass can travel in messages, received {cls.__name__}")
    known = _TRAVELLERS.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"two dataclasses named {cls.__name__} would travel ({known.__module__} and "
            f"{cls.__module__}): rename one"
        )
    _TRAVELLERS[cls.__name__] = cls  # a module that is loaded again
    return cls


def encode(value: Any) -> bytes:
    """Write a message.

    Args:
        value: None, booleans, numbers, strings, bytes, dtypes, dense tensors (they arrive on the
            CPU), dataclasses that were declared to travel, and lists, tuples and dicts of these.

    Raises:
        ValueError: anything else; the message says where in the value it is.

    >>> decode(encode({"shape": (2, 3), "weights": torch.ones(2), "loss": float("nan")}))
    {'shape': (2, 3), 'weights': tensor([1., 1.]), 'loss': nan}
    """
    tensors = _Tensors()
    try:
        text = json.dumps(_plain(value, "it", tensors), allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("a message cannot carry a value that is nested this deeply") from None
    head = text.encode("ascii")
    try:
        body = save(tensors.numbered)
    except (SafetensorError, LookupError, ValueError) as error:
        kinds = sorted({str(tensor.dtype) for tensor in tensors.numbered.values()})
        raise ValueError(
            f"a message cannot carry tensors of {', '.join(kinds)}: {error}"
        ) from error
    return b"".join([MARK, len(head).to_bytes(LENGTH_BYTES, "big"), head, body])


def decode(message: bytes) -> Any:
    """Read a message.

    Raises:
        ValueError: bytes that :func:`encode` did not write.
    """
    start = len(MARK) + LENGTH_BYTES
    if not message.startswith(MARK) or len(message) < start:
        raise ValueError(
            f"expected a message of this version of lipt-cords, received {len(message)} bytes that "
            f"begin with {message[:16]!r}"
        )
    length = int.from_bytes(message[len(MARK) : start], "big")
    try:
        if length > len(message) - start:
            raise ValueError(f"{length} bytes of JSON are announced")
        head = json.loads(message[start : start + length].decode("ascii"), parse_constant=_refuse)
        tensors: dict[str, Tensor] = load(message[start + length :])
        return _value(head, tensors)
    except (
        ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError,
        RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"a message of {len(message)} bytes was changed or cut ({type(error).__name__}: "
            f"{str(error)[:200]})"
        ) from error


class _Tensors:
    """The tensors of a message, by number."""

    def __init__(self) -> None:
        self.numbered: dict[str, Tensor] = {}
        self._memory: set[int] = set()

    def add(self, tensor: Tensor) -> int:
        """Add a tensor, and return its number; safetensors refuses two that share memory."""
        place = tensor.untyped_storage().data_ptr()
        if tensor.numel() and place in self._memory:
            tensor = tensor.clone()
        self._memory.add(place)
        number = len(self.numbered)
        self.numbered[str(number)] = tensor
        return number


def _plain(value: Any, where: str, tensors: _Tensors) -> Any:
    """The value in JSON's types; its tensors are added to the others."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        raise _refused(value, where)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"a message cannot carry a number of {value.bit_length()} bits")
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, list):
        return [_plain(each, f"{where}[{n}]", tensors) for n, each in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, f"{where}[{n}]", tensors) for n, each in enumerate(value)]}
    if isinstance(value, dict):
        pairs = ((_key(key, where), each, f"{where}[{key!r}]") for key, each in value.items())
        return {"dict": [[key, _plain(each, there, tensors)] for key, each, there in pairs]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, bytes):
        array = np.frombuffer(value, dtype=np.uint8).copy()
        return {"bytes": tensors.add(torch.from_numpy(array))}
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(_dense(value, where))}
    if is_dataclass(value) and _TRAVELLERS.get(type(value).__name__) is type(value):
        inside = {
            each.name: _plain(getattr(value, each.name), f"{where}.{each.name}", tensors)
            for each in fields(value)
        }
        return {"record": type(value).__name__, "fields": inside}
    raise _refused(value, where)


def _key(key: Any, where: str) -> Any:
    if type(key) not in (str, int, float, bool, type(None)) or key in (math.inf, -math.inf):
        raise _refused(key, f"a key of {where}")
    return key


def _refused(value: Any, where: str) -> ValueError:
    return ValueError(
        f"a message between processes cannot carry {type(value).__name__} (found at {where}): "
        "give plain numbers, strings, lists, dicts or dense tensors"
    )


def _dense(value: Tensor, where: str) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(
            f"a message between processes cannot carry a tensor that is {value.dtype}, "
            f"{value.layout}, on {value.device} (found at {where}): make it a dense one"
        )
    return value.detach().cpu().contiguous()


def _value(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that JSON's types stand for."""
    if isinstance(plain, list):
        return [_value(each, tensors) for each in plain]
    if not isinstance(plain, dict):
        return plain
    kind, *rest = plain
    held = plain[kind]
    if kind == "record" and rest == ["fields"] and isinstance(plain["fields"], dict):
        inside = {name: _value(each, tensors) for name, each in plain["fields"].items()}
        return _TRAVELLERS[held](**inside)
    if rest or kind not in _READERS:
        raise ValueError(f"no value is of kind {kind!r}")
    return _READERS[kind](held, tensors)


def _read_dict(pairs: Any, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    return {_key(key, "a dict"): _value(each, tensors) for key, each in pairs}


_READERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "float": lambda held, tensors: _NOT_FINITE[held],
    "tuple": lambda held, tensors: tuple(_value(each, tensors) for each in held),
    "dict": _read_dict,
    "dtype": lambda held, tensors: _DTYPES[held],
    "bytes": lambda held, tensors: tensors[str(held)].numpy().tobytes(),
    "tensor": lambda held, tensors: tensors[str(held)],
}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
