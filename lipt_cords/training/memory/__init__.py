"""An activation-memory planner: training steps within a budget, with the bits of plain ones.

After Capuchin (Peng et al., "Capuchin: Tensor-based GPU Memory Management for Deep Learning",
ASPLOS 2020): one step is measured, then each activation is kept, swapped to the host and back, or
recomputed.
"""

from lipt_cords.base.sizes import parse_bytes, show_bytes
from lipt_cords.training.memory.plan import Plan, least_budget, plan_activations
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.report import MemoryReport
from lipt_cords.training.memory.step_kinds import Plans
from lipt_cords.training.memory.trace import Op, Storage, Trace

__all__ = [
    "MemoryPlanner",
    "MemoryReport",
    "Op",
    "Plan",
    "Plans",
    "Storage",
    "Trace",
    "least_budget",
    "parse_bytes",
    "plan_activations",
    "show_bytes",
]
