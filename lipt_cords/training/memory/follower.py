"""The guided step: it follows a plan, as long as its operations are those of the measured step.

The forward pass is compared with the trace operation by operation, and every storage of a
recomputation by identity, so that a different step is detected before any value is lost. From then
on activations are swapped on demand.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from lipt_cords.training.memory.handles import Handle, Kept, Packed, PackedHere, Recomputed, Swapped
from lipt_cords.training.memory.link import Arrival, Link
from lipt_cords.training.memory.op_schemas import moved_statistics, written_places, written_tensors
from lipt_cords.training.memory.plan import Plan
from lipt_cords.training.memory.recipes import Recipe, TraceIndex
from lipt_cords.training.memory.recompute import (
    Call,
    FixedArgument,
    StoredArgument,
    recompute_storage,
)
from lipt_cords.training.memory.recorder import Recording
from lipt_cords.training.memory.storages import (
    ByStorage,
    Geometry,
    is_plain,
    numbered,
    shape_of,
    tensors_of,
    whole_storage,
)
from lipt_cords.training.memory.trace import RECOMPUTE, SWAP


class IndexedPlan:
    """A plan with lookup tables for guided steps: made once, followed many times.

    Args:
        recording: the measured step.
        index: of its trace.
        plan: for it.
    """

    def __init__(self, recording: Recording, index: TraceIndex, plan: Plan) -> None:
        self.recording = recording
        self.swapped = {one for one, what in plan.decisions.items() if what == SWAP}
        self.recipes: dict[int, Recipe] = {}
        for one, what in plan.decisions.items():
            recipe = index.recipes.get(one)
            if what == RECOMPUTE and recipe is not None:
                self.recipes[one] = recipe
        self.replayed = {op for recipe in self.recipes.values() for op in recipe.ops}
        self.saved = {
            number for number, storage in enumerate(plan.trace.storages)
            if storage.saved is not None and storage.movable
        }  # fmt: skip
        self.take(plan)

    def take(self, plan: Plan) -> None:
        """Set a plan with the same decisions and other times."""
        self.plan = plan
        self.leaves: dict[int, list[int]] = {}
        for one, op in plan.timeline.left.items():
            if one in self.swapped:
                self.leaves.setdefault(op, []).append(one)
        self.starts: dict[int, list[int]] = {}
        for one, event in plan.triggers.items():
            self.starts.setdefault(event, []).append(one)


@dataclass
class StepCosts:
    """The costs of a guided step.

    Attributes:
        waited: seconds that each swapped storage came late.
        recomputed: seconds to recompute each storage.
        held_up: seconds that the step waited for transfers to the host.
        changed: how the step differed from the trace, if it did.
    """

    waited: dict[int, float] = field(default_factory=dict)
    recomputed: dict[int, float] = field(default_factory=dict)
    held_up: float = 0.0
    changed: str | None = None


class GuidedStep:
    """One step that follows a plan.

    Args:
        indexed: the plan.
        link: to the host.
    """

    def __init__(self, indexed: IndexedPlan, link: Link) -> None:
        self._plan, self._link = indexed, link
        self._trace = indexed.plan.trace
        self._at, self._packed, self._event = 0, 0, 0
        self._backward = False
        self._calls: dict[int, Call] = {}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._handles: weakref.WeakValueDictionary[int, Handle] = weakref.WeakValueDictionary()
        self._sources: list[Handle] = []
        self._readers: ByStorage[weakref.WeakSet[Recomputed]] = ByStorage()
        self._arrivals: dict[int, Arrival] = {}
        self._on_demand: ByStorage[weakref.ref[Swapped]] = ByStorage()
        self.costs = StepCosts()

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call an operation; in the forward pass, compare it with the trace and record it."""
        if self._readers and written_places(function):
            for tensor in written_tensors(function, args, kwargs):
                self._before_write(tensor)
        if self.costs.changed is not None:
            return function(*args, **kwargs)
        number, functions = self._at, self._plan.recording.functions
        if number in self._plan.leaves:
            self._await_departures(self._plan.leaves[number])
        if self._backward:
            self._at += 1
            return function(*args, **kwargs)
        if number >= len(functions) or functions[number] is not function:
            self._change(f"operation {number} is {function}", self._expected(number))
            return function(*args, **kwargs)
        self._at += 1
        if number not in self._plan.replayed:
            return function(*args, **kwargs)
        call = self._note(number, function, args, kwargs)
        result = function(*args, **kwargs)
        if call is not None:
            made = tensors_of(result)
            if len(made) != len(call.results):
                self._change(f"operation {number} gives {len(made)} tensors", "another number")
                return result
            for one, tensor in zip(call.results, made, strict=True):
                if one >= 0 and one not in self._alive:
                    self._alive[one] = weakref.ref(tensor.untyped_storage())
            self._calls[number] = call
        return result

    def pack(self, tensor: Tensor) -> Packed | PackedHere:
        """Keep, swap or drop a saved tensor, as planned."""
        if self._backward or not is_plain(tensor):
            # A second forward pass of the same step has no plan.
            self._packed += not self._backward
            return PackedHere(-1, tensor)
        number, packs = self._packed, self._trace.packs
        self._packed += 1
        if self.costs.changed is None and (
            number >= len(packs) or self._trace.shapes[number] != shape_of(tensor)
        ):
            expected = self._trace.shapes[number][:2] if number < len(packs) else "nothing"
            self._change(f"saved tensor {number} is {shape_of(tensor)[:2]}", f"{expected}")
        if self.costs.changed is not None:
            return self._send_away(tensor)
        one = packs[number]
        if one < 0 or not self._same(one, tensor):
            if one >= 0:
                self._change(f"saved tensor {number} is another one", "that of the measured step")
                return self._send_away(tensor)
            return PackedHere(one, tensor)
        if one not in self._plan.plan.decisions:
            return PackedHere(one, tensor)
        return Packed(one, self._hold(one, tensor), tensor)

    def unpack(self, packed: Packed | PackedHere) -> Tensor:
        """Return a saved tensor; first start the transfers that are planned for this moment."""
        if not self._backward:
            self._backward = True
            self._sources.clear()
            if self.costs.changed is None and self._at < len(self._plan.recording.functions):
                self._change("the backward pass begins early", self._expected(self._at))
        if packed.number >= 0 and self.costs.changed is None:
            number, self._event = self._event, self._event + 1
            for one in self._plan.starts.get(number, ()):
                handle = self._handles.get(one)
                if handle is not None:
                    handle.prepare()
        tensor = packed.tensor()
        if isinstance(packed, Packed) and isinstance(packed.handle, Swapped):
            self._arrivals.setdefault(packed.number, packed.handle.transfer.arrival)
        return tensor

    def finish(self) -> StepCosts:
        """The costs of the step; call it at its end."""
        late = {number: arrival.late() for number, arrival in self._arrivals.items()}
        self.costs.waited = {number: seconds for number, seconds in late.items() if seconds > 0}
        return self.costs

    def _await_departures(self, leaving: list[int]) -> None:
        """Wait for transfers that the plan expects to be over, so that the budget holds."""
        started = time.perf_counter()
        for one in leaving:
            handle = self._handles.get(one)
            if isinstance(handle, Swapped):
                handle.transfer.settle()
        self.costs.held_up += time.perf_counter() - started

    def _expected(self, number: int) -> str:
        functions = self._plan.recording.functions
        return str(functions[number]) if number < len(functions) else "the backward pass"

    def _change(self, received: str, expected: str) -> None:
        self.costs.changed = f"{received}, and was {expected} when the step was measured"

    def _same(self, number: int, tensor: Tensor) -> bool:
        """Whether a tensor is in the storage that has this number in this step."""
        storage = tensor.untyped_storage()
        known = self._alive.get(number)
        if known is None:
            self._alive[number] = weakref.ref(storage)
            return True
        return known() is storage

    def _hold(self, number: int, tensor: Tensor) -> Handle:
        """The handle of a storage, made at its first use."""
        handle = self._handles.get(number)
        if handle is not None:
            return handle
        recipe = self._plan.recipes.get(number)
        if recipe is not None:
            sources = {source: self._handles[source] for source in recipe.sources}
            calls = [self._calls[op] for op in recipe.ops]

            def make() -> Tensor:
                return recompute_storage(number, calls, sources)

            handle = Recomputed([*sources.values()], make, self._note_remade(number))
            self._watch_sources(handle, recipe.sources, calls)
        elif number in self._plan.swapped:
            handle = Swapped(self._link.send(whole_storage(tensor)))
        else:
            handle = Kept(whole_storage(tensor))
        self._handles[number] = handle
        return handle

    def _watch_sources(
        self, handle: Recomputed, sources: tuple[int, ...], calls: list[Call]
    ) -> None:
        """Watch the sources of a storage for writes before its recomputation."""
        storages = [self._alive[source]() for source in sources]
        storages += [
            leaf.tensor.untyped_storage()
            for call in calls for leaf in call.leaves
            if isinstance(leaf, FixedArgument) and not leaf.copied
        ]  # fmt: skip
        for storage in storages:
            if storage is not None:
                readers = self._readers.get(storage)
                if readers is None:
                    readers = weakref.WeakSet()
                    self._readers.set(storage, readers)
                readers.add(handle)

    def _before_write(self, tensor: Tensor) -> None:
        """Recompute now what depends on a storage that is about to be written to.

        The measured step has no such write, so the step has changed.
        """
        if not numbered(tensor):
            return
        for handle in self._readers.get(tensor.untyped_storage()) or ():
            if not handle.made:
                handle.get()
                if self.costs.changed is None:
                    self._change("an activation's source is written to", "not written to")

    def _note_remade(self, number: int) -> Callable[[float], None]:
        spent = self.costs.recomputed
        return lambda seconds: spent.__setitem__(number, seconds)

    def _note(self, number: int, function: Any, args: Any, kwargs: Any) -> Call | None:
        """Record an operation that may be called again, without holding its inputs."""
        recording = self._plan.recording
        leaves, spec = tree_flatten((args, kwargs))
        known, writes = recording.arguments[number], self._trace.ops[number].writes
        if sum(isinstance(leaf, Tensor) for leaf in leaves) != len(known):
            self._change(f"operation {number} reads other tensors", f"{len(known)} of them")
            return None
        names, moved = iter(known), {id(t) for t in moved_statistics(function, args, kwargs)}
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                continue
            one = next(names)
            if one < 0:
                leaves[place] = FixedArgument(leaf, id(leaf) in moved, leaf._version)
                continue
            if not self._same(one, leaf):
                self._change(f"operation {number} reads another tensor", "that of the measured one")
                return None
            if one in self._plan.saved and one not in writes:
                self._sources.append(self._hold(one, leaf))
            leaves[place] = StoredArgument(one, Geometry.of(leaf))
        return Call(function, leaves, spec, recording.results[number])

    def _send_away(self, tensor: Tensor) -> Packed | PackedHere:
        """Swap on demand, as in the measured step."""
        storage = tensor.untyped_storage()
        if isinstance(tensor, torch.nn.Parameter) or tensor.is_leaf:
            return PackedHere(-1, tensor)
        known = self._on_demand.get(storage)
        handle = None if known is None else known()
        if handle is None:
            handle = Swapped(self._link.send(whole_storage(tensor)))
            handle.transfer.settle()
            self._on_demand.set(storage, weakref.ref(handle))
        return Packed(-1, handle, tensor)
