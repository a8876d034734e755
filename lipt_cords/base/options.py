"""Records of options that guess nothing: unknown keys and values of wrong types are errors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lipt_cords.base.errors import unknown_name

LONGEST_VALUE = 200
"""Characters of a wrong value that an error shows."""


class StrictModel(BaseModel):
    """A frozen record; unknown keys and names are errors that suggest the nearest valid one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _strict_values(cls, value: Any, info: Any) -> Any:
        """Refuse numbers as booleans and booleans as numbers, although Python mixes them."""
        accepted = str(cls.model_fields[info.field_name].annotation)
        number = "int" in accepted or "float" in accepted
        if isinstance(value, bool) and number and "bool" not in accepted:
            raise ValueError(f"expected a number, received {value}")
        if "bool" in accepted and not number and not isinstance(value, bool | None):
            raise ValueError(f"expected True or False, received {value!r}")
        if "Path" in accepted and value == "":
            raise ValueError("expected a directory, received ''; leave it out to write nothing")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Let ``help()`` list the options: Python shows no docstrings of attributes."""
        lines = ["", "", "Options:"]
        for name, one in cls.model_fields.items():
            said = " ".join((one.description or "").split())
            lines.append(f"    {name} = {one.get_default(call_default_factory=True)!r}: {said}")
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "") + "\n".join(lines)

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in type(self).model_fields:
                raise unknown_name(f"{type(self).__name__} option", name, type(self).model_fields)
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ValueError(readable_errors(type(self).__name__, error)) from None


def readable_errors(title: str, error: ValidationError) -> str:
    """One line per wrong option: its path, the error, the received value."""
    lines = []
    for problem in error.errors():
        where = ".".join(map(str, (title, *problem["loc"])))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] != "value_error":  # our own checks name the received value themselves
            message += f" (received {shortened(problem['input'])})"
        lines.append(f"{where}: {message}")
    return "\n".join(lines)


def shortened(value: Any) -> str:
    """A value as Python writes it, as far as one line can show it."""
    try:
        said = repr(value)
    except (RecursionError, ValueError) as error:  # too deep, or an integer of thousands of digits
        return f"a {type(value).__name__} that cannot be shown: {error}"
    return said if len(said) <= LONGEST_VALUE else f"{said[:LONGEST_VALUE]}..."


class ConfigSection(StrictModel):
    """One dictionary of a configuration; its errors name the key with its full path."""

    section: ClassVar[str] = "config"

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in type(self).model_fields:
                valid = [f"{self.section}.{field}" for field in type(self).model_fields]
                raise unknown_name("configuration key", f"{self.section}.{name}", valid)
        try:
            BaseModel.__init__(self, **options)
        except ValidationError as error:
            raise ValueError(readable_errors(self.section, error)) from None


def one_of(kind: str, value: Any, names: Any) -> Any:
    """Check that a value is one of the names of a ``Literal``.

    Raises:
        ValueError: it is not; the nearest is suggested.
    """
    if value not in get_args(names):
        raise unknown_name(kind, value, get_args(names))
    return value


def by_name(value: Any, kind: type[StrictModel], what: str, example: str) -> Any:
    """A record of options, from a record or a mapping; None stays None.

    Args:
        value: as given.
        kind: the class of the record.
        what: the name of its entries, such as ``"options"``.
        example: shown in the error.

    Raises:
        ValueError: another type.
    """
    if isinstance(value, Mapping):
        return {str(key): one for key, one in value.items()}
    if isinstance(value, kind) or value is None:
        return value
    raise ValueError(f"expected {what} by name, such as {example}, received {value!r}")
