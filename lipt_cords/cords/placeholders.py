"""What CORDS gets in place of a package, or of a name in one, that this machine lacks."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NoReturn

_PIP_NAMES = {
    "datasets": "datasets",
    "h5py": "h5py",
    "ray": "'ray[tune]'",
    "sentence_transformers": "sentence-transformers",
    "skimage": "scikit-image",
    "torchtext": "torchtext",
    "transformers": "transformers",
    "wandb": "wandb",
}


class Missing:
    """Stands for a package, or a name of one, that CORDS imports and this machine lacks.

    It can be passed around; calling it, or making an object of a class derived from it, is an
    error that names what is missing.
    """

    def __init__(self, name: str, reason: BaseException) -> None:
        self._name, self._reason = name, reason

    def _unavailable(self) -> ImportError:
        package = self._name.partition(".")[0]
        remedy = f": pip install {_PIP_NAMES[package]}" if package in _PIP_NAMES else ""
        reason = str(self._reason).strip().partition("\n")[0]
        error = ImportError(
            f"{self._name} was called, but it is not available here ({reason}), and a "
            f"placeholder was imported in its place{remedy}"
        )
        error.__cause__ = self._reason
        return error

    def __getattr__(self, name: str) -> Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}", self._reason)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._unavailable()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        def refuse(instance: Any, *args: Any, **kwargs: Any) -> NoReturn:
            raise self._unavailable()

        return (type(self._name.rpartition(".")[2], (), {"__init__": refuse}),)

    def __repr__(self) -> str:
        return f"<{self._name}, not available>"


def with_names(module: ModuleType, wanted: frozenset[str]) -> ModuleType:
    """The module itself, or a view of it in which absent names are placeholders."""
    view = ModuleType(module.__name__)
    absent = False
    for name in wanted - {"*"}:
        try:
            value = getattr(module, name)
        except Exception as error:  # scikit-learn raises ImportError, others AttributeError
            try:
                value = importlib.import_module(f"{module.__name__}.{name}")
            except Exception:
                value, absent = Missing(f"{module.__name__}.{name}", error), True
        setattr(view, name, value)
    return view if absent else module
