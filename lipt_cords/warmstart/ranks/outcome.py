"""The outcome of work on one rank, a value or an error, as bytes for the others."""

from __future__ import annotations

import builtins
from typing import Any

from lipt_cords.base.messages import decode, encode
from lipt_cords.warmstart.ranks.conversation import Excluded, LostContact, foreign

Outcome = tuple[Any, Exception | None]


def pack(outcome: Outcome) -> bytes:
    """An outcome as a message; a value that cannot be sent becomes the error that says why."""
    value, error = outcome
    if error is None:
        try:
            return encode(("value", value))
        except ValueError as refused:
            error = refused
    return encode(("error", *_described(error)))


def unpack(message: bytes) -> Outcome:
    """Read what :func:`pack` wrote.

    Raises:
        ValueError: other bytes.
    """
    match decode(message):
        case ("value", value):
            return value, None
        case ("error", str(kind), list(values)):
            return None, _rebuilt(kind, values)
        case other:
            raise ValueError(f"expected the outcome of work, received a {type(other).__name__}")


def failed_elsewhere(rank: int, message: bytes) -> Exception:
    """The error with which a rank ends because another has failed.

    Args:
        rank: that failed.
        message: its outcome.
    """
    error = outcome_of(rank, message)[1]
    told = f"rank {rank} failed: {error}"
    plain = type(error) in (ValueError, RuntimeError, TypeError, LostContact)
    return type(error)(told) if plain and error is not None else RuntimeError(told)


def outcome_of(rank: int, message: bytes) -> Outcome:
    """The outcome that a rank sent.

    Raises:
        ValueError: the bytes are not an outcome; another process wrote them.
    """
    try:
        return unpack(message)
    except ValueError as error:
        raise foreign(f"what rank {rank} did", str(error)) from error


def _described(error: Exception) -> tuple[str, list[Any]]:
    """The name and the arguments of an error of Python, of another its message."""
    kind, values = type(error).__name__, list(error.args)
    if _KINDS.get(kind) is type(error):
        if isinstance(error, OSError) and error.filename is not None:
            values.append(str(error.filename))
        try:
            encode(values)
            again = _rebuilt(kind, values)
        except ValueError:
            pass  # arguments that cannot be sent, or that are not those of its kind
        else:
            if (type(again), str(again)) == (type(error), str(error)):
                return kind, values
    return "RuntimeError", [f"{kind}: {error}"]


def _rebuilt(kind: str, values: list[Any]) -> Exception:
    if kind not in _KINDS:
        raise ValueError(f"no error that can be sent is of kind {kind!r}")
    try:
        return _KINDS[kind](*values)
    except Exception as error:  # what a constructor raises on arguments of another kind differs
        raise ValueError(f"no {kind} has the arguments {values!r}") from error


_KINDS: dict[str, type[Exception]] = {
    name: one
    for name, one in vars(builtins).items()
    if isinstance(one, type) and issubclass(one, Exception) and one.__name__ == name
} | {"LostContact": LostContact, "Excluded": Excluded}
"""Errors that keep their type; nothing else is ever called to rebuild one."""
