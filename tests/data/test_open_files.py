"""Data sets that open their file at the first read: no read here is felt by later readers."""

from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lazy_files import (
    KINDS,
    RECORDS,
    ByShard,
    Descriptor,
    InModule,
    OfOneProcess,
    Plain,
    Wrapped,
    opened_once,
    write_records,
)
from programs import run_program
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lipt_cords.data.labels import labels_of
from lipt_cords.data.open_files import nothing_left_open, own_file_positions
from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors.base import Selection
from lipt_cords.selectors.loader import SubsetLoader
from lipt_cords.warmstart.warm_start import LiPTWarmStart

EVERYTHING = Selection(torch.arange(RECORDS), torch.ones(RECORDS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


def read_through(loader: Any) -> list[int]:
    return [int(number) for batch in loader for number in batch[0][:, 0]]


def read_by_children(dataset: Dataset[Any]) -> list[list[int]]:
    """What two forked processes read at the same time."""
    pipes = []
    for _ in range(2):
        out, into = os.pipe()
        if os.fork() == 0:
            try:
                numbers = bytes(int(dataset[index][0][0]) for index in range(RECORDS))
                os.write(into, numbers)
            finally:
                os._exit(0)
        os.close(into)
        pipes.append(out)
    found = []
    for out in pipes:
        with os.fdopen(out, "rb") as file:
            found.append(list(file.read()))
        os.wait()
    return found


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [*((kind, False) for kind in KINDS), (Plain, True), (ByShard, True), (OfOneProcess, True)],
)
def test_reads_here_are_not_felt_by_processes_that_read_later(folder, kind, wrapped):
    base = kind(folder)
    dataset = base
    if wrapped:
        joined = ConcatDataset([Wrapped(base), Wrapped(base)])
        dataset = Subset(joined, range(RECORDS))
    right = list(range(RECORDS))
    before = pickle.dumps(dataset) if kind is not Descriptor else None
    assert labels_of(dataset).tolist() == [number % 3 for number in right]
    gradients = last_layer_gradients(nn.Linear(2, 3), dataset)
    assert gradients.embeddings[:, 0].tolist() == right
    BatchSource(dataset, cache_bytes=2**20)
    loader = iter(SubsetLoader(dataset, EVERYTHING, batch_size=32, shuffle=False))
    begun = read_through([next(loader)])
    assert read_by_children(dataset) == [right] * 2, "within an epoch of this process"
    assert begun + read_through(loader) == right
    if before is None or kind is InModule:
        assert read_by_children(dataset) == [right] * 2
    assert base.reads > RECORDS, "counters are not put back"
    base.reads.zero_()
    if before is not None:
        assert pickle.dumps(dataset) == before, "spawned processes get it as it was"


def test_an_item_that_the_caller_has_read_does_not_disturb_loaders_with_workers(folder):
    dataset = Plain(folder)
    dataset[5]
    loader = SubsetLoader(dataset, EVERYTHING, batch_size=4, shuffle=False, num_workers=2)
    assert read_through(loader) == list(range(RECORDS))
    source = BatchSource(dataset, cache_bytes=0, num_workers=2)
    assert read_through(source.batches(batch_size=4)) == list(range(RECORDS))
    assert dataset.file is not None and not dataset.file.closed, "it is the caller's"


def test_a_warm_start_with_loader_workers_leaves_no_file_open(folder):
    dataset = Plain(folder)
    options = {"num_workers": 2, "epochs": 1, "common_steps": 1, "threads": 1, "batch_size": 48}
    serial = LiPTWarmStart(**options, launch="serial").fit(nn.Sequential(nn.Linear(2, 3)), dataset)
    assert vars(dataset).keys() == {"folder", "reads"} and serial.report.passes > 0
    plain = DataLoader(dataset, batch_size=8, num_workers=2)
    assert read_through(plain) == list(range(RECORDS))
    streamed = LiPTWarmStart(**options, launch="serial", loader_workers=1)
    streamed.fit(nn.Sequential(nn.Linear(2, 3)), dataset)
    assert vars(dataset).keys() == {"folder", "reads"}


def test_files_are_closed_and_opened_once_within_a_block(folder):
    dataset, descriptors = Plain(folder), Path("/proc/self/fd")
    count = len(list(descriptors.iterdir()))
    with nothing_left_open(Wrapped(dataset)):
        dataset[0]
        file = dataset.file
        with nothing_left_open(dataset):
            dataset[1]
        assert dataset.file is file
    assert dataset.file is None
    del file
    for _ in range(20):
        assert len(BatchSource(dataset, cache_bytes=0).labels) == RECORDS
    assert len(list(descriptors.iterdir())) == count


def test_a_file_that_someone_else_holds_stays_open(folder):
    dataset = Plain(folder)
    with nothing_left_open(dataset):
        dataset[0]
        held = dataset.file
    assert dataset.file is None and not held.closed
    held.close()


def test_what_is_no_file_stays_as_reads_made_it(folder):
    class Busy(Plain):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.cache: dict[int, Any] = {}
            self.draws = torch.Generator().manual_seed(0)
            self.last = -1

        def __getitem__(self, index: int) -> Any:
            self.last = index
            self.cache[index] = super().__getitem__(index)
            torch.rand(1, generator=self.draws)
            return self.cache[index]

    dataset = Busy(folder)
    state = dataset.draws.get_state()
    with nothing_left_open(dataset):
        dataset[3]
        dataset.step = 7  # what a training loop sets meanwhile
    assert dataset.file is None
    assert (dataset.last, list(dataset.cache), dataset.step) == (3, [3], 7)
    assert not torch.equal(dataset.draws.get_state(), state)


def test_what_was_read_beside_a_file_may_have_any_names(folder):
    class Table:
        """As a table of prices: a column may be called ``close``."""

        def __getattr__(self, name: str) -> list[float]:
            if name == "close":
                return [1.5]
            raise AttributeError(name)

    class WithTable(Plain):
        table: Table | None = None

        def raw(self, index: int) -> bytes:
            self.table = self.table or Table()
            return super().raw(index)

    dataset = WithTable(folder)
    with nothing_left_open(dataset):
        dataset[0]
    assert dataset.file is None


def test_an_error_of_a_read_leaves_nothing_open_either(folder):
    class Torn(Plain):
        def raw(self, index: int) -> bytes:
            return super().raw(index)[: 100 if index == 4 else None]

    dataset = Torn(folder)
    with pytest.raises(Exception, match="unpack requires a buffer"):
        list(BatchSource(dataset, cache_bytes=0).batches(batch_size=8))
    assert dataset.file is None


def test_a_forked_process_moves_no_position_of_this_one(folder):
    dataset = InModule(folder)
    labels_of(dataset)
    file = opened_once(folder / "all.bin")
    file.seek(SEEK := 4096)
    place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    child = os.fork()
    if child == 0:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == place == SEEK


def test_a_file_that_cannot_be_positioned_costs_no_descriptor(folder, monkeypatch):
    def refused(*_):
        raise OSError("no positions here")

    with (folder / "all.bin").open("rb"):
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        monkeypatch.setattr(os, "lseek", refused)
        own_file_positions()
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_of_loaders_that_take_turns_the_last_one_closes_the_file(folder):
    dataset = Plain(folder)
    few = Selection(EVERYTHING.indices[:16], EVERYTHING.weights[:16])
    one, two = (SubsetLoader(dataset, some, batch_size=8) for some in (few, EVERYTHING))
    numbers = [
        int(number)
        for pair in itertools.zip_longest(one, two)
        for batch in pair
        if batch is not None
        for number in batch[0][:, 0]
    ]
    assert sorted(numbers) == sorted([*range(16), *range(RECORDS)])
    assert dataset.file is None


def test_an_iterator_that_lives_until_the_interpreter_ends_says_nothing(tmp_path):
    script = """
import torch
from torch.utils.data import TensorDataset
from lipt_cords.selectors import Selection, SubsetLoader
data = TensorDataset(torch.arange(4.0))
iterator = iter(SubsetLoader(data, Selection(torch.arange(4), torch.ones(4)), batch_size=2))
next(iterator)
"""
    (tmp_path / "script.py").write_text(script)
    done = run_program(tmp_path / "script.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_the_caller_opened_is_not_mixed_with_another_shard(tmp_path):
    for shard in range(2):
        (tmp_path / str(shard)).write_bytes(bytes([shard]))

    class Shards(Dataset[int]):
        file: Any = None
        shard: int | None = None

        def __getitem__(self, index: int) -> int:
            if self.shard != index:
                self.file = (tmp_path / str(index)).open("rb", buffering=0)
                self.shard = index
            self.file.seek(0)
            return int(self.file.read(1)[0])

    dataset = Shards()
    assert dataset[0] == 0
    with nothing_left_open(dataset):
        assert (dataset[0], dataset[1]) == (0, 1)
    assert (dataset[1], dataset[0]) == (1, 0)


def test_a_file_of_this_process_is_opened_again(folder):
    class ByProcess(Plain):
        process = 0

        def raw(self, index: int) -> bytes:
            if self.process != os.getpid():
                self.file, self.process = (self.folder / "all.bin").open("rb"), os.getpid()
            return super().raw(index)

    dataset = ByProcess(folder)
    dataset.process = 0
    assert torch.equal(labels_of(dataset), labels_of(dataset))
    assert (dataset.file, dataset.process) == (None, 0)
