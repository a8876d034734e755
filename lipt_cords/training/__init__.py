"""Training: one step, one trainer, optimizers, cheaper steps and memory plans."""

from lipt_cords.training.optimizers import register_optimizer
from lipt_cords.training.subset import train_on_subset

__all__ = ["register_optimizer", "train_on_subset"]
