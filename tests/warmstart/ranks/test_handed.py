"""Values for a new process: small tensors by value, large ones shared, no descriptor left."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from multiprocessing import context as contexts
from multiprocessing import popen_spawn_posix
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipt_cords.warmstart.ranks import handed
from lipt_cords.warmstart.ranks.handed import Handed


class Starting:
    """Stands for a process that is being started, in this process."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.sent.append(descriptor)
        return descriptor

    def DupFd(self, descriptor: int) -> Any:
        return popen_spawn_posix._DupFd(descriptor)


class Unmade:
    """Can be handed over and not be made."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise OSError("the file moved")


@pytest.fixture
def starting() -> Iterator[Starting]:
    popen = Starting()
    contexts.set_spawning_popen(popen)
    yield popen
    contexts.set_spawning_popen(None)


def over(*values: Any) -> Any:
    return pickle.loads(pickle.dumps(Handed(*values))).open()


def test_a_net_of_many_tensors_takes_no_descriptors_and_stays_as_it_is(starting: Starting) -> None:
    net = nn.ModuleList([nn.Linear(2, 3) for _ in range(300)])
    net[1].weight = net[0].weight
    empty, half = torch.empty(0, 4), torch.randn(5).bfloat16()
    before = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    other, nothing, views = over(net, empty, [half[1:], half[:2]])
    assert starting.sent == []
    assert not net[0].weight.is_shared()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs) and theirs.requires_grad
    assert other[1].weight is other[0].weight  # as tied weights are
    assert nothing.shape == (0, 4)
    assert torch.equal(views[0], half[1:])
    assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr()
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_large_tensors_are_shared_up_to_a_number(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed, "MOST_SHARED", 2)
    monkeypatch.setattr(handed, "SMALL_BYTES", 64)
    data = [torch.arange(16.0) for _ in range(4)]
    pickle.dumps(Handed(data, data))
    assert len(starting.sent) == 2
    assert [one.is_shared() for one in data] == [True, True, False, False]


def test_what_cannot_be_handed_over_or_made_is_explained(starting: Starting) -> None:
    with pytest.raises(ValueError, match="must hand model, data and loss.*or set launch='serial'"):
        over(lambda: None)
    with pytest.raises(ValueError, match="must hand model.*non-leaf tensor"):
        over(torch.ones(2, requires_grad=True) * 2)
    with pytest.raises(ValueError, match=r"a new process cannot make .*OSError: the file moved"):
        over(Unmade())
