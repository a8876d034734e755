"""A difficulty score from outside of the package: how undecided the model is."""

import torch

from lipt_cords.selectors import register_score


@register_score("undecided")
def undecided(gradients):
    """Entropy of the predicted probabilities."""
    return torch.special.entr(gradients.logits.softmax(dim=1)).sum(dim=1)
