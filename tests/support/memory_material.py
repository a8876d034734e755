"""Steps in numbers that the tests of the memory planner share: random ones, and small nets'."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st

from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Op, Storage, Trace

BANDWIDTHS = st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0, 64.0])
"""Bytes a second by which a size is divided exactly."""


def drawn_program(random: Random, depth: int) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """Operations of a forward pass, and which of them makes each storage.

    They read given storages and earlier ones, have none to two results, and write in place.
    Seconds are quarters, so that sums of them are exact.
    """
    ops, born = list[Op](), list[int]()
    for number in range(depth):
        there = list(range(len(born)))
        choices = [-1, -2, *there[-4:]]
        reads = random.sample(choices, random.randint(0, min(3, len(choices))))
        changed, results = list[int](), random.choice([1, 1, 1, 2])
        if there and random.random() < 0.3:
            changed = random.sample(there[-3:], random.randint(1, min(2, len(there))))
            results = random.choice([0, 0, 0, 1])
        made = list(range(len(born), len(born) + results))
        born += [number] * results
        ops.append(
            Op(
                f"f{number}",
                random.randint(0, 12) / 4,
                tuple(dict.fromkeys([*reads, *changed])),
                (*made, *changed),
                repeatable=random.random() < 0.9,
            )
        )
    return tuple(ops), tuple(born)


def drawn_trace(random: Random, depth: int) -> Trace:
    """A step that may be anything a recorder could see: any order, any lifetimes."""
    ops, born = drawn_program(random, depth)
    forward = len(ops)
    total = forward + random.randint(1, depth + 2)
    released, saved = list[int](), list[int | None]()
    for one, since in enumerate(born):
        last = max(n for n, op in enumerate(ops) if one in (*op.reads, *op.writes))
        released.append(random.choice([last + 1, random.randint(last + 1, forward)]))
        saves = random.random() < 0.85
        saved.append(random.randint(since + 1, released[one]) if saves else None)
    demands = [
        (random.randint(forward, total - 1), one)
        for one, when in enumerate(saved)
        for _ in range(0 if when is None else random.choice([0, 1, 1, 1, 1, 2]))
    ]
    random.shuffle(demands)
    early = min((op for op, _ in demands), default=forward) - forward
    events = sorted(((op - early, one) for op, one in demands), key=lambda event: event[0])
    storages = list[Storage]()
    for one, when in enumerate(saved):
        accesses = tuple(op for op, other in events if other == one)
        changed = when is not None and any(one in op.writes for op in ops[when:])
        storages.append(
            Storage(
                size=random.randint(1, 32),
                born=born[one],
                released=released[one],
                saved=when,
                accesses=accesses,
                done=0 if when is None else random.randint(max((forward, *accesses)) + 1, total),
                movable=not changed and random.random() < 0.95,
            )
        )
    for number in range(forward, total):
        made = tuple(range(len(storages), len(storages) + random.randint(0, 1)))
        storages += [
            Storage(random.randint(1, 32), number, random.randint(number + 1, total)) for _ in made
        ]
        ops = (*ops, Op(f"b{number}", random.randint(0, 12) / 4, (), made))
    kept = sorted((when, one) for one, when in enumerate(saved) if when is not None)
    return Trace(
        ops, forward, tuple(storages), random.randint(0, 9), random.randint(0, 9),
        tuple(one for _, one in kept), (), tuple(events),
    )  # fmt: skip


RANDOMS = st.integers(0, 2**32 - 1).map(Random)
programs = st.builds(drawn_program, RANDOMS, st.integers(2, 9))
"""Forward passes."""
traces = st.builds(drawn_trace, RANDOMS, st.integers(3, 12))
"""Steps of any kind."""


def drawn_decisions(random: Random, index: TraceIndex) -> dict[int, str]:
    """Any decisions that a index allows."""
    found = {}
    for one in index.candidates:
        ways = [KEEP, SWAP, SWAP] + [RECOMPUTE, RECOMPUTE] * (index.recipes[one] is not None)
        what = random.choice(ways)
        if what != KEEP or random.random() < 0.5:
            found[one] = what
    return found


@dataclass
class Layer:
    """A layer of a small net, as autograd sees it."""

    kind: str
    size: int
    seconds: float
    skip: int = 0


@dataclass
class Tape:
    """A step while it is written down."""

    ops: list[Op] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    saved: dict[int, int] = field(default_factory=dict)
    accesses: dict[int, list[int]] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    packs: list[int] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)

    def call(self, name, seconds, reads=(), sizes=(), changes=(), repeatable=True) -> list[int]:
        number = len(self.ops)
        made = list(range(len(self.size), len(self.size) + len(sizes)))
        self.size += sizes
        self.born += [number] * len(sizes)
        self.released += [number + 1] * len(sizes)
        for one in (*reads, *changes):
            if one >= 0:
                self.released[one] = number + 1
        reads = tuple(dict.fromkeys((*reads, *changes)))
        self.ops.append(Op(name, seconds, reads, (*made, *changes), repeatable))
        return made

    def save(self, one: int, before: bool = False) -> None:
        self.packs.append(one)
        self.saved.setdefault(one, len(self.ops) - before)


def net_trace(layers: list[Layer], resident: int = 0) -> Trace:
    """The step of a chain of layers with skips, each ``x = layer(x)``, and of its backward pass.

    Args:
        layers: what they are: ``conv``, ``bn``, ``relu`` (in place), ``drop``, ``pool``, ``add``.
        resident: bytes that are there before it.
    """
    tape, values, nodes = Tape(), list[int](), list[tuple[Layer, list[int], int]]()
    (x,) = tape.call("stem", 1.0, (-1,), [layers[0].size])
    for layer in layers:
        values.append(x)
        kept: list[int] = []
        size = tape.size[x] if layer.kind != "pool" else max(1, tape.size[x] // 4)
        if layer.kind == "conv":
            (made,) = tape.call("conv", layer.seconds, (x, -2), [layer.size])
            kept = [x]
        elif layer.kind == "bn":
            made, mean = tape.call("bn", layer.seconds / 4, (x, -3), [size, 1])
            kept = [x, mean]
        elif layer.kind == "relu":
            if x in tape.saved:  # an in-place change of what is saved would spoil it
                (made,) = tape.call("relu", layer.seconds / 4, (x,), [size])
            else:
                tape.call("relu_", layer.seconds / 4, (x,), (), (x,))
                made = x
            kept = [made]
        elif layer.kind == "drop":
            made, mask = tape.call("drop", layer.seconds / 4, (x,), [size, size], (), False)
            kept = [mask]
        elif layer.kind == "pool":
            made, places = tape.call("pool", layer.seconds / 2, (x,), [size, 2 * size])
            kept = [x, places]
        else:
            other = values[max(0, len(values) - 1 - layer.skip)]
            (made,) = tape.call("add", layer.seconds / 4, (x, other), [size])
        for one in kept:
            tape.save(one, before=tape.born[one] < len(tape.ops) - 1 and layer.kind != "relu")
        nodes.append((layer, kept, len(tape.ops) - 1))
        x = made
    forward = len(tape.ops)
    (grad,) = tape.call("loss", 0.5, (), [tape.size[x]])
    for layer, kept, number in reversed(nodes):
        reads = tape.ops[number].reads[0]
        for one in kept:
            tape.accesses.setdefault(one, []).append(len(tape.ops))
            tape.events.append((len(tape.ops), one))
        share = 2.0 if layer.kind == "conv" else 0.5
        (new,) = tape.call(f"{layer.kind}'", layer.seconds * share, (grad,), [tape.size[reads]])
        for one in kept:
            tape.done[one] = len(tape.ops)
        grad = new
    storages = tuple(
        Storage(
            tape.size[one], tape.born[one], tape.released[one], tape.saved.get(one),
            tuple(tape.accesses.get(one, ())), tape.done.get(one, 0),
        )
        for one in range(len(tape.size))
    )  # fmt: skip
    early = min(op for op, _ in tape.events) if tape.events else forward
    return Trace(
        tuple(tape.ops), early, storages, resident, 4, tuple(tape.packs), (), tuple(tape.events)
    )


LAYERS = st.builds(
    Layer,
    st.sampled_from(["conv", "conv", "bn", "relu", "drop", "pool", "add"]),
    st.integers(4, 64),
    st.integers(1, 8).map(float),
    st.integers(1, 4),
)

nets = st.lists(LAYERS, min_size=2, max_size=9).map(net_trace)
"""Steps of small nets."""


def drawn_net(random: Random, depth: int) -> Trace:
    """The step of a net like a ResNet: convolution, BatchNorm, in-place ReLU; skips; some pools."""
    layers, kinds = list[Layer](), ["conv", "bn", "relu"]
    size = random.choice([32, 64, 128])
    for place in range(depth):
        kind = kinds[place % 3]
        if random.random() < 0.15:
            kind = random.choice(["add", "drop", "pool"])
        size = max(4, int(size * random.choice([1, 1, 1, 0.5])))
        layers.append(Layer(kind, size, random.choice([1.0, 2.0, 4.0]) * size / 32, 3))
    return net_trace(layers)
