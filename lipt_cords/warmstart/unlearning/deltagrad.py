"""DeltaGrad: replays a training when samples are removed or added (Wu et al., ICML 2020).

Plain SGD keeps, for every step, its weights and its gradient. When the data changes, most gradients
are not computed again: the stored gradient is corrected by a quasi-Newton Hessian times the change
of the weights, and by the gradients of the changed samples. This is approximate, and
:meth:`DeltaGrad.distance` measures the distance to retraining. The paper's online form corrects the
result of the last correction; here every request corrects the first training by all changes so far,
so errors do not add up. It is for linear heads, on frozen embeddings or on inputs, and for small
nets without BatchNorm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from lipt_cords.base.randomness import generator, preserved_rng
from lipt_cords.data.batches import different_indices
from lipt_cords.data.labels import labels_of
from lipt_cords.models.copies import copy_model
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.models.modes import train_as_given
from lipt_cords.warmstart.unlearning.checks import (
    check_cache,
    check_net,
    check_options,
    check_samples,
    read_inputs,
)
from lipt_cords.warmstart.unlearning.replay import RecordedTraining, Replay, Rule, replay, train_sgd


@dataclass(frozen=True)
class Distance:
    """The distance of the replayed weights to those of retraining.

    Attributes:
        to_retraining: Euclidean, of all weights.
        of_change: from retraining on the changed data to training on the first data: the effect of
            the change.
    """

    to_retraining: float
    of_change: float

    @property
    def ratio(self) -> float:
        """The former over the latter: good at a tenth or less; 0 where retraining was done."""
        return self.to_retraining / self.of_change if self.to_retraining else 0.0


class DeltaGrad:
    """A training that can be changed afterwards by removing and adding samples.

    Args:
        model: a net without BatchNorm and dropout, whose weights are the start; it is copied.
        dataset: all samples, including those that may be added later.
        start_with: indices to train on first; None: all.
        epochs: over them.
        batch_size: samples in a step; large ones make the approximation better.
        lr: constant learning rate of plain SGD. The smaller it is compared with 2 over the largest
            curvature, the closer a replay is to retraining; standardised inputs help most.
        l2: factor of the weights in the gradient.
        period: T0, steps between two whose gradients are computed; 1 computes all.
        burn_in: j0, number of first steps whose gradients are all computed; useful if there are
            many more steps.
        memory: m, pairs of the quasi-Newton Hessian.
        tolerance: largest error of its prediction at a computed step, relative to the gradient's
            change; after a larger error, steps are computed until a prediction is good again.
        max_cache: bytes that the steps and the inputs may take, or a size such as ``"2GiB"``; None:
            half of the machine's memory.
        seed: of the batches.
        optimizer: ``sgd``; others are refused.
        momentum: 0; anything else is refused.

    Raises:
        ValueError: a net, an optimizer or options that the method does not cover, samples that the
            net cannot read, a training that diverges, or a cache that does not fit.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset[Any], *, start_with: Any = None,
        epochs: int = 10, batch_size: int = 16_384, lr: float = 0.1, l2: float = 1e-3,
        period: int = 5, burn_in: int = 20, memory: int = 2, tolerance: float = 1.0,
        max_cache: int | str | None = None, seed: int = 0, optimizer: str = "sgd",
        momentum: float = 0.0,
    ) -> None:  # fmt: skip
        check_options(optimizer, momentum, {
            "epochs": epochs, "batch_size": batch_size, "period": period, "memory": memory,
        }, {"lr": lr, "l2": l2, "tolerance": tolerance}, burn_in)  # fmt: skip
        self.model = copy_model(model).cpu().double()
        train_as_given(self.model)
        check_net(self.model)
        self.labels = labels_of(dataset)
        samples = len(self.labels)
        first = torch.arange(samples)
        if start_with is not None:
            first = different_indices(start_with, samples)
        self.present = torch.zeros(samples, dtype=torch.bool)
        self.present[first] = True
        self.rule = Rule(lr, l2, period, burn_in, memory, tolerance)
        self.epochs, self.seed = epochs, seed
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._shapes = {name: parameter.shape for name, parameter in trained.items()}
        start = torch.cat([p.detach().reshape(-1) for p in trained.values()])
        self._epoch_steps = math.ceil(len(first) / batch_size)
        self.inputs = read_inputs(dataset)
        steps = epochs * self._epoch_steps
        check_cache(steps, len(start), self.inputs.nbytes, max_cache)
        check_samples(self.model, self.inputs, self.labels)
        order = [
            first[torch.randperm(len(first), generator=generator(seed, "deltagrad", epoch))]
            for epoch in range(epochs)
        ]
        batches = [part for epoch in order for part in torch.split(epoch, batch_size)]
        self._erased = torch.zeros_like(self.present)
        self.last: Replay | None = None
        """The cost of the last change."""
        self._begin(train_sgd(start, batches, self._mean_gradient, self.rule, keep=True))

    @classmethod
    def on_head(
        cls, gradients: LastLayerGradients, *, head: nn.Linear | None = None, **options: Any
    ) -> DeltaGrad:
        """A linear head trained on frozen embeddings.

        Args:
            gradients: of any model, for its embeddings and labels.
            head: where to start; None: zeros.
            **options: of the class.
        """
        if not isinstance(gradients, LastLayerGradients):
            raise ValueError(
                f"expected last-layer gradients of a model, received {type(gradients).__name__}: "
                "pass result.gradients(data), or train a linear layer on a TensorDataset of your "
                "own embeddings and labels, DeltaGrad(nn.Linear(...), TensorDataset(x, y))"
            )
        data = torch.utils.data.TensorDataset(gradients.embeddings.cpu(), gradients.labels.cpu())
        if head is None:
            with preserved_rng():
                head = nn.Linear(gradients.embedding_dim, gradients.num_classes)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return cls(head, data, **options)

    @property
    def batches(self) -> list[Tensor]:
        """The present samples of every step."""
        return self._batches(self._left, self._come)

    def remove(self, indices: Any) -> DeltaGrad:
        """Replay the training without some samples.

        Their inputs and labels stay in memory, and so do the weights that were trained on them:
        later requests need both. :meth:`rebase` erases them.

        Raises:
            ValueError: samples that are outside of the data, named twice, or not trained on.
        """
        gone = self._checked(indices, present=True)
        if int(self.present.sum()) == len(gone):
            raise ValueError("all samples would be gone: leave at least one")
        leaves = torch.zeros_like(self.present)
        leaves[gone] = True
        return self._replay(
            self.present & ~leaves,
            self._left | leaves,
            [come[~leaves[come]] for come in self._come],
        )

    def add(self, indices: Any) -> DeltaGrad:
        """Replay the training with more samples, each in one batch of every epoch.

        These batches become larger than ``batch_size``.

        Raises:
            ValueError: samples that are outside of the data, named twice, trained on already, or
                erased.
        """
        new = self._checked(indices, present=False)
        if bool((erased := self._erased[new]).any()):
            raise ValueError(
                f"sample {int(new[erased][0])} was erased by rebase(): it is not there any more"
            )
        draws = generator(self.seed, "deltagrad added", *new[:4].tolist(), len(new))
        places = torch.randint(self._epoch_steps, (self.epochs, len(new)), generator=draws)
        come = [
            torch.cat([come, new[places[step // self._epoch_steps] == step % self._epoch_steps]])
            for step, come in enumerate(self._come)
        ]
        present = self.present.clone()
        present[new] = True
        return self._replay(present, self._left, come)

    def rebase(self) -> DeltaGrad:
        """Retrain on the present samples, and erase all removed ones.

        Erased are weights and gradients that depend on removed samples, and their inputs and
        labels, so they cannot be added again. It costs a whole training; later requests correct
        this one, and are cheap again.
        """
        start, left = self._trained.start, self._left & ~self.present
        trained = train_sgd(start, self.batches, self._mean_gradient, self.rule, keep=True)
        self._begin(trained)
        self.inputs[left], self.labels = 0.0, self.labels.masked_fill(left, 0)
        self._erased |= left
        return self

    def apply_to(self, model: nn.Module) -> nn.Module:
        """Load the weights into a model of the architecture, in place."""
        own = dict(model.named_parameters())
        trained = self._unflat(self._final)
        if not all(name in own and own[name].shape == v.shape for name, v in trained.items()):
            raise ValueError(
                f"the weights do not fit {type(model).__name__}: pass a model like the one that "
                "was trained, which is only the head for on_head"
            )
        with torch.no_grad():
            for name, value in trained.items():
                own[name].copy_(value)
        return model

    def retrained(self) -> Tensor:
        """All weights, flat, of retraining on the present samples with the same batches."""
        start = self._trained.start
        return train_sgd(start, self.batches, self._mean_gradient, self.rule, keep=False).final

    def distance(self) -> Distance:
        """Retrain, and measure the distance; it costs a whole training."""
        anew = self.retrained()
        return Distance(
            float((self._final - anew).norm()), float((self._trained.final - anew).norm())
        )

    def _begin(self, trained: RecordedTraining) -> None:
        """Set the training that requests correct."""
        if not bool(trained.final.isfinite().all()):
            raise ValueError(
                f"training diverged: weights are not finite at lr={self.rule.lr:g}; lower it, or "
                "standardise the inputs"
            )
        self._trained, self._final = trained, trained.final
        self._left = torch.zeros_like(self.present)
        self._come = [batch[:0] for batch in trained.batches]
        self.last = None

    def _batches(self, left: Tensor, come: list[Tensor]) -> list[Tensor]:
        pairs = zip(self._trained.batches, come, strict=True)
        return [torch.cat([batch[~left[batch]], new]) for batch, new in pairs]

    def _replay(self, present: Tensor, left: Tensor, come: list[Tensor]) -> DeltaGrad:
        """Replay, then store the change: an interrupted replay changes nothing."""
        gone = [batch[left[batch]] for batch in self._trained.batches]
        final, last = replay(
            self._trained, gone, come, self._batches(left, come), self._mean_gradient, self.rule
        )
        self.present, self._left, self._come = present, left, come
        self._final, self.last = final, last
        return self

    def _checked(self, indices: Any, *, present: bool) -> Tensor:
        wanted = different_indices(indices, len(self.present))
        wrong = self.present[wanted] != present
        if bool(wrong.any()):
            what = "is not trained on, or is gone already" if present else "is trained on already"
            raise ValueError(f"sample {int(wanted[wrong][0])} {what}")
        return wanted

    def _mean_gradient(self, weights: Tensor, batch: Tensor) -> Tensor:
        with torch.enable_grad():
            flat = weights.detach().requires_grad_()
            logits = functional_call(self.model, self._unflat(flat), (self.inputs[batch],))
            value = F.cross_entropy(logits, self.labels[batch])
            return torch.autograd.grad(value, flat)[0]

    def _unflat(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        pairs = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}
