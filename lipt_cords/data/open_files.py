"""Files that a data set opens when it is read: put back, so that no other reader shares them.

Data sets of HDF5, LMDB, zip and tar files often open them at the first read
(``if self.file is None: self.file = open(...)``), so that every process has its own. A read in the
main process would undo that: processes forked later share the file position and read other records,
without an error, and processes that are spawned get no copy, since an open file has none. So every
read of this package ends with the data set as it was: what came to hold an open file holds again
what it held before. Other traces of a read (counters, decoded items, random generators) stay.

What cannot be seen from the data set, such as a file in a cache of its module, stays open;
processes forked from then on open their files anew, at the same positions. So does every process
that reads for a loader of this package, since the caller may have read an item too.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

FEW = 1024
"""Entries of a list or dict that are looked into; of longer ones, the data sets."""
MANY = 100_000
"""Entries of a list or dict whose changes are seen; longer ones are tables of files and labels."""
_PLAIN: tuple[type, ...] = (
    types.NoneType, bool, int, float, complex, str, bytes, bytearray, type, PurePath, Tensor,
    np.generic, nn.Module, torch.Generator, torch.dtype, torch.device, np.random.Generator,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType,
)  # fmt: skip
_CONTAINERS = (dict, list, set, deque, tuple)
_NOT_WALKED = frozenset(sys.stdlib_module_names | {"torch", "numpy", "pandas", "PIL", "pyarrow"})
"""Packages whose objects hold no lazily opened file of a user's; data sets are always walked."""
_DESCRIPTORS = "/proc/self/fd"


_LEFT: set[int] = set()
"""Descriptors of files that reads opened and that could not be put back."""


