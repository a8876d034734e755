"""Importing CORDS on a current stack.

CORDS asks, at import time, for packages that it hardly ever calls and for names that no longer
exist. What is missing is replaced, for CORDS's own modules only, by a placeholder; calling it
raises an error that names what is missing. Nothing is put into ``sys.modules`` or other packages,
so other libraries that test for an optional package never see a placeholder.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipt_cords.base.errors import missing_extra
from lipt_cords.cords.placeholders import Missing, with_names

ADAPTIVE = "cords.utils.data.dataloader.SL.adaptive"
"""The package of CORDS's adaptive loaders for supervised learning."""

OPTIONAL_FOR_CORDS = frozenset(
    {
        "asyncore", "cgi", "datasets", "h5py", "sentence_transformers", "skimage", "torchtext",
        "transformers", "turtle",
    }
)  # fmt: skip
"""Imported by CORDS, needed by none of its loaders. Some left Python: ``asyncore``, ``cgi``."""

OPTIONAL_FOR_SCRIPTS = frozenset({"ray", "wandb"})
"""Imported by CORDS's training scripts, called only when a configuration asks for it."""

REMOVED_NAMES = {"sklearn.datasets": frozenset({"load_boston"})}
"""Names that left a package which is there."""


class CordsImports:
    """``builtins.__import__`` with placeholders for what CORDS imports and this machine lacks.

    It looks at who imports: CORDS's modules get placeholders for CORDS's optional packages, the
    user's own modules get them for those of CORDS's scripts (inside :func:`script_stubs`), and all
    others get Python's import. Importing CORDS leaves the process's settings as they were.
    """

    def __init__(self) -> None:
        self.users = 0
        self.for_scripts = 0
        self._import = builtins.__import__
        self._installed = False

    def install(self) -> None:
        """Take the place of Python's import, once."""
        self.users += 1
        if not self._installed:
            self._import, builtins.__import__ = builtins.__import__, self
            self._installed = True

    def remove(self) -> None:
        """Give Python's import back, after as many calls as there were installations.

        If it was wrapped in the meantime, it stays in the chain and passes everything on.
        """
        self.users -= 1
        if self.users == 0 and builtins.__import__ is self:
            builtins.__import__ = self._import
            self._installed = False

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        arguments = (name, globals, locals, fromlist, level)
        if level == 0 and _is_cords(name) and self.users:
            with kept_settings():
                return self._import(*arguments)
        if level or not self.users or not isinstance(globals, dict):
            return self._import(*arguments)
        root = name.partition(".")[0]
        if _is_cords(str(globals.get("__name__"))):
            removed = REMOVED_NAMES.get(name, frozenset()).intersection(fromlist or ())
            if removed:
                return with_names(importlib.import_module(name), frozenset(fromlist))
            replaceable = root in OPTIONAL_FOR_CORDS
        else:
            replaceable = bool(self.for_scripts) and root in OPTIONAL_FOR_SCRIPTS
            replaceable = replaceable and _is_users(globals)
        if not replaceable:
            return self._import(*arguments)
        try:
            with quiet_imports():
                module = importlib.import_module(name)
        except Exception as error:
            # Not ImportError alone: an old binary package can fail to load with an OSError.
            return Missing(name if fromlist else root, error)
        return with_names(module, frozenset(fromlist)) if fromlist else sys.modules[root]


_HOOK = CordsImports()


def import_cords(*submodules: str) -> Any:
    """Import CORDS: the released 0.0.4 or its last main, whichever Python finds.

    Args:
        submodules: more modules of CORDS to load, such as ``"cords.utils.models"``. Its adaptive
            loaders for supervised learning always are.

    Returns:
        The package ``cords``.

    Raises:
        ImportError: CORDS or a package that it needs is not installed; the message
            holds the command that installs it.
    """
    if importlib.util.find_spec("cords") is None:
        raise ImportError(f"CORDS is not installed: {INSTALL_CORDS}")
    if _half_loaded():
        _forget_cords()
    before = set(sys.modules)
    try:
        with importing_allowed(), kept_settings(), quiet_imports():
            for name in (ADAPTIVE, *submodules):
                importlib.import_module(name)
    except BaseException as error:
        # Half a package left behind makes the next import fail, or succeed, for no visible reason.
        _forget_cords(keep=before)
        if isinstance(error, ModuleNotFoundError) and error.name and not _is_cords(error.name):
            raise missing_extra(error.name, "cords", "to import CORDS") from error
        raise
    return sys.modules["cords"]


INSTALL_CORDS = "pip install --no-deps cords==0.0.4 && pip install 'lipt-cords[cords]'"
"""Its own pins resolve on no current Python, and the extra has what it really needs."""


def cords_version() -> str | None:
    """Which CORDS an import would find, without importing it.

    Returns:
        ``"0.0.4"``, ``"main"`` (recognised by their loaders: both call themselves v0.0.2),
        another installed version's number, or None when there is no CORDS.
    """
    spec = importlib.util.find_spec("cords")
    if spec is None:
        return None
    for folder in map(Path, spec.submodule_search_locations or ()):
        loaders = folder.joinpath(*ADAPTIVE.split(".")[1:])
        if (loaders / "adaptiverandomdataloader.py").is_file():
            return "main"
        if (loaders / "olrandomdataloader.py").is_file():
            return "0.0.4"
    try:
        return metadata.version("cords")
    except metadata.PackageNotFoundError:
        return None


def allow_imports() -> None:
    """Let any module of CORDS be imported, until :func:`disallow_imports`."""
    _HOOK.install()


def disallow_imports() -> None:
    """Undo one :func:`allow_imports`."""
    _HOOK.remove()


@contextmanager
def importing_allowed() -> Iterator[None]:
    """Any module of CORDS can be imported inside."""
    allow_imports()
    try:
        yield
    finally:
        disallow_imports()


@contextmanager
def script_stubs() -> Iterator[None]:
    """Inside, the user's own modules can also import an absent ``wandb`` or ``ray``."""
    with importing_allowed():
        _HOOK.for_scripts += 1
        try:
            yield
        finally:
            _HOOK.for_scripts -= 1


@contextmanager
def kept_settings() -> Iterator[None]:
    """Restore on exit what CORDS changes for the whole process.

    It sets numpy's handling of floating-point errors to ``raise``, and through apricot it loads
    numba, which gives OpenMP, and so torch, as many threads as there are cores.
    """
    errors, threads = np.geterr(), torch.get_num_threads()
    try:
        yield
    finally:
        np.seterr(**errors)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence Python's warnings about old code at import: it cannot be changed here."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, SyntaxWarning):
            warnings.simplefilter("ignore", category)
        yield


def _is_cords(name: str) -> bool:
    return name == "cords" or name.startswith("cords.")


def _is_users(importer: dict[str, Any]) -> bool:
    """Whether a module is neither Python's nor an installed package's."""
    file = importer.get("__file__")
    if not file:
        return bool(importer.get("__name__") == "__main__")
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not path.is_relative_to(Path(sysconfig.get_paths()["stdlib"]).resolve())


def _half_loaded() -> bool:
    """Whether an earlier import of CORDS failed and left some of its modules behind."""
    loaded = [name for name in sys.modules if name.startswith("cords.")]
    for name in loaded:
        parent, _, child = name.rpartition(".")
        if not hasattr(sys.modules.get(parent), child):
            return True
    return False


def _forget_cords(keep: set[str] | None = None) -> None:
    for name in [name for name in sys.modules if _is_cords(name)]:
        if keep is None or name not in keep:
            del sys.modules[name]
