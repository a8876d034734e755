"""LiPT warm starts and exact selectors for training on subsets, with CORDS or without it."""

from lipt_cords.config import WarmStartConfig
from lipt_cords.cords_plugin import disable, enable, enabled
from lipt_cords.gradients import HeadGradient, LastLayerGradients, last_layer_gradients
from lipt_cords.held_out import WorkerDifficulty, worker_difficulty
from lipt_cords.report import Report
from lipt_cords.run_config import RunConfig, load_config
from lipt_cords.selectors import Selection, SubsetLoader, register_selector, select
from lipt_cords.training import train_on_subset
from lipt_cords.warmstart import (
    LiPTWarmStart,
    WarmStartReport,
    WarmStartResult,
    average_weights,
)

__all__ = [
    "HeadGradient",
    "LastLayerGradients",
    "LiPTWarmStart",
    "Report",
    "RunConfig",
    "Selection",
    "SubsetLoader",
    "WarmStartConfig",
    "WarmStartReport",
    "WarmStartResult",
    "WorkerDifficulty",
    "average_weights",
    "disable",
    "enable",
    "enabled",
    "last_layer_gradients",
    "load_config",
    "register_selector",
    "select",
    "train_on_subset",
    "worker_difficulty",
]
