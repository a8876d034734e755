"""The warm start: shards -> workers -> soup, and the bill."""

from lipt_cords.warmstart.averaging import average_weights
from lipt_cords.warmstart.lipt import LiPTWarmStart
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.result import WarmStartResult

__all__ = ["LiPTWarmStart", "WarmStartReport", "WarmStartResult", "average_weights"]
