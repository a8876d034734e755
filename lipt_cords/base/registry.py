"""Registries of named things, for Python, YAML and the command line.

A new selector, score, sparsity, soup, outer step, optimizer, codec or augmentation is one function
and one decorator. A user's modules register theirs when they are imported: by ``import``,
by ``imports: [my_module]`` in a configuration, or by ``--import my_module``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lipt_cords.base.errors import unknown_name

T = TypeVar("T", bound=Callable[..., Any])

REGISTRIES: dict[str, Registry[Any]] = {}
"""All registries by the name of their kind, in the order in which they were made."""
PACKAGE = __name__.partition(".")[0]
FOREIGN_NAME = (
    "A module of yours that registers it is imported by imports: [MODULE] in the configuration, "
    "or --import MODULE"
)
"""What errors of unknown names add."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing.

    Attributes:
        name: its name.
        make: the function or class.
        module: where it was registered.
        line: the first line of its docstring.
        facts: properties that its kind defines, such as ``needs_validation``.
    """

    name: str
    make: T
    module: str
    line: str
    facts: dict[str, Any]


class Registry(Generic[T]):
    """The named things of one kind.

    Args:
        kind: the name of the kind, such as ``"selector"``.
        takes: names of the arguments of each: positional ones, and keyword-only ones after ``"*"``.
            What is registered must accept such a call.
        facts: names and defaults of the facts that may be given with a name.

    >>> greetings = Registry("greeting", takes=("name",))
    >>> @greetings.register("hello")
    ... def hello(name):
    ...     "Says hello."
    ...     return f"hello {name}"
    >>> greetings["hello"]("you"), greetings.lines()
    ('hello you', {'hello': 'Says hello.'})
    >>> greetings["helo"]
    Traceback (most recent call last):
    ...
    ValueError: unknown greeting 'helo': expected one of 'hello'. Did you mean 'hello'? ...
    >>> del REGISTRIES["greeting"]
    """

    def __init__(self, kind: str, *, takes: Iterable[str], **facts: Any) -> None:
        self.kind, self._facts = kind, facts
        self.takes = tuple(takes)
        self._entries: dict[str, Entry[T]] = {}
        REGISTRIES[kind] = self

    def register(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Register a function or class under a name; a decorator.

        Args:
            name: must be free; upper and lower case are equal.
            **facts: see ``facts`` of this kind.

        Raises:
            ValueError: the name is taken or not a string, a fact is unknown, or the function cannot
                be called like its kind.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a {self.kind} needs a name, received {name!r}")
        for fact in facts:
            if fact not in self._facts:
                raise unknown_name(f"fact of a {self.kind}", fact, self._facts)
        name = name.strip()
        key = name.lower()

        def add(function: T) -> T:
            module = _registering_module()
            taken = self._entries.get(key)
            if taken is not None and not _is_again(taken, function, module):
                raise ValueError(
                    f"a {self.kind} named {name!r} exists already, registered by {taken.module}: "
                    "choose another name"
                )
            self._check_call(name, function)
            line = (inspect.getdoc(function) or "").partition("\n")[0]
            self._entries[key] = Entry(key, function, module, line, {**self._facts, **facts})
            return function

        return add

    def unregister(self, name: str) -> None:
        """Remove a name, for instance at the end of a test."""
        self._entries.pop(name.lower(), None)

    def entry(self, name: object) -> Entry[T]:
        """The entry of a name.

        Raises:
            ValueError: the name is unknown; the nearest is suggested, and how to import a module
                that registers it.
        """
        found = self._entries.get(name.lower()) if isinstance(name, str) else None
        if found is None:
            known = unknown_name(self.kind, name, self._entries)
            raise ValueError(f"{known} {FOREIGN_NAME}")
        return found

    def __getitem__(self, name: object) -> T:
        return self.entry(name).make

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._entries

    def names(self) -> tuple[str, ...]:
        """All names: the package's own in the order of their definition, then others."""
        return tuple(self._entries)

    def names_with(self, fact: str) -> tuple[str, ...]:
        """Names for which a fact is true."""
        return tuple(name for name, entry in self._entries.items() if entry.facts[fact])

    def lines(self) -> dict[str, str]:
        """The first docstring line of each, by name."""
        return {name: entry.line for name, entry in self._entries.items()}

    def options(self, name: object) -> tuple[str, ...]:
        """Keyword-only parameters beyond those of its kind."""
        parameters = inspect.signature(self[name]).parameters.values()
        keyword_only = (p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
        return tuple(name for name in keyword_only if name not in self.takes)

    def foreign_code(self, name: object) -> dict[str, str]:
        """A hash of a user's code behind a name: of its module, or of a script's function.

        Returns:
            One entry, by what it is of; none for what this package registered.
        """
        entry = self.entry(name)
        if not is_foreign(entry.module):
            return {}
        script = entry.module in ("__main__", "__mp_main__")
        what = f"{self.kind} {entry.name!r}" if script else f"module {entry.module!r}"
        module = None if script else sys.modules.get(entry.module)
        return {f"code of {what}": _hash_of_code(entry.make if module is None else module)}

    def _check_call(self, name: str, function: T) -> None:
        if not callable(function):
            raise ValueError(
                f"a {self.kind} is a function or class, and {name!r} is a {type(function).__name__}"
            )
        split = self.takes.index("*") if "*" in self.takes else len(self.takes)
        positional, keywords = self.takes[:split], self.takes[split + 1 :]
        try:
            signature = inspect.signature(function)
        except ValueError:  # a builtin without a signature
            return
        try:
            signature.bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            raise ValueError(
                f"a {self.kind} is called as {name}({', '.join(self.takes)}), and "
                f"{getattr(function, '__qualname__', function)}{signature} cannot be: {error}"
            ) from None


def _is_again(taken: Entry[Any], function: Any, module: str) -> bool:
    """Whether a function of a user's is defined anew: a reload, or a notebook's cell run again."""
    name, code = getattr(function, "__qualname__", "<"), getattr(function, "__code__", None)
    before = getattr(taken.make, "__code__", None)
    return (
        is_foreign(module)
        and taken.module == module
        and "<" not in name
        and getattr(taken.make, "__qualname__", None) == name
        and (code is None) == (before is None)
        and (code is None or before is None or code.co_filename == before.co_filename)
    )


def import_modules(names: Iterable[str]) -> None:
    """Import a user's modules, which register their names.

    The working directory is searched too, as ``python -m`` does.

    Args:
        names: such as ``"my_module"`` or ``"my_package.selectors"``.

    Raises:
        ValueError: an import fails; the module and the reason are named.
    """
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str) or not _is_module_name(name):
            raise ValueError(
                f"cannot import {name!r}: expected the name of a module, such as my_module or "
                "my_package.selectors (without .py, and dots between folders)"
            )
        before = {kind: dict(registry._entries) for kind, registry in REGISTRIES.items()}
        try:
            here = str(Path.cwd())
            if here not in sys.path and "" not in sys.path:
                sys.path.append(here)
            importlib.import_module(name)
        except Exception as error:  # a user's module may raise anything
            for kind, entries in before.items():  # nothing of it is left half registered
                REGISTRIES[kind]._entries = entries
            absent = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?")
            where = " Give a module that Python finds: in the working directory, in PYTHONPATH or "
            raise ValueError(
                f"cannot import {name!r} (imports, --import): {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}{'' if absent else _place(error)}."
                + (where + "installed" if absent else "")
            ) from error


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """A hash of the source of each imported module, by name."""
    return {name: _hash_of_code(sys.modules.get(name)) for name in modules}


