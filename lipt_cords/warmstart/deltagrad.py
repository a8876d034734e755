"""DeltaGrad: the training is replayed from memory when samples go or come (Wu et al., ICML 2020).

Plain SGD keeps, for every step, its weights and its gradient. When the data changes, most steps
are not computed again: their gradient is the old one, corrected by a quasi-Newton Hessian times how
far the weights have moved, and by the gradients of the changed samples. It is approximate, and
:meth:`DeltaGrad.distance` measures how far it is from training anew. The paper's
online form corrects what was corrected before; here every request corrects the training itself, by
all changes so far, so that errors do not add up. It serves linear heads, on frozen embeddings or on
inputs, and small nets without BatchNorm.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from lipt_cords.batches import different_indices, item_indices
from lipt_cords.data import BatchSource, labels_of
from lipt_cords.gradients import LastLayerGradients
from lipt_cords.randomness import generator
from lipt_cords.warmstart.deltagrad_checks import (
    check_cache,
    check_net,
    check_options,
)
from lipt_cords.warmstart.deltagrad_replay import Replay, Rule, replay, train


@dataclass(frozen=True)
class Distance:
    """How far the replayed weights are from those of training anew.

    Attributes:
        to_retraining: Euclidean, of all weights.
        of_change: of training anew on the changed data from training on the first data: what the
            change does to the weights.
    """

    to_retraining: float
    of_change: float


class DeltaGrad:
    """A training that can be changed afterwards, by samples that go and samples that come.

    Args:
        model: a net without BatchNorm and dropout, whose weights are the start; it is copied.
        dataset: all samples, those that may be added later among them.
        start_with: indices to train on first; None: all.
        epochs: over them.
        batch_size: samples in a step; large ones make the approximation good.
        lr: constant learning rate of plain SGD; times the largest curvature it must stay below 2,
            or training anew and replaying drift apart.
        l2: times the weights, explicit in the gradient.
        period: T0, steps between two whose gradients are computed; 1 computes all.
        burn_in: j0, first steps whose gradients are all computed; it pays with many more steps.
        memory: m, pairs of the quasi-Newton Hessian.
        tolerance: relative error of its prediction at a computed step from which the steps up to
            the next one are computed too.
        max_cache: bytes that the steps may take; None: half of the machine's memory.
        seed: of the batches.
        optimizer: ``sgd``; others are refused.
        momentum: 0; anything else is refused.

    Raises:
        ValueError: a net, an optimizer or options that the method does not cover, or a cache that
            does not fit.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset[Any], *, start_with: Any = None,
        epochs: int = 10, batch_size: int = 16_384, lr: float = 0.1, l2: float = 1e-3,
        period: int = 5, burn_in: int = 20, memory: int = 2, tolerance: float = 1.0,
        max_cache: int | None = None, seed: int = 0, optimizer: str = "sgd", momentum: float = 0.0,
    ) -> None:  # fmt: skip
        check_net(model)
        check_options(optimizer, momentum, {
            "epochs": epochs, "batch_size": batch_size, "period": period, "memory": memory,
        }, {"lr": lr, "l2": l2, "burn_in": burn_in, "tolerance": tolerance})  # fmt: skip
        self.model = copy.deepcopy(model).double().train()
        self.labels = labels_of(dataset)
        samples = len(self.labels)
        first = torch.arange(samples) if start_with is None else item_indices(start_with, samples)
        if len(first) == 0:
            raise ValueError("expected at least one sample to train on, received none")
        self.present = torch.zeros(samples, dtype=torch.bool)
        self.present[first] = True
        self.rule = Rule(lr, l2, period, burn_in, memory, tolerance)
        self.epochs, self.seed = epochs, seed
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._shapes = {name: parameter.shape for name, parameter in trained.items()}
        start = torch.cat([p.detach().reshape(-1) for p in trained.values()])
        order = [
            first[torch.randperm(len(first), generator=generator(seed, "deltagrad", epoch))]
            for epoch in range(epochs)
        ]
        batches = [part for epoch in order for part in torch.split(epoch, batch_size)]
        self._epoch_steps = len(batches) // epochs
        check_cache(len(batches), len(start), max_cache)
        self.inputs = _read(dataset)
        self._trained = train(start, batches, self._mean_gradient, self.rule, keep=True)
        self._left = torch.zeros_like(self.present)
        self._come = [batch[:0] for batch in batches]
        self._final = self._trained.final
        self.last: Replay | None = None
        """What the last change took."""

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
        data = torch.utils.data.TensorDataset(gradients.embeddings.cpu(), gradients.labels.cpu())
        if head is None:
            head = nn.Linear(gradients.embedding_dim, gradients.num_classes)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return cls(head, data, **options)

    @property
    def batches(self) -> list[Tensor]:
        """The samples of every step, as they are now."""
        pairs = zip(self._trained.batches, self._come, strict=True)
        return [torch.cat([batch[~self._left[batch]], come]) for batch, come in pairs]

    def remove(self, indices: Any) -> DeltaGrad:
        """Replay the training without some samples.

        Raises:
            ValueError: samples that are outside of the data, named twice, or not trained on.
        """
        gone = self._checked(indices, present=True)
        if int(self.present.sum()) == len(gone):
            raise ValueError("all samples would be gone: leave at least one")
        leaves = torch.zeros_like(self.present)
        leaves[gone] = True
        self._left |= leaves
        self._come = [come[~leaves[come]] for come in self._come]
        self.present[gone] = False
        return self._replayed()

    def add(self, indices: Any) -> DeltaGrad:
        """Replay the training with some samples more, each in one batch of every epoch.

        Raises:
            ValueError: samples that are outside of the data, named twice, or trained on already.
        """
        new = self._checked(indices, present=False)
        draws = generator(self.seed, "deltagrad added", *new[:4].tolist(), len(new))
        places = torch.randint(self._epoch_steps, (self.epochs, len(new)), generator=draws)
        self._come = [
            torch.cat([come, new[places[step // self._epoch_steps] == step % self._epoch_steps]])
            for step, come in enumerate(self._come)
        ]
        self.present[new] = True
        return self._replayed()

    def apply_to(self, model: nn.Module) -> nn.Module:
        """Load the weights into a model of the architecture, in place."""
        own = dict(model.named_parameters())
        trained = self._unflat(self._final)
        if not all(name in own and own[name].shape == v.shape for name, v in trained.items()):
            raise ValueError(
                f"the weights do not fit {type(model).__name__}: pass a model like the one that "
                "was trained, which is the head alone for on_head"
            )
        with torch.no_grad():
            for name, value in trained.items():
                own[name].copy_(value)
        return model

    def retrained(self) -> Tensor:
        """All weights, flat, of training anew on the present samples with the same batches."""
        start = self._trained.start
        return train(start, self.batches, self._mean_gradient, self.rule, keep=False).final

    def distance(self) -> Distance:
        """Train anew, and measure; as dear as a training."""
        anew = self.retrained()
        return Distance(
            float((self._final - anew).norm()), float((self._trained.final - anew).norm())
        )

    def _replayed(self) -> DeltaGrad:
        gone = [batch[self._left[batch]] for batch in self._trained.batches]
        self._final, self.last = replay(
            self._trained, gone, self._come, self.batches, self._mean_gradient, self.rule
        )
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


def _read(dataset: Dataset[Any]) -> Tensor:
    """All inputs, float64."""
    batches = [x for x, _ in BatchSource(dataset, cache_bytes=0).batches(batch_size=4096)]
    if not all(isinstance(x, Tensor) for x in batches):
        raise ValueError("DeltaGrad reads samples (x, y) with one tensor x, received dicts")
    return torch.cat([x for x in batches if isinstance(x, Tensor)]).double()
