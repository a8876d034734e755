"""The codecs `int8` and `int4`: changes in few bits, and what is lost goes into the next merge.

A merge has two phases. Each worker's change, with what earlier merges did not send of it, is
rounded to a grid that all workers share, one step for each block of 128 entries. Every rank sends
the sums of its workers' codes to the ranks that own the parts of the state; the owners add them
exactly, round the sum once more, and send it to all. Both roundings leave a rest, which stays with
a worker and is added to its next change (error feedback: Seide et al., 1-bit SGD, Interspeech 2014;
Karimireddy et al., ICML 2019). All sums are of integers, so a merge has the same bits on any number
of ranks.

Parameters travel so. Buffers, such as BatchNorm statistics, and integers are sent in full by
:class:`FixedPointSum`: a rounded variance could become negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.warmstart.merge.codecs import Member, Wire, register_codec
from lipt_cords.warmstart.merge.fixed_point import FixedPointSum, bounds_of
from lipt_cords.warmstart.ranks.exchange import Exchange

BLOCK = 128
"""Entries that share a step."""
NOTHING = -(2**15)
"""The code of a bound of zero."""
SMALLEST_EXPONENT = -1000
"""Of a bound; a smaller one is raised to it."""


@register_codec("int8")
def int8(origin: State, members: Sequence[Member], wire: Wire) -> State:
    """Changes in 8 bits, with error feedback: about a quarter of the bytes of ``exact``."""
    return _merge(8, origin, members, wire)


@register_codec("int4")
def int4(origin: State, members: Sequence[Member], wire: Wire) -> State:
    """Changes in 4 bits, with error feedback: about an eighth of the bytes of ``exact``."""
    return _merge(4, origin, members, wire)


@dataclass(frozen=True)
class Sent:
    """What a merge made.

    Attributes:
        full: sum of the entries that are sent in full, on their grid.
        change: sum of the weighted changes of the others, float64, shape (entries,).
        rests: what rounding the sum left, for each of this rank's workers that owns a part:
            where the part begins, and the rests, float64.
    """

    full: Tensor
    change: Tensor
    rests: dict[int, tuple[int, Tensor]]


def _merge(bits: int, origin: State, members: Sequence[Member], wire: Wire) -> State:
    coded = {
        name: value
        for name, value in origin.items()
        if name in wire.parameters and value.is_floating_point() and value.numel()
    }
    others = {name: value for name, value in origin.items() if name not in coded}
    if others:
        wire.notes.append(
            f"codec int{bits}: the {sum(one.numel() for one in others.values()):,} entries of "
            "buffers and integers are sent in full"
        )
    bounds = bounds_of(wire.largest, origin, others)
    full = FixedPointSum(others, wire.terms, bounds, wire.heaviest, wide=wire.wide)
    blocks, most, start = Blocks.of(coded), 2 ** (bits - 1) - 1, _flat(coded)

    def wanted(member: Member, state: State) -> Tensor:
        """What a worker has to send: its weighted change, and the rest of earlier merges."""
        change = _flat({name: state[name] for name in coded}) - start
        rest = wire.residual(member.worker, coded)
        change *= member.weight / wire.heaviest
        return change if rest is None else change + _flat(rest)

    largest = torch.zeros(len(blocks.lengths), dtype=torch.float64)
    for member in members:  # each is read twice, so that one at a time is in memory
        state = member.state()
        full.add(state, member.weight)
        largest = torch.maximum(largest, blocks.largest(wanted(member, state)))
    grid = wire.exchange(
        lambda exchange: exchange.max(_bound_codes(largest)), f"the grids of {len(largest)} blocks"
    )
    steps = blocks.spread(_bounds(grid) / most)
    codes = torch.zeros_like(start)
    rests: dict[int, Tensor] = {}
    for member in members:
        change = wanted(member, member.state())
        mine = (change / steps).round_()
        codes += mine
        rests[member.worker] = (change - mine * steps).float()
    sent = wire.exchange(
        partial(_send, codes=codes, steps=steps, blocks=blocks, full=full, most=most, wire=wire),
        f"{bits}-bit sums of {len(start)} entries",
    )
    for worker, (first, rest) in sent.rests.items():
        rests[worker][first : first + len(rest)] += rest.float()
    wire.kept = {worker: _unflat(rest, coded) for worker, rest in rests.items()}
    share = wire.weight / wire.heaviest
    mean = torch.where(sent.change == 0, start, start + sent.change / share)
    averaged = full.mean(sent.full, wire.weight, wire.merged) | _unflat(mean, coded)
    return {name: averaged[name].to(value.dtype) for name, value in origin.items()}


def _send(
    exchange: Exchange,
    *,
    codes: Tensor,
    steps: Tensor,
    blocks: Blocks,
    full: FixedPointSum,
    most: int,
    wire: Wire,
) -> Sent:
    """Both phases, with the entries that are sent in full."""
    workers = wire.workers_on(exchange.live)
    part_of = dict(zip(workers, blocks.parts(len(workers)), strict=True))
    held = [[part_of[w] for w in wire.workers_on([rank])] for rank in exchange.live]
    me = exchange.live.index(exchange.rank)
    summed = exchange.sum(full.total, full.dtype)

    counts = [sum(part.entries for part in parts) for parts in held]
    widths = [Width.of(most * len(parts)) for parts in held]
    received = exchange.all_to_all(
        [widths[me].pack(_joined([codes[part.where] for part in parts])) for parts in held],
        [[width.size(count) for count in counts] for width in widths],
    )
    total = torch.zeros(counts[me], dtype=torch.int64)
    for width, packed in zip(widths, received, strict=True):
        total += width.unpack(packed, counts[me])

    exact = total.double() * _joined([steps[part.where] for part in held[me]])
    mine, narrow = blocks.of_parts(held[me]), Width.of(most)
    grid = _bound_codes(mine.largest(exact))
    again = mine.spread(_bounds(grid) / most)
    rounded = (exact / again).round_()
    message = torch.cat([grid.to(torch.int16).view(torch.uint8), narrow.pack(rounded)])
    heads = [2 * sum(part.count for part in parts) for parts in held]  # bytes of the grids
    sizes = [head + narrow.size(count) for head, count in zip(heads, counts, strict=True)]
    said = exchange.all_to_all([message] * len(held), [[size] * len(held) for size in sizes])

    change = torch.zeros_like(codes)
    for parts, words, head, count in zip(held, said, heads, counts, strict=True):
        bounds = _bounds(words[:head].clone().view(torch.int16).long())
        values = narrow.unpack(words[head:], count) * blocks.of_parts(parts).spread(bounds / most)
        for part, value in _divided(values, parts):
            change[part.where] = value
    owners = wire.workers_on([exchange.rank])
    left = _divided(exact - rounded * again, held[me])
    rests = {w: (part.where.start, rest) for w, (part, rest) in zip(owners, left, strict=True)}
    return Sent(summed, change, rests)


@dataclass(frozen=True)
class Part:
    """The part of the state that one worker's rank adds up: a range of blocks and of entries."""

    blocks: slice
    where: slice

    @property
    def count(self) -> int:
        """How many blocks it has."""
        return int(self.blocks.stop - self.blocks.start)

    @property
    def entries(self) -> int:
        """How many entries it has."""
        return int(self.where.stop - self.where.start)