class _Reading:
    """A read that is under way: what the data sets held before it.

    Args:
        datasets: what is read.
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.seen: dict[int, Any] = {}
        self._held = [_Held(one) for one in _containers(datasets, self.seen)]
        self._descriptors = _descriptors()
        self.thread = threading.get_ident()
        self.users = 0

    def holds(self, datasets: Iterable[Any]) -> bool:
        """Whether this read is of some data sets too, or of what holds them."""
        return all(id(one) in self.seen for one in datasets)

    def put_back(self) -> None:
        """Put back what came to hold open files, and close these."""
        dropped: list[Any] = []
        for one in self._held:
            dropped += one.put_back()
        while dropped:
            _close_if_unused(dropped.pop())

    def left(self) -> set[int]:
        """Descriptors of files that are open still."""
        return _descriptors() - self._descriptors


_UNDER_WAY: list[_Reading] = []


@contextmanager
def nothing_left_open(*datasets: Any) -> Iterator[None]:
    """Put back, at the end of the block, what came to hold open files in some data sets.

    Files are closed unless something else holds them. A data set that opens its file when it has
    none opens it again at the next read. Within a block around it on the same data sets, or on what
    holds them, a block does nothing, so that a long work opens files once. Of blocks that overlap,
    such as two loaders that take turns, the last one puts back.

    Args:
        *datasets: what is read in the block; data sets, lists and helpers inside are seen too.

    >>> class Lines(Dataset):
    ...     file, reads = None, 0
    ...     def __getitem__(self, index):
    ...         self.reads += 1
    ...         self.file = self.file or open(os.devnull)
    ...         return self.file.read(1)
    >>> lines = Lines()
    >>> with nothing_left_open(lines):
    ...     _ = lines[0], lines[1]
    >>> lines.file is None, lines.reads
    (True, 2)
    """
    datasets = tuple(one for one in datasets if one is not None)
    reading = next((one for one in _UNDER_WAY if one.holds(datasets)), None)
    if reading is None:
        reading = _Reading(datasets)
        _UNDER_WAY.append(reading)
    reading.users += 1
    try:
        yield
    finally:
        reading.users -= 1
        if reading.users == 0:
            reading.put_back()
            _UNDER_WAY.remove(reading)
            _LEFT.update(reading.left())


def own_file_positions(worker: int = 0) -> None:
    """Give this process, if it was forked, files of its own in place of those that it shares.

    Every regular file that is open for reading alone is opened anew, at the same position. Where
    ``/proc`` is missing nothing happens: there, processes are spawned.

    Args:
        worker: number of a DataLoader's process, as ``worker_init_fn`` gets it.
    """
    for number in _descriptors():
        if number > 2:
            # A file that may not be opened again stays as it is.
            with contextlib.suppress(OSError):
                own = os.open(f"{_DESCRIPTORS}/{number}", os.O_RDONLY)
                try:
                    os.lseek(own, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
                    os.dup2(own, number, inheritable=os.get_inheritable(number))
                finally:
                    os.close(own)


def _before_fork() -> None:
    for one in list(_UNDER_WAY):
        # Another thread may be inside a read; this one forks, so it is between two.
        if one.thread == threading.get_ident():
            one.put_back()


def _after_fork() -> None:
    if _UNDER_WAY or _LEFT:
        own_file_positions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class _Held:
    """The entries of a list, a set, or a dict (such as an object's attributes) before a read."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._before: Any = dict(container) if isinstance(container, dict) else list(container)

    def put_back(self) -> list[Any]:
        """Put back entries that came to hold open files, and return what they held."""
        container, before = self._container, self._before
        if isinstance(container, dict):
            return _put_back_entries(container, before)
        known, now = set(map(id, before)), list(container)
        opened = [value for value in now if id(value) not in known and _is_open(value)]
        if not opened:
            return []
        gone = set(map(id, opened))
        if isinstance(container, set):
            container.difference_update(opened)
        elif len(now) == len(before):
            for place, value in enumerate(now):
                if id(value) in gone and not _is_open(before[place]):
                    container[place] = before[place]
        else:
            container.clear()
            container.extend(value for value in now if id(value) not in gone)
        return opened


def _put_back_entries(container: dict[Any, Any], before: dict[Any, Any]) -> list[Any]:
    absent = object()
    changed = [key for key, value in container.items() if before.get(key, absent) is not value]
    # Where the caller's reads had opened a file, the newer one stays: numbers kept beside it, such
    # as that of a shard, are of it, and the earlier one may be closed.
    opened = {key for key in changed if _is_open(container[key]) and not _is_open(before.get(key))}
    dropped = []
    for key in changed if opened else ():
        old = before.get(key, absent)
        # What was set together with the file, such as `self.opened = True`, goes back with it.
        value = container[key]
        of_process = type(value) is int and value == os.getpid()
        if key in opened or old is None or old is False or of_process:
            dropped.append(container[key])
            if old is absent:
                del container[key]
            else:
                container[key] = old
    return dropped


def _containers(roots: Iterable[Any], seen: dict[int, Any]) -> Iterator[Any]:
    """Lists, sets and dicts, attributes of objects among them, below some data sets."""
    waiting: deque[Any] = deque(roots)
    while waiting and len(seen) <= MANY:
        part = waiting.popleft()
        if isinstance(part, _PLAIN) or id(part) in seen:
            continue
        seen[id(part)] = part  # kept alive, so that the number stays its own
        container = part if isinstance(part, _CONTAINERS) else _attributes(part)
        if container is None or len(container) > MANY:
            continue
        if not isinstance(container, tuple):
            yield container
        values = container.values() if isinstance(container, dict) else container
        few = len(container) <= FEW
        waiting.extend(value for value in values if few or isinstance(value, Dataset))


def _attributes(part: Any) -> dict[str, Any] | None:
    """The attributes of an object that may open files, or None."""
    package = type(part).__module__.partition(".")[0]
    if isinstance(part, Dataset | threading.local) or package not in _NOT_WALKED:
        found = getattr(part, "__dict__", None)
        return found if isinstance(found, dict) else None
    return None


def _is_open(value: Any, depth: int = 4) -> bool:
    """Whether a value is or holds an open file, or something else that processes cannot share."""
    if isinstance(value, np.memmap):
        return True
    if isinstance(value, (*_PLAIN, np.ndarray)) or depth == 0:
        return False
    if isinstance(value, _CONTAINERS):
        inside = value.values() if isinstance(value, dict) else value
        if len(value) <= FEW and any(_is_open(one, depth - 1) for one in inside):
            return True
        if type(value) in _CONTAINERS:
            return False
    if type(value).__module__.partition(".")[0] == "PIL":
        return getattr(value, "fp", None) is not None  # an image that is not yet decoded
    if any(callable(getattr(value, name, None)) for name in ("close", "release", "fileno")):
        return True
    own = _attributes(value)
    if own is not None and any(_is_open(one, depth - 1) for one in list(own.values())):
        return True
    try:
        value.__reduce_ex__(4)
    except Exception:  # whatever it raises, it has no copy: a lock, a cursor, a generator
        return True
    return False


def _close_if_unused(value: Any) -> None:
    """Close a file that nothing else holds."""
    # Of the type: a table may have a column of that name. References: the name here, the argument.
    if callable(getattr(type(value), "close", None)) and sys.getrefcount(value) <= 2:
        value.close()


def _descriptors() -> set[int]:
    """Numbers of the regular files that are open here for reading alone."""
    try:
        numbers = list(map(int, os.listdir(_DESCRIPTORS)))  # noqa: PTH208
    except OSError:
        return set()
    return set(filter(_is_read_only_file, numbers))


def _is_read_only_file(number: int) -> bool:
    """Whether a descriptor is of a regular file that is open for reading alone."""
    try:
        import fcntl  # refused when the interpreter ends, which may drop an iterator

        regular = stat.S_ISREG(os.fstat(number).st_mode)
        return regular and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    except (OSError, ImportError):  # closed, as that of the listing is
        return False
