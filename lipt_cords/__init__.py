"""LiPT warm starts and exact selectors for training on subsets, with CORDS or without it."""

# ruff: noqa: E402
from lipt_cords.base.command import end_in_one_line

end_in_one_line()  # before torch is imported

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