@dataclass(frozen=True)
class Blocks:
    """Runs of entries that share a step; none reaches over two entries of a state.

    Attributes:
        lengths: of every block, int64.
    """

    lengths: Tensor

    @classmethod
    def of(cls, state: State) -> Blocks:
        """The blocks of all entries of a state, in order."""
        lengths: list[int] = []
        for value in state.values():
            whole, rest = divmod(value.numel(), BLOCK)
            lengths += [BLOCK] * whole + ([rest] if rest else [])
        return cls(torch.tensor(lengths, dtype=torch.int64))

    def largest(self, values: Tensor) -> Tensor:
        """The largest magnitude in every block."""
        if not len(self.lengths):
            return torch.zeros(0, dtype=torch.float64)
        return torch.segment_reduce(values.abs(), "max", lengths=self.lengths)

    def spread(self, steps: Tensor) -> Tensor:
        """A value of each block, repeated for each of its entries."""
        return steps.repeat_interleave(self.lengths)

    def parts(self, count: int) -> list[Part]:
        """Cut the blocks into some parts of nearly equal numbers of blocks."""
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths.cumsum(0)]).tolist()
        cuts = [len(self.lengths) * number // count for number in range(count + 1)]
        return [Part(slice(a, b), slice(ends[a], ends[b])) for a, b in pairwise(cuts)]

    def of_parts(self, parts: Sequence[Part]) -> Blocks:
        """The blocks of some parts, in order."""
        return Blocks(torch.cat([self.lengths[:0], *(self.lengths[p.blocks] for p in parts)]))


@dataclass(frozen=True)
class Width:
    """How integers of a limited size become bytes: two in a byte, or 1, 2 or 4 bytes for each.

    Attributes:
        dtype: of a code; uint8: two in a byte; None: all are zero, and nothing is sent.
    """

    dtype: torch.dtype | None

    @classmethod
    def of(cls, largest: int) -> Width:
        """The narrowest one for integers up to a size."""
        if largest <= 7:
            return cls(torch.uint8 if largest else None)
        fits = (one for one in (torch.int8, torch.int16) if largest <= torch.iinfo(one).max)
        return cls(next(fits, torch.int32))

    def size(self, count: int) -> int:
        """Bytes of so many integers."""
        if self.dtype is None:
            return 0
        return -(-count // 2) if self.dtype is torch.uint8 else count * self.dtype.itemsize

    def pack(self, codes: Tensor) -> Tensor:
        """The bytes of whole numbers, of any dtype."""
        if self.dtype is None:
            return torch.zeros(0, dtype=torch.uint8)
        if self.dtype is not torch.uint8:
            return codes.to(self.dtype).contiguous().view(torch.uint8)
        pairs = torch.full((2 * self.size(len(codes)),), 8, dtype=torch.uint8)
        pairs[: len(codes)] = (codes + 8).to(torch.uint8)
        return pairs[::2] << 4 | pairs[1::2]

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """Whole numbers from their bytes, int64."""
        if self.dtype is None:
            return torch.zeros(count, dtype=torch.int64)
        if self.dtype is not torch.uint8:
            return packed.clone().view(self.dtype).long()  # a copy is aligned
        pairs = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1)
        return pairs[:count].long() - 8


def _bound_codes(values: Tensor) -> Tensor:
    """For values of at least zero the least f/32 * 2^e (f from 16 to 32) above or equal: 32e + f.

    The order of codes is that of the bounds, and they fit into 16 bits.
    """
    mantissa, exponent = torch.frexp(values)
    code = 32 * exponent.long() + (mantissa * 32).ceil().long()
    return torch.where(values == 0, NOTHING, code.clamp(min=32 * SMALLEST_EXPONENT + 17))


def _bounds(codes: Tensor) -> Tensor:
    """The bounds of codes, float64; 1 for a bound of zero, where every code is zero too."""
    exponent = (codes - 1).div(32, rounding_mode="floor")
    bound = torch.ldexp((codes - 32 * exponent).double() / 32, exponent.to(torch.int32))
    return torch.where(codes == NOTHING, 1.0, bound)


def _flat(state: State) -> Tensor:
    """All entries after one another, float64, on the CPU."""
    return _joined([value.cpu().double().reshape(-1) for value in state.values()])


def _unflat(flat: Tensor, like: State) -> State:
    """The entries of a flat vector, in the names and shapes of a state, in the vector's dtype."""
    pieces = torch.split(flat, [value.numel() for value in like.values()])
    return {n: p.view(v.shape) for (n, v), p in zip(like.items(), pieces, strict=True)}


def _divided(values: Tensor, parts: Sequence[Part]) -> list[tuple[Part, Tensor]]:
    """The entries of each part, of those of all after one another."""
    return list(zip(parts, torch.split(values, [part.entries for part in parts]), strict=True))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64)
