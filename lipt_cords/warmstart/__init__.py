"""The warm start: shards -> workers -> soup, with a report of the costs."""

from lipt_cords.warmstart.merge.average import average_weights
from lipt_cords.warmstart.merge.codecs import register_codec
from lipt_cords.warmstart.merge.outer import register_outer
from lipt_cords.warmstart.merge.soup import register_soup
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.warm_start import LiPTWarmStart
from lipt_cords.warmstart.workers.augment import register_augmentation
from lipt_cords.warmstart.workers.sparsity import register_sparsity

__all__ = [
    "LiPTWarmStart",
    "WarmStartReport",
    "WarmStartResult",
    "average_weights",
    "register_augmentation",
    "register_codec",
    "register_outer",
    "register_soup",
    "register_sparsity",
]
