"""LiPT warm starts and exact selectors for training on subsets, with CORDS or without it.

A name of ``__all__`` is imported when it is first used: torch takes seconds, and the command line's
help needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lipt_cords.base.command import end_in_one_line

end_in_one_line()  # before anything else is imported

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lipt_cords.cords.config import RunConfig, load_config
    from lipt_cords.cords.patches import disable, enable, enabled
    from lipt_cords.experiments.report.page import Report
    from lipt_cords.models.features import Features, features, register_features
    from lipt_cords.models.gradients import HeadGradient, LastLayerGradients, last_layer_gradients
    from lipt_cords.selectors.base import Selection, register_selector, select
    from lipt_cords.selectors.choose import choose_subset
    from lipt_cords.selectors.closed_form import OutOfSample, leave_one_out
    from lipt_cords.selectors.difficulty import register_score
    from lipt_cords.selectors.label_issues import LabelIssues, find_label_issues
    from lipt_cords.selectors.loader import SubsetLoader
    from lipt_cords.training.reselecting_loader import ReselectingLoader
    from lipt_cords.training.subset import train_on_subset
    from lipt_cords.warmstart.config import WarmStartConfig
    from lipt_cords.warmstart.difficulty import WorkerDifficulty, worker_difficulty
    from lipt_cords.warmstart.merge.average import average_weights
    from lipt_cords.warmstart.report import WarmStartReport
    from lipt_cords.warmstart.result import WarmStartResult
    from lipt_cords.warmstart.warm_start import LiPTWarmStart

__all__ = [
    "Features",
    "HeadGradient",
    "LabelIssues",
    "LastLayerGradients",
    "LiPTWarmStart",
    "OutOfSample",
    "Report",
    "ReselectingLoader",
    "RunConfig",
    "Selection",
    "SubsetLoader",
    "WarmStartConfig",
    "WarmStartReport",
    "WarmStartResult",
    "WorkerDifficulty",
    "average_weights",
    "choose_subset",
    "disable",
    "enable",
    "enabled",
    "features",
    "find_label_issues",
    "last_layer_gradients",
    "leave_one_out",
    "load_config",
    "register_features",
    "register_score",
    "register_selector",
    "select",
    "train_on_subset",
    "worker_difficulty",
]

_FROM = {
    "Features": "models.features",
    "HeadGradient": "models.gradients",
    "LabelIssues": "selectors.label_issues",
    "LastLayerGradients": "models.gradients",
    "LiPTWarmStart": "warmstart.warm_start",
    "OutOfSample": "selectors.closed_form",
    "Report": "experiments.report.page",
    "ReselectingLoader": "training.reselecting_loader",
    "RunConfig": "cords.config",
    "Selection": "selectors.base",
    "SubsetLoader": "selectors.loader",
    "WarmStartConfig": "warmstart.config",
    "WarmStartReport": "warmstart.report",
    "WarmStartResult": "warmstart.result",
    "WorkerDifficulty": "warmstart.difficulty",
    "average_weights": "warmstart.merge.average",
    "choose_subset": "selectors.choose",
    "disable": "cords.patches",
    "enable": "cords.patches",
    "enabled": "cords.patches",
    "features": "models.features",
    "find_label_issues": "selectors.label_issues",
    "last_layer_gradients": "models.gradients",
    "leave_one_out": "selectors.closed_form",
    "load_config": "cords.config",
    "register_features": "models.features",
    "register_score": "selectors.difficulty",
    "register_selector": "selectors.base",
    "select": "selectors.base",
    "train_on_subset": "training.subset",
    "worker_difficulty": "warmstart.difficulty",
}
"""The module of every public name, below this package."""


_ROOMS = (
    "base",
    "cli",
    "cords",
    "data",
    "experiments",
    "models",
    "selectors",
    "training",
    "warmstart",
)


def __getattr__(name: str) -> Any:
    """A public name, from its module, or one of the packages."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names and the packages too, those that have not been used yet."""
    return sorted({*globals(), *__all__, *_ROOMS})
