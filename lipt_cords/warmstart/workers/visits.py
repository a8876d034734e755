"""What a worker sees of its samples while it trains on them: logged without any extra pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipt_cords.base.messages import travels
from lipt_cords.models.losses import LossFunction


@travels
@dataclass(frozen=True)
class Visits:
    """The visits of a worker in one round, in order; T of them, on the CPU.

    Attributes:
        samples: which sample of the data set, shape (T,), int32.
        probabilities: of its label, shape (T,), float32.
        margins: logit of its label minus the largest other logit, shape (T,), float32.
    """

    samples: Tensor
    probabilities: Tensor
    margins: Tensor


class VisitLog:
    """Collects the visits of one worker; values stay on its device until the round is over.

    Args:
        indices: the shard, shape (n,).
    """

    def __init__(self, indices: Tensor) -> None:
        self._indices = indices
        self._places: list[Tensor] = []
        self._seen: list[Tensor] = []

    def add(self, places: Tensor, seen: Tensor) -> None:
        """Add a batch.

        Args:
            places: positions of its samples in the shard, shape (B,).
            seen: their probabilities and margins, shape (2, B).
        """
        self._places.append(places)
        self._seen.append(seen)

    def visits(self) -> Visits:
        """All of them; waits for the device."""
        probabilities, margins = torch.cat(self._seen, dim=1).cpu().unbind()
        samples = self._indices[torch.cat(self._places)].int()
        return Visits(samples, probabilities.clone(), margins.clone())


@torch.no_grad()
def probability_and_margin(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Probability of the label, and its logit minus the largest other one; shape (2, B), float32.

    Args:
        logits_BC: of two classes or more.
        labels_B: classes.
    """
    logits, own = logits_BC.detach().float(), labels_B[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(dim=1)
    probabilities = logits.softmax(dim=1).gather(1, own)[:, 0]
    return torch.stack([probabilities, logits.gather(1, own)[:, 0] - others])


def leaving_logits(loss: LossFunction) -> LossFunction:
    """A loss that also refuses to log samples by logits that the loss changes.

    The log reads them after the step, because nothing may be added to a step that a memory plan
    has measured.

    Raises:
        ValueError: when it is called: logits changed in place.
    """

    def checked(logits: Tensor, labels: Tensor) -> Tensor:
        before = logits._version
        value = loss(logits, labels)
        if logits._version != before:
            raise ValueError(
                "log_samples reads the logits after the step, and this loss changes them in "
                "place: let it compute on new tensors, or leave log_samples out"
            )
        return value

    return checked
