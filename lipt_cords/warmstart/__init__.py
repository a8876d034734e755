"""The warm start: shards -> workers -> soup, and the bill."""

from lipt_cords.warmstart.merge.average import average_weights
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.warm_start import LiPTWarmStart

__all__ = ["LiPTWarmStart", "WarmStartReport", "WarmStartResult", "average_weights"]