def _hash_of_code(code: Any) -> str:
    """A hash of the source of a module or a function; of its bytecode where there is none."""
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # defined at a prompt
        source = repr(getattr(code, "__code__", code))
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _place(error: BaseException) -> str:
    """Where an error was raised, for a module that was found."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if "importlib" not in f.filename and not _ours(f.filename)]
    return f" ({outside[-1].filename}, line {outside[-1].lineno})" if outside else ""


def _ours(path: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(__file__).resolve().parents[1])


def _is_module_name(name: str) -> bool:
    return not name.endswith(".py") and all(part.isidentifier() for part in name.split("."))


def _registering_module() -> str:
    """The module that calls a decorator, wherever the function itself was written."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", "?"))
        if is_foreign(module) or frame.f_code.co_name == "<module>":
            break  # else a decorator of this package that calls another
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "?"))


def is_foreign(module: str) -> bool:
    """Whether a module is outside of this package."""
    return module != PACKAGE and not module.startswith(f"{PACKAGE}.")


def foreign_modules() -> list[str]:
    """Modules outside of this package that registered something; child processes import them."""
    modules = {
        entry.module for registry in REGISTRIES.values() for entry in registry._entries.values()
    }
    return sorted(filter(is_foreign, modules - {"__main__", "__mp_main__", "?"}))
