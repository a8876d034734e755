"""The guided step: it follows a plan, as long as its operations are those of the measured step.

The forward pass is compared with the trace operation by operation, and every storage of a
recomputation and every write to one by identity, so that a different step is detected before any
value is lost. From then on activations are swapped on demand.
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
from lipt_cords.training.memory.holdings import Holdings
from lipt_cords.training.memory.op_schemas import moved_statistics, written_tensors
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
from lipt_cords.training.memory.transfer import Arrival, Link


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
        self._numbers: ByStorage[int] = ByStorage()
        self._fixed: ByStorage[bool] = ByStorage()
        self._sources: list[Handle] = []
        self.holdings = Holdings()
        self._arrivals: dict[int, Arrival] = {}
        self.costs = StepCosts()

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call an operation; in the forward pass, compare it with the trace and record it."""
        writes = written_tensors(function, args, kwargs)
        for tensor in writes:
            if self.holdings.before_write(tensor):
                self._change("what an activation depends on is written to", "not written to")
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
        if any(self._unexpected(number, tensor) for tensor in writes):
            self._change(f"operation {number} writes to another tensor", "that of the measured one")
            return function(*args, **kwargs)
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
                    self._bind(one, tensor)
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
        if one < 0:
            return PackedHere(one, tensor)
        if not self._same(one, tensor) or not self._is_made(one):
            self._change(f"saved tensor {number} is another one", "that of the measured step")
            return self._send_away(tensor)
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
        if isinstance(packed, Packed):
            self.holdings.add(tensor.untyped_storage(), packed.handle)
            if isinstance(packed.handle, Swapped):
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
        if self.costs.changed is None:
            self.costs.changed = f"{received}, and was {expected} when the step was measured"
            self._sources.clear()  # nothing more will be recomputed from them

    def _same(self, number: int, tensor: Tensor) -> bool:
        """Whether a tensor is in the storage that has this number in this step."""
        storage = tensor.untyped_storage()
        known = self._alive.get(number)
        if known is None:
            self._bind(number, tensor)
            return True
        return known() is storage

    def _is_made(self, number: int) -> bool:
        """Whether all operations ran by which a storage is recomputed; True if it is not."""
        recipe = self._plan.recipes.get(number)
        return recipe is None or all(op in self._calls for op in recipe.ops)

    def _bind(self, number: int, tensor: Tensor) -> None:
        """Give a storage the number that it has in the trace."""
        storage = tensor.untyped_storage()
        self._alive[number] = weakref.ref(storage)
        self._numbers.set(storage, number)

    def _unexpected(self, number: int, tensor: Tensor) -> bool:
        """Whether an operation writes to a storage to which the measured one did not."""
        if not numbered(tensor):
            return False
        storage = tensor.untyped_storage()
        bound = self._numbers.get(storage)
        if bound is not None:
            return bound not in self._trace.ops[number].writes
        return bool(self._fixed.get(storage))

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

            origin = tensor.untyped_storage()
            handle = Recomputed(origin, [*sources.values()], make, self._note_remade(number))
            for call in calls:
                for leaf in call.leaves:
                    if isinstance(leaf, FixedArgument) and not leaf.copied:
                        self.holdings.add_reader(leaf.tensor.untyped_storage(), handle)
            self.holdings.add(origin, handle)
        elif number in self._plan.swapped:
            handle = self._swap(tensor)
        else:
            handle = Kept(tensor.untyped_storage())
            self.holdings.add(tensor.untyped_storage(), handle)
        self._handles[number] = handle
        return handle

    def _swap(self, tensor: Tensor) -> Swapped:
        """Start to send a storage to the host."""
        handle = Swapped(tensor.untyped_storage(), self._link.send(whole_storage(tensor)))
        self.holdings.add(tensor.untyped_storage(), handle)
        return handle

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
                if id(leaf) not in moved and numbered(leaf):
                    self._fixed.set(leaf.untyped_storage(), True)
                continue
            saved = one in self._plan.saved and one not in writes
            if not self._same(one, leaf) or (saved and not self._is_made(one)):
                self._change(f"operation {number} reads another tensor", "that of the measured one")
                return None
            if saved:
                self._sources.append(self._hold(one, leaf))
            leaves[place] = StoredArgument(one, Geometry.of(leaf))
        enabled = torch.is_grad_enabled()
        return Call(function, leaves, spec, recording.results[number], enabled)

    def _send_away(self, tensor: Tensor) -> Packed | PackedHere:
        """Swap on demand, as in the measured step."""
        if isinstance(tensor, torch.nn.Parameter) or tensor.is_leaf:
            return PackedHere(-1, tensor)
        handle = self.holdings.find(tensor.untyped_storage())
        if handle is None:
            handle = self._swap(tensor)
            handle.transfer.settle()
        return Packed(-1, handle, tensor)
