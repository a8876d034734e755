"""Merging: which workers are merged, how they are averaged, and the step after it."""

from lipt_cords.warmstart.merge import quantised as quantised
