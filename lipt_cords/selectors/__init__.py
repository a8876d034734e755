"""Selectors: last-layer gradients and a budget in, a `Selection` out, found by name."""

# Importing a selector's module registers it.
import lipt_cords.selectors.covering
import lipt_cords.selectors.craig.select
import lipt_cords.selectors.curriculum
import lipt_cords.selectors.glister.select
import lipt_cords.selectors.gradmatch.select
import lipt_cords.selectors.importance
import lipt_cords.selectors.norms
import lipt_cords.selectors.random_subsets
import lipt_cords.selectors.stratified  # noqa: F401
from lipt_cords.selectors.base import (
    Choice,
    Selection,
    SelectionProblem,
    register_selector,
    select,
    selector_names,
    selector_options,
    unregister_selector,
)
from lipt_cords.selectors.difficulty import register_score
from lipt_cords.selectors.dynamics import TrainingDynamics, register_dynamics_score
from lipt_cords.selectors.loader import SelectionSampler, SubsetLoader, broadcast_selection

__all__ = [
    "Choice",
    "Selection",
    "SelectionProblem",
    "SelectionSampler",
    "SubsetLoader",
    "TrainingDynamics",
    "broadcast_selection",
    "register_dynamics_score",
    "register_score",
    "register_selector",
    "select",
    "selector_names",
    "selector_options",
    "unregister_selector",
]
