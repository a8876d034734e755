"""Which labels are wrong, from probabilities of models that have not seen the sample."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6
"""By this much a mean of equal probabilities may exceed each of them."""


def confident_joint(probabilities: Tensor, columns: Tensor) -> Tensor:
    """How many samples with each label seem to belong to each class.

    A sample is counted for the most probable of those classes of which it has at least the mean
    probability that samples with that label have (Northcutt et al., JAIR 2021, section 3.1). Rows
    are scaled to the number of samples with that label.

    Args:
        probabilities: (N, C), out of sample.
        columns: (N,) int64, the column of each sample's label.

    Returns:
        (C, C) float64: entry ``[i, j]`` for samples labelled ``i`` that seem to be ``j``. A class
        of one sample takes no other: no model that predicts it has seen the class.
    """
    classes = probabilities.shape[1]
    own = probabilities.gather(1, columns[:, None])[:, 0].double()
    counts = torch.bincount(columns, minlength=classes)
    sums = torch.zeros(classes, dtype=torch.float64, device=own.device).index_add_(0, columns, own)
    confident = probabilities >= sums / counts.clamp(min=1) - ROUNDING
    confident[:, counts < 2] = False
    seems = torch.where(confident, probabilities, -1.0).argmax(dim=1)
    sure = confident.any(dim=1) & (counts[columns] > 1)
    cells = torch.bincount(columns[sure] * classes + seems[sure], minlength=classes**2)
    joint = cells.reshape(classes, classes).double()
    joint.diagonal().clamp_(min=1)
    return joint * (counts / joint.sum(dim=1))[:, None]


def prune_by_noise_rate(probabilities: Tensor, columns: Tensor) -> Tensor:
    """Suspects, as many of each pair of classes as the confident joint says.

    Of samples labelled ``i``, as many as seem to be ``j`` are suspects: those by which the
    probability of ``j`` exceeds that of ``i`` most, and only where the label is not the most
    probable class (Northcutt et al., JAIR 2021, section 3.2).

    Args:
        probabilities: (N, C), out of sample.
        columns: (N,) int64, the column of each sample's label.

    Returns:
        (N,) bool.
    """
    joint = confident_joint(probabilities, columns).round().long()
    suspect = torch.zeros(len(columns), dtype=torch.bool, device=columns.device)
    for given in range(len(joint)):
        members = (columns == given).nonzero().flatten()
        chances = probabilities[members]
        margins = chances - chances[:, [given]]
        for other in joint[given].nonzero().flatten().tolist():
            if other != given:
                most = torch.topk(margins[:, other], int(joint[given, other])).indices
                suspect[members[most]] = True
    return suspect & (probabilities.argmax(dim=1) != columns)
