"""Data sets that open their file at the first read, each in another way.

Record ``i`` holds the number ``i`` 64 times; a torn record fails, a wrong one gives another number.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

RECORDS = 96
SIZE = 256
FORM = f"<{SIZE // 4}I"


def write_records(folder: Path) -> Path:
    """The same records as one file, a zip and a tar."""
    records = [struct.pack(FORM, *[number] * (SIZE // 4)) for number in range(RECORDS)]
    (folder / "all.bin").write_bytes(b"".join(records))
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for number, record in enumerate(records):
            archive.writestr(str(number), record)
    with tarfile.open(folder / "all.tar", "w") as tape:
        for number, record in enumerate(records):
            entry = tarfile.TarInfo(str(number))
            entry.size = SIZE
            tape.addfile(entry, io.BytesIO(record))
    return folder


class Records(Dataset[tuple[Tensor, int]]):
    """Reads by :meth:`raw`; counts reads in ``reads``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reads = torch.zeros((), dtype=torch.int64)

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        (number, *others) = struct.unpack(FORM, self.raw(index))
        if set(others) != {number}:
            raise AssertionError("a torn record")
        return torch.tensor([float(number), 1.0]), number % 3

    def raw(self, index: int) -> bytes:
        raise NotImplementedError


def at(file: Any, index: int) -> bytes:
    file.seek(index * SIZE)
    found: bytes = file.read(SIZE)
    return found


class Plain(Records):
    file: Any = None

    def raw(self, index: int) -> bytes:
        if self.file is None:
            self.file = (self.folder / "all.bin").open("rb")
        return at(self.file, index)


class Flagged(Records):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened, self.file = False, None

    def raw(self, index: int) -> bytes:
        if not self.opened:
            self.opened, self.file = True, (self.folder / "all.bin").open("rb", buffering=0)
        return at(self.file, index)


class Descriptor(Records):
    number: int | None = None

    def raw(self, index: int) -> bytes:
        if self.number is None:
            self.number = os.open(self.folder / "all.bin", os.O_RDONLY)
        os.lseek(self.number, index * SIZE, os.SEEK_SET)
        return os.read(self.number, SIZE)


class Zip(Records):
    archive: zipfile.ZipFile | None = None

    def raw(self, index: int) -> bytes:
        if self.archive is None:
            self.archive = zipfile.ZipFile(self.folder / "all.zip")
        return self.archive.read(str(index))


class Tar(Records):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tape: tarfile.TarFile | None = None
        self.entries: dict[str, tarfile.TarInfo] | None = None

    def raw(self, index: int) -> bytes:
        if self.tape is None or self.entries is None:
            self.tape = tarfile.open(self.folder / "all.tar")  # noqa: SIM115
            self.entries = {entry.name: entry for entry in self.tape.getmembers()}
        file = self.tape.extractfile(self.entries[str(index)])
        assert file is not None
        return file.read()


class ByShard(Records):
    """A dict of files, one for every third record."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files: dict[int, Any] = {}

    def raw(self, index: int) -> bytes:
        if index % 3 not in self.files:
            self.files[index % 3] = (self.folder / "all.bin").open("rb")
        return at(self.files[index % 3], index)


class InSlots(Records):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files: list[Any] = [None] * 3

    def raw(self, index: int) -> bytes:
        if self.files[index % 3] is None:
            self.files[index % 3] = (self.folder / "all.bin").open("rb")
        return at(self.files[index % 3], index)


class Reader:
    def __init__(self, path: Path) -> None:
        self.path, self.file = path, None

    def read(self, index: int) -> bytes:
        self.file = self.file or self.path.open("rb")  # type: ignore[assignment]
        return at(self.file, index)


class Helped(Records):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reader = Reader(folder / "all.bin")

    def raw(self, index: int) -> bytes:
        return self.reader.read(index)


class ByThread(Records):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mine = threading.local()

    def raw(self, index: int) -> bytes:
        if not hasattr(self.mine, "file"):
            self.mine.file = (self.folder / "all.bin").open("rb")
        return at(self.mine.file, index)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "mine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, mine=threading.local())


@functools.lru_cache
def opened_once(path: Path) -> Any:
    return path.open("rb")


class InModule(Records):
    """Its file is in a cache that cannot be seen from the data set."""

    def raw(self, index: int) -> bytes:
        return at(opened_once(self.folder / "all.bin"), index)


class Bound:
    """As a file of HDF5 or LMDB: of one process, without a copy."""

    def __init__(self, path: Path) -> None:
        self.process, self.file = os.getpid(), path.open("rb")

    def read(self, index: int) -> bytes:
        if self.process != os.getpid():
            raise AssertionError("a file of another process")
        return at(self.file, index)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no copy of an open file")


class OfOneProcess(Records):
    bound: Bound | None = None

    def raw(self, index: int) -> bytes:
        if self.bound is None:
            self.bound = Bound(self.folder / "all.bin")
        return self.bound.read(index)


class Wrapped(Dataset[Any]):
    def __init__(self, base: Dataset[Any]) -> None:
        self.base = base

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> Any:
        return self.base[index]


KINDS: list[Callable[[Path], Records]] = [
    Plain, Flagged, Descriptor, Zip, Tar, ByShard, InSlots, Helped, ByThread, InModule,
    OfOneProcess,
]  # fmt: skip
