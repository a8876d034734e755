"""Labels that are probably wrong, found without training anything."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.arrays import as_tensor
from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.data.labels import labels_of
from lipt_cords.models.features.extract import Features
from lipt_cords.models.features.extract import features as features_of
from lipt_cords.selectors.brightness import doubt_about
from lipt_cords.selectors.closed_form.ridge import OutOfSample, classes_of, leave_one_out
from lipt_cords.selectors.confident_learning import prune_by_noise_rate

logger = logging.getLogger(__name__)
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong.

    Attributes:
        indices: (k,) int64, samples whose label is probably wrong, the most suspect first.
        scores: (N,) float64, larger for more suspect labels; of every sample.
        given: (N,) int64, the labels as they are.
        likely: (N,) int64, what they would be.
        probabilities: (N, C) float64, out of sample; the columns are ``classes``, ascending. With
            the position of the label among them it is what cleanlab takes as ``pred_probs``.
        classes: (C,) int64.
        warning: that the features do not tell the classes apart, or that patches do so worse than
            brightness alone; else None.
    """

    indices: Tensor
    scores: Tensor
    given: Tensor
    likely: Tensor
    probabilities: Tensor
    classes: Tensor
    warning: str | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to_rows(self) -> list[dict[str, int | float]]:
        """One record a suspect, the most suspect first: ``index``, ``given``, ``likely``,
        ``score``."""
        return [
            {
                "index": index,
                "given": int(self.given[index]),
                "likely": int(self.likely[index]),
                "score": float(self.scores[index]),
            }
            for index in self.indices.tolist()
        ]


def find_label_issues(
    dataset: Dataset[Any],
    *,
    features: str | nn.Module | Features | Tensor | NDArray[Any] = "auto",
    out_of_sample: OutOfSample | Tensor | NDArray[Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "auto",
    collate_fn: CollateFunction | None = None,
) -> LabelIssues:
    """Find labels that are probably wrong, without training and without a model.

    Every sample is predicted by a kernel ridge regression on all others, in closed form. Confident
    learning (Northcutt et al., JAIR 2021) estimates from the predictions how many labels of each
    class should be another, and takes the samples that are most clearly so. Suspects are ordered
    by the margin of the prediction.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        features: of :func:`lipt_cords.features`; a network for its embeddings, or rows.
        out_of_sample: predictions of models that have not seen the sample: what
            :func:`lipt_cords.leave_one_out` returns, or (N, C) probabilities of your own, such as
            those of a cross-validation, one column for each label that occurs, ascending.
        seed: of every draw.
        device: where features and products are computed.
        collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that pads
            texts; None stacks tensors.

    Returns:
        The suspects, and scores of all samples. A sample that is alone in its class is never a
        suspect: nothing else shows what its class looks like.

    Raises:
        ValueError: one class only, samples that no kind of features fits, probabilities of another
            shape, that are not finite, or that do not add up to 1.

    >>> rows = torch.cat([torch.randn(60, 3), torch.randn(60, 3) + 4])
    >>> labels = torch.arange(120) // 60
    >>> labels[5] = 1
    >>> found = find_label_issues(torch.utils.data.TensorDataset(rows, labels))
    >>> int(found.indices[0]), int(found.given[5]), int(found.likely[5])
    (5, 1, 0)
    """
    dataset = collated(dataset, collate_fn)
    labels = labels_of(dataset)
    classes, columns = classes_of(labels)
    if isinstance(out_of_sample, OutOfSample):
        if not torch.equal(out_of_sample.labels, labels):
            raise ValueError(
                f"out_of_sample is of {len(out_of_sample)} other samples or labels: compute it "
                f"from the {len(labels)} samples of this data set, in order"
            )
        known, doubt = out_of_sample, out_of_sample.warning
    elif out_of_sample is None:
        rows = features_of(dataset, features, seed=seed, device=device)
        known = leave_one_out(rows, labels, kernel="rbf", seed=seed, device=device)
        doubt = doubt_about(known, dataset, features, rows, seed)
    else:
        given = _probabilities(out_of_sample, len(labels), len(classes))
        known = OutOfSample(given, labels, classes, ridge=0.0, error=0.0, given=given)
        doubt = known.warning
    suspect = prune_by_noise_rate(known.probabilities, columns)
    scores = known.margin
    indices = suspect.nonzero().flatten()
    order = torch.sort(scores[indices], descending=True, stable=True).indices
    likely = classes[_without_own(known.predictions, columns, suspect).argmax(dim=1)]
    if doubt is not None:
        logger.warning("find_label_issues: %s", doubt)
    return LabelIssues(indices[order], scores, labels, likely, known.probabilities, classes, doubt)


def _without_own(predictions: Tensor, columns: Tensor, suspect: Tensor) -> Tensor:
    """Predictions in which a suspect's own label does not count."""
    own = predictions.gather(1, columns[:, None])
    hidden = torch.where(suspect[:, None], -torch.inf, own)
    return predictions.scatter(1, columns[:, None], hidden)


def _probabilities(values: Any, samples: int, classes: int) -> Tensor:
    given = as_tensor("out_of_sample", values).to("cpu", torch.float64)
    if given.shape != (samples, classes):
        raise ValueError(
            f"expected probabilities of shape ({samples}, {classes}), a row for each sample and a "
            f"column for each label that occurs, ascending; received {tuple(given.shape)}"
        )
    sums = given.sum(dim=1)
    bad = (~torch.isfinite(given).all(dim=1)) | (given < 0).any(dim=1)
    bad |= (sums - 1).abs() > SUM_TOLERANCE
    if bool(bad.any()):
        rows = bad.nonzero().flatten()[:5].tolist()
        raise ValueError(
            f"expected probabilities of at least 0 that add up to 1, rows {rows} do not: give the "
            "softmax of the logits"
        )
    return given
