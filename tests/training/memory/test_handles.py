"""What stands for a saved tensor: it gives the same view, and makes what it must make once."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._pytree import tree_flatten

from lipt_cords.training.memory.handles import Kept, Packed, PackedHere, Recomputed, Swapped
from lipt_cords.training.memory.holdings import Holdings
from lipt_cords.training.memory.link import PacedLink
from lipt_cords.training.memory.recompute import Call, FixedArgument, device_type
from lipt_cords.training.memory.storages import whole_storage


def kept(tensor: torch.Tensor) -> Kept:
    return Kept(tensor.untyped_storage())


def gone():
    """The storage of a tensor that is gone."""
    return torch.zeros(1).untyped_storage()


class Maker:
    """Makes a tensor from its sources' tensors, and counts."""

    def __init__(self, *sources) -> None:
        self.sources, self.made, self.spent = sources, 0, []

    def __call__(self):
        self.made += 1
        return sum(
            (source.get().view(torch.float32) for source in self.sources), torch.ones(1)
        ).view(torch.uint8)

    def handle(self) -> Recomputed:
        return Recomputed(gone(), self.sources, self, self.spent.append)


def test_a_chain_of_five_thousand_is_made_in_order_and_once():
    first = kept(torch.zeros(1))
    makers, last = [], first
    for _ in range(5000):
        makers.append(Maker(last))
        last = makers[-1].handle()
    assert all(maker.made == 0 for maker in makers)
    assert last.get().view(torch.float32).item() == 5000  # each is one more than the one before
    assert last.get().view(torch.float32).item() == 5000
    assert all(maker.made == 1 for maker in makers)
    assert all(len(maker.spent) == 1 and maker.spent[0] >= 0 for maker in makers)


def test_many_ways_to_the_same_source_make_it_once():
    makers, last = [], kept(torch.zeros(1))
    for _ in range(60):  # 2 to the 60th paths
        makers.append(Maker(last, last))
        last = makers[-1].handle()
    assert last.get().view(torch.float32).item() == 2.0**60  # in float32: 2 x + 1
    assert all(maker.made == 1 for maker in makers)


def test_what_was_made_stays_until_its_handle_goes():
    maker = Maker(kept(torch.zeros(1)))
    handle = maker.handle()
    made = weakref.ref(handle.get().untyped_storage())
    assert made() is not None and handle.get().untyped_storage() is made()
    del handle
    assert made() is None


def test_preparing_makes_nothing():
    maker = Maker()
    handle = maker.handle()
    handle.prepare()
    assert maker.made == 0


def test_what_is_swapped_is_brought_back_for_what_is_made_from_it():
    link = PacedLink(1e9)
    transfer = link.send(torch.arange(8, dtype=torch.uint8))
    transfer.settle()
    source = Swapped(gone(), transfer)
    handle = Recomputed(gone(), [source], lambda: source.get() + 1, lambda seconds: None)
    assert handle.get().tolist() == list(range(1, 9))


def test_a_recipe_that_makes_nothing_is_told():
    handle = Recomputed(gone(), [], lambda: None, lambda seconds: None)
    with pytest.raises(RuntimeError, match="could not be recomputed"):
        handle.get()


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x, lambda x: x.t(), lambda x: x[1:, ::2], lambda x: x[2], lambda x: x[0, 0],
        lambda x: x[:1].expand(5, 6), lambda x: x[3:3],
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_packed_view_is_the_same_view(view, dtype, swapped):
    whole = (torch.arange(24).reshape(4, 6) % 7).to(dtype)
    tensor = view(whole)
    expected = tensor.clone()
    if swapped:
        transfer = PacedLink(1e9).send(whole_storage(tensor).clone())
        transfer.settle()
        handle = Swapped(gone(), transfer)
    else:
        handle = kept(tensor)
    found = Packed(3, handle, tensor).tensor()
    assert found.equal(expected) and found.dtype == dtype
    assert found.shape == tensor.shape and found.stride() == tensor.stride()
    assert found.storage_offset() == tensor.storage_offset()
    assert swapped == (found.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr())


@pytest.mark.parametrize("here", [True, False])
def test_what_is_written_to_meanwhile_is_refused_as_autograd_does(here):
    tensor = torch.ones(3)
    packed = PackedHere(2, tensor) if here else Packed(2, kept(tensor), tensor)
    assert packed.tensor().data_ptr() == tensor.data_ptr()
    tensor.view(3, 1)[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        packed.tensor()


@pytest.mark.parametrize(
    "leaf", [FixedArgument(torch.ones(2, device="meta"), False, 0), torch.device("meta")]
)
def test_what_is_made_from_weights_alone_is_made_on_their_device(leaf):
    """A recomputation without saved sources: autocast is turned off where it runs."""
    call = Call(None, [leaf], tree_flatten(0)[1], (5,), True)
    assert device_type({}, [call]) == "meta"
    assert device_type({1: torch.ones(1)}, [call]) == device_type({}, []) == "cpu"


@pytest.mark.parametrize("kind", ["swapped", "recomputed"])
def test_memory_that_is_still_there_is_what_is_read(kind):
    """As in a plain step: what was written to it since is read too, and nothing is fetched."""
    tensor = torch.zeros(4)
    maker = Maker()
    if kind == "swapped":
        handle = Swapped(tensor.untyped_storage(), PacedLink(1e9).send(whole_storage(tensor)))
        handle.transfer.settle()
    else:
        handle = Recomputed(tensor.untyped_storage(), [], maker, maker.spent.append)
    tensor.add_(1)
    handle.prepare()
    assert handle.get().data_ptr() == tensor.data_ptr()
    storage = weakref.ref(tensor.untyped_storage())
    del tensor
    assert handle.get().view(torch.float32).tolist() == [1.0] * 4 and maker.made == 0
    del handle
    assert storage() is None


def test_before_a_write_what_depends_on_the_memory_is_made_and_the_memory_is_kept():
    source, weight = torch.ones(4), torch.full((4,), 5.0)
    swapped = Swapped(source.untyped_storage(), PacedLink(1e9).send(whole_storage(source)))
    swapped.transfer.settle()
    made = Recomputed(gone(), [swapped], lambda: swapped.get() + 0, lambda seconds: None)
    other = Recomputed(gone(), [], lambda: whole_storage(weight) + 0, lambda seconds: None)
    holdings = Holdings()
    for handle in (made, other):
        holdings.add(gone(), handle)
    holdings.add(source.untyped_storage(), swapped)
    holdings.add_reader(weight.untyped_storage(), other)
    assert not holdings.before_write(torch.ones(4)) and not made.held
    assert holdings.before_write(source) and made.held and not other.held
    source.add_(1)
    assert holdings.before_write(weight) and other.held
    weight.add_(1)
    assert made.get().view(torch.float32).tolist() == [1.0] * 4
    assert other.get().view(torch.float32).tolist() == [5.0] * 4
    del source
    assert swapped.get().view(torch.float32).tolist() == [2.0] * 4


def test_after_the_step_nothing_depends_on_what_may_be_written_to():
    weight = torch.ones(4)
    holdings = Holdings()
    made = Recomputed(gone(), [], lambda: whole_storage(weight) + 0, lambda seconds: None)
    holdings.add(gone(), made)
    holdings.close()
    weight.add_(1)
    assert made.get().view(torch.float32).tolist() == [1.0] * 4
    given_up = Recomputed(gone(), [], lambda: whole_storage(weight) + 0, lambda seconds: None)
    holdings.add(gone(), given_up)
    holdings.give_up()
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        given_up.get()
    assert made.get().view(torch.float32).tolist() == [1.0] * 4
