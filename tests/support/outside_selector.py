"""A selector from outside of the package: samples near the mean of the validation set."""

import torch

from lipt_cords.selectors import Choice, register_selector


@register_selector("nearest", needs_validation=True)
def nearest(problem, *, skip=0):
    """The samples whose embeddings are nearest to the mean of the validation set."""
    centre = problem.validation.embeddings.mean(dim=0)
    distances = (problem.gradients.embeddings - centre).norm(dim=1)
    return Choice(torch.argsort(distances, stable=True)[skip : skip + problem.budget])
