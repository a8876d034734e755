"""The memory planner: measures a training step, plans it, and guides later steps."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from lipt_cords.base.devices import synchronize
from lipt_cords.base.sizes import check_bandwidth, parse_bytes
from lipt_cords.training.memory.follower import GuidedStep, IndexedPlan, StepCosts
from lipt_cords.training.memory.handles import Packed, PackedHere
from lipt_cords.training.memory.link import build_link
from lipt_cords.training.memory.live_bytes import LiveBytes
from lipt_cords.training.memory.model_checks import (
    RunningModule,
    inputs_noted,
    refuse_unplannable,
    resident_storages,
    shapes_of,
)
from lipt_cords.training.memory.plan import Plan, Policy, check_policy, plan_activations
from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.recorder import Recorder
from lipt_cords.training.memory.report import MemoryReport
from lipt_cords.training.memory.step_kinds import (
    FollowedPlan,
    Plans,
    StepKind,
    planning_key,
    with_shorter_times,
)
from lipt_cords.training.memory.trace import Trace
from lipt_cords.training.memory.transfer import Link

MEASURED = 2
"""Steps of a kind that are measured: the first includes one-time setup."""
KINDS = 8
"""Kinds of steps of a net that are planned; a smaller last batch is a separate kind."""
ALL_KINDS = 64
"""Kinds of all nets that share plans; the oldest are dropped."""
SIZES = 4
"""Plans of a kind that are kept, for different memory before the step."""
CHANGES = 3
"""Changed steps of a kind after which it is no longer planned."""


ACTIVE = threading.local()
"""Whether a step is running, per thread."""


class MemoryPlanner:
    """Runs training steps within a memory budget, with the bits of plain ones.

    A context manager around forward pass, loss and backward pass of a step::

        planner = MemoryPlanner(model, budget="2GiB", optimizer=optimizer)
        for images, labels in batches:
            with planner:
                loss = loss_function(model(images), labels)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    The first two steps are measured, with every activation sent to the host until the backward pass
    asks for it; later ones follow a plan of what is kept, what is sent to the host and back
    (``swap``), and what is computed again from its operations (``recompute``). A step that differs
    from the measured one falls back to swapping on demand; batches of another size are a separate
    kind of step.

    On a CPU the device is simulated: copies "on the host" are counted separately, and transfers are
    as slow as ``bandwidth`` says.

    Args:
        model: the net, on its device.
        budget: bytes for all that a step has in memory, or a size such as ``"2GiB"``: weights,
            gradients, the optimizer's state, inputs, activations and temporary tensors. Memory
            inside an operation (a workspace) is not known.
        optimizer: its state counts too; None: no state.
        bandwidth: bytes a second to the host, each way; None measures it on a GPU, and takes
            12e9 on a CPU.
        policy: ``both``, or only ``swap`` or ``recompute``.
        plans: measurements and plans shared with other planners; None: only this planner's.

    Raises:
        ValueError: a budget that is not a size or that no plan reaches (raised on entering the
            third step; it names the least that works), a compiled model, a device without a host
            link, a step that saves nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        budget: int | str,
        optimizer: Optimizer | None = None,
        bandwidth: float | None = None,
        policy: Policy = "both",
        plans: Plans | None = None,
    ) -> None:
        self.budget = parse_bytes(budget, "memory_budget")
        check_policy(policy)
        check_bandwidth(bandwidth)
        refuse_unplannable(model)
        first = next(iter(model.parameters()), None)
        if first is None:
            raise ValueError("the model has no parameters, so it has no training step to plan")
        self.model, self.optimizer, self.policy = model, optimizer, policy
        self.device = first.device
        self._link: Link = build_link(self.device, bandwidth)
        self._kinds = (plans or Plans()).kinds
        self._net = planning_key(model, self.budget, self._link.bandwidth, policy)
        self._steps = {"measured": 0, "guided": 0, "on_demand": 0}
        self._last: tuple[FollowedPlan, StepCosts, float] | None = None
        self._moved = 0
        self._notes: list[str] = []
        self._stack: ExitStack | None = None
        self._running = RunningModule(model)

    def __enter__(self) -> MemoryPlanner:
        if getattr(ACTIVE, "step", False):
            raise ValueError(
                "one memory planner guides one step at a time: leave the first step before the "
                "next; for a step through several nets, give one planner a module that holds them"
            )
        self._follower: Recorder | GuidedStep | None = None
        self._kind: StepKind | None = None
        self._planned: FollowedPlan | None = None
        self._inputs: list[Any] = []
        self._token = object()
        self._live: LiveBytes | None = None
        with ExitStack() as stack:
            hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
            stack.enter_context(hooks)
            stack.enter_context(_Watch(self))
            stack.enter_context(inputs_noted(self.model, self._inputs))
            if all(kind.recording is None for kind in self._kinds.values()):
                stack.enter_context(self._running.followed())
            self._stack = stack.pop_all()
        ACTIVE.step = True
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        stack, self._stack = self._stack, None
        seconds = time.perf_counter() - self._started
        if stack is not None:
            stack.close()
        follower, self._follower = self._follower, None
        live, self._live = self._live, None
        ACTIVE.step = False
        if follower is None:
            return
        # Whoever runs a backward pass later must find what a plain step would have.
        if _is_fatal(error):
            follower.holdings.give_up()
        else:
            follower.holdings.close()
        if error is None:
            self._learn(self._kind, follower, seconds, live)

    def plan_for(self, trace: Trace) -> Plan:
        """Plan a trace within the budget."""
        return plan_activations(
            trace, self.budget, bandwidth=self._link.bandwidth, policy=self.policy
        )

    @property
    def traces(self) -> list[Trace]:
        """The traces of measured steps, one per kind."""
        kinds = [kind for key, kind in self._kinds.items() if key[0] == self._net]
        return [kind.recording.trace for kind in kinds if kind.recording is not None]

    def report(self) -> MemoryReport:
        """The plan, and the costs of the last step of the largest kind."""
        if self._last is None:
            return MemoryReport(None, dict(self._steps), None, 0.0, 0.0, 0.0, 0, list(self._notes))
        planned, spent, seconds = self._last
        return MemoryReport(
            plan=planned.indexed.plan,
            steps=dict(self._steps),
            measured_peak=planned.peak,
            step_seconds=seconds,
            waited=sum(spent.waited.values()) + spent.held_up,
            recomputed=sum(spent.recomputed.values()),
            moved=self._moved,
            notes=list(self._notes),
        )

    def _begin(self, function: Any, args: Any, kwargs: Any) -> Recorder | GuidedStep:
        """Find the kind of the step, at its first operation."""
        key = (self._net, function, shapes_of((args, kwargs)), *self._inputs, self.model.training)
        kind = self._kinds.get(key)
        if kind is None and sum(other[0] == self._net for other in self._kinds) < KINDS:
            if len(self._kinds) >= ALL_KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[key] = StepKind()
        if kind is None:
            self._note(
                f"more than {KINDS} kinds of steps, by the shapes of their inputs: further ones "
                "move their activations on demand; pad or sort batches to fewer shapes"
            )
        resident, size = resident_storages(self.model, self.optimizer)
        if kind is None or kind.changes >= CHANGES or kind.measured < MEASURED:
            self._kind = kind
            return Recorder(
                self._link, resident, size, lambda: self._running.name, self._synchronize
            )
        recording = kind.recording
        if recording is None:
            raise RuntimeError("a measured step has no trace")
        planned = kind.plans.get(size)
        if planned is None:
            if len(kind.plans) == SIZES:
                del kind.plans[next(iter(kind.plans))]
            trace = replace(recording.trace, resident=size)
            index = TraceIndex(trace)
            indexed = IndexedPlan(replace(recording, trace=trace), index, self.plan_for(trace))
            planned = kind.plans[size] = FollowedPlan(index, indexed)
        self._kind, self._planned = kind, planned
        if planned.peak is None:
            self._live = LiveBytes(self.device)
        return GuidedStep(planned.indexed, self._link)

    def _learn(
        self,
        kind: StepKind | None,
        follower: Recorder | GuidedStep,
        seconds: float,
        live: LiveBytes | None,
    ) -> None:
        """Learn from a finished step."""
        if kind is None:
            self._steps["on_demand"] += 1
            return
        if isinstance(follower, GuidedStep):
            spent, planned = follower.finish(), self._planned
            if planned is None:
                raise RuntimeError("a guided step has no plan")
            peak = planned.index.trace.peak
            if self._last is None or peak >= self._last[0].index.trace.peak:
                self._last = planned, spent, seconds  # not of a smaller last batch
            if spent.changed is not None:
                self._steps["on_demand"] += 1
                self._forget(kind, spent.changed)
                return
            self._steps["guided"] += 1
            if live is not None:
                planned.peak = planned.index.trace.base + live.peak
            if spent.waited:
                self._moved += planned.feed_back(spent.waited)
            return
        if kind.changes >= CHANGES:
            self._steps["on_demand"] += 1
            return
        self._steps["measured"] += 1
        recording = follower.recording()
        if not follower.complete:
            self._note(
                "the step ran forward again after its backward pass had begun: activations of a "
                "second forward pass are not planned; enter the planner once for each"
            )
        known = kind.recording
        if known is not None and known.functions == recording.functions:
            recording = with_shorter_times(known, recording)
        kind.recording = recording
        kind.measured += 1

    def _forget(self, kind: StepKind, what: str) -> None:
        kind.changes += 1
        kind.measured, kind.recording, kind.plans = 0, None, {}
        again = (
            "it is measured again" if kind.changes < CHANGES
            else "such steps move their activations on demand from now on"
        )  # fmt: skip
        self._note(f"a step was not like the measured one ({what}): {again}")

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    def _synchronize(self) -> None:
        synchronize(self.device)

    def _run(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self._follower is None and not self._quiet:
            self._follower = self._begin(function, args, kwargs)
        if self._live is None:
            return self._call(function, args, kwargs)
        return self._live.around(self._call, function, args, kwargs)

    def _call(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self._quiet or self._follower is None:
            return function(*args, **kwargs)
        return self._follower.run(function, args, kwargs)

    _quiet = False

    def _pack(self, tensor: Tensor) -> Packed | PackedHere:
        if self._follower is None:
            return PackedHere(-1, tensor)  # what the first operation reads
        self._quiet = True
        try:
            packed = self._follower.pack(tensor)
            packed.owner = self._token
            return packed
        finally:
            self._quiet = False

    def _unpack(self, packed: Packed | PackedHere) -> Tensor:
        if self._follower is None or packed.owner is not self._token:
            return packed.tensor()  # of a step that ended before its backward pass
        self._quiet = True
        try:
            return self._follower.unpack(packed)
        finally:
            self._quiet = False


def _is_fatal(error: BaseException | None) -> bool:
    """Whether a step ended for want of memory, or was interrupted."""
    if error is None:
        return False
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or not isinstance(
        error, Exception
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows a planner every operation."""

    def __init__(self, planner: MemoryPlanner) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._planner = planner

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._planner._run(func, args, kwargs or {})
