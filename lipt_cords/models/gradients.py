"""Last-layer gradients in factors: what every gradient-based selector reads.

For logits z = W e + b, the gradient of a sample's loss is [g ; g (x) e] with g = dl/dz. It has
C (E + 1) numbers and is never written out: g and e are kept, and every inner product is taken
between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.devices import nearest, resolve_device, with_float64
from lipt_cords.data.batches import Inputs, dataset_length, item_indices, to_device
from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import bare, copy_model
from lipt_cords.models.heads import (
    EmbeddingRecorder,
    find_head,
    model_device,
    run_model,
    undisturbed,
)
from lipt_cords.models.losses import PerSampleLoss, logit_gradients, per_sample_loss
from lipt_cords.models.outputs import tensor_at
from lipt_cords.models.usable import (
    explained,
    require_class_outputs,
    require_own_outputs,
    require_weights,
)

__all__ = [
    "HeadGradient",
    "LastLayerGradients",
    "PerSampleLoss",
    "gradient_gains",
    "last_layer_gradients",
    "logit_gradients",
    "per_sample_loss",
]

LOSS_CHUNK = 8192
"""Samples whose losses are differentiated at once; bounds memory, changes nothing else."""


@dataclass(frozen=True)
class HeadGradient:
    """One dense gradient of a linear head: ``bias`` (C,) and ``weight`` (C, E)."""

    bias: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LastLayerGradients:
    """Factored last-layer gradients of N samples, all on one device.

    The gradient of sample i is [g_i ; g_i (x) e_i]. The first part belongs to the bias; for a head
    without bias it is kept all the same, as the gradient in the logits, which is what CORDS uses.
    """

    logit_grads: Tensor
    """dl/dlogits, shape (N, C), float32."""
    embeddings: Tensor
    """Inputs of the head, shape (N, E), float32."""
    labels: Tensor
    """Classes, shape (N,), int64."""
    logits: Tensor
    """Outputs of the head, shape (N, C), float32."""
    indices: Tensor | None = None
    """Where the samples stand in the data set that was read, shape (N,), int64, on the CPU; None:
    they are all of it, in its order. A selection names samples by these indices."""

    def __len__(self) -> int:
        return len(self.logit_grads)

    @property
    def num_classes(self) -> int:
        """C, the number of logits."""
        return self.logit_grads.shape[1]

    @property
    def embedding_dim(self) -> int:
        """E, the number of inputs of the head."""
        return self.embeddings.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held: O(N (C + E)), against N C (E + 1) numbers written out."""
        return sum(t.nbytes for t in (self.logit_grads, self.embeddings, self.labels, self.logits))

    def inner(self, other: LastLayerGradients, *, linear_layer: bool = True) -> Tensor:
        """Inner products <G_i, G'_j> = (g_i . g'_j)(1 + e_i . e'_j), shape (N, M).

        Args:
            other: gradients of M samples of the same head.
            linear_layer: False leaves the weight part out: g_i . g'_j.
        """
        logit_part_NM = self.logit_grads @ other.logit_grads.T
        if not linear_layer:
            return logit_part_NM
        return (self.embeddings @ other.embeddings.T).add_(1).mul_(logit_part_NM)

    def gram(self, *, linear_layer: bool = True) -> Tensor:
        """Inner products among these samples, shape (N, N)."""
        return self.inner(self, linear_layer=linear_layer)

    def mean(self, indices: Tensor | Sequence[int] | None = None) -> HeadGradient:
        """Mean gradient, dense, over all samples or those at ``indices``.

        Raises:
            ValueError: no sample to average.
        """
        grads_NC, embeddings_NE = self.logit_grads, self.embeddings
        if indices is not None:  # not through subset, which looks at indices on the host
            where = self._places(indices)
            grads_NC, embeddings_NE = grads_NC[where], embeddings_NE[where]
        if len(grads_NC) == 0:
            raise ValueError("the mean gradient of no sample is undefined: give at least one index")
        return HeadGradient(
            bias=grads_NC.mean(dim=0), weight=grads_NC.T @ embeddings_NE / len(grads_NC)
        )

    def norms(self, *, linear_layer: bool = True) -> Tensor:
        """Euclidean norm of every gradient (GraNd; EL2N without the linear layer), shape (N,)."""
        norms_N: Tensor = torch.linalg.vector_norm(self.logit_grads, dim=1)
        if linear_layer:
            norms_N = norms_N * (1 + self.embeddings.square().sum(dim=1)).sqrt()
        # The squares of float32 numbers beyond these are zero or infinite.
        beyond_N = ~((norms_N > 1e-18) & (norms_N < 1e18))
        if bool(beyond_N.any()):
            norms_N[beyond_N] = self._exact_norms(beyond_N, linear_layer).to(norms_N)
        return norms_N

    def _exact_norms(self, where: Tensor, linear_layer: bool) -> Tensor:
        device = with_float64(self.logit_grads.device)
        norms: Tensor = torch.linalg.vector_norm(
            self.logit_grads[where].to(device), dim=1, dtype=torch.float64
        )
        if not linear_layer:
            return norms
        widths: Tensor = torch.linalg.vector_norm(
            self.embeddings[where].to(device), dim=1, dtype=torch.float64
        )
        return norms * (1 + widths.square()).sqrt()

    def subset(self, indices: Tensor | Sequence[int]) -> LastLayerGradients:
        """The gradients of some of the samples, in the order given.

        They keep the indices of the data set. Where a sample comes twice there are none, and a
        selection names positions.
        """
        where = self._places(indices)
        known = torch.arange(len(self)) if self.indices is None else self.indices
        part = known[where.cpu()]
        distinct = len(torch.unique(part)) == len(part)
        return LastLayerGradients(
            self.logit_grads[where],
            self.embeddings[where],
            self.labels[where],
            self.logits[where],
            part if distinct else None,
        )

    def _places(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Positions of samples, by number or by a mask, on the device."""
        where = torch.as_tensor(indices, device=self.logit_grads.device)
        return where.nonzero().flatten() if where.dtype == torch.bool else where.to(torch.int64)

    def correct(self) -> Tensor:
        """Whether each sample is classified correctly, shape (N,), bool."""
        return self.logits.argmax(dim=1) == self.labels


def gradient_gains(
    logit_grads_NC: Tensor, embeddings_NE: Tensor, head_grad: HeadGradient
) -> Tensor:
    """Inner product of every sample's last-layer gradient with one dense head gradient.

    <G_i, V> = g_i . v0 + g_i' V e_i, in O(N C E) time and O(N (C + E)) memory.

    Args:
        logit_grads_NC: dl/dlogits, one row a sample.
        embeddings_NE: inputs of the linear head.
        head_grad: bias part (C,) and weight part (C, E).

    Returns:
        Gains, shape (N,).
    """
    bias_part_N = logit_grads_NC @ head_grad.bias
    weight_part_N = ((logit_grads_NC @ head_grad.weight) * embeddings_NE).sum(dim=1)
    return bias_part_N + weight_part_N


def last_layer_gradients(
    model: nn.Module,
    dataset: Dataset[Any] | BatchSource,
    *,
    loss: nn.Module | PerSampleLoss | None = None,
    head: str | None = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    indices: Tensor | Sequence[int] | None = None,
    collate_fn: CollateFunction | None = None,
) -> LastLayerGradients:
    """Gradients of every sample's loss in the linear head, factored.

    The network runs once, in eval mode and without autograd; its training flags and buffers and
    the global random state are as before afterwards.

    Args:
        model: a network that ends with a linear layer. It returns that layer's output, alone, under
            the name ``logits``, or among other tensors. The layer may read every token, as in
            GPT-2, if the logits are its output for one token, or a mean of them. Of one made by
            torch.compile, DataParallel or DistributedDataParallel the network inside is run,
            uncompiled.
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels, or a BatchSource.
        loss: None for cross-entropy; a torch loss, whose reduction is removed (class weights
            then multiply each sample's loss; MSE and other dense losses get one-hot targets and
            the mean over classes); or a function (logits, labels) -> losses of shape (B,).
        head: name of the linear layer; None to find it.
        batch_size: samples in a forward pass; lower it if memory runs out. It changes the result
            by rounding alone.
        device: where to compute; None for the network's own. Another one uses a copy.
        indices: the samples wanted, in order (positions, for a BatchSource), or a mask; None for
            all.
        collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that pads
            texts; None stacks tensors. Padding must not change a sample's logits.

    Raises:
        ValueError: a network without weights yet, with BatchNorm layers without running statistics,
            or that cannot read the samples (shape or dtype); an empty data set, no single linear
            head, a head of one output, labels outside the head's range, or samples whose logits,
            embeddings or gradients are NaN or infinite; these are named.

    >>> data = torch.utils.data.TensorDataset(torch.eye(3), torch.arange(3))
    >>> gradients = last_layer_gradients(nn.Linear(3, 3), data)
    >>> gradients.logit_grads.shape, gradients.gram().shape
    (torch.Size([3, 3]), torch.Size([3, 3]))
    """
    model, head, where = readable(model, head, device)
    if isinstance(dataset, BatchSource):
        if collate_fn is not None:
            raise ValueError("a BatchSource has its own collate_fn: give it that one")
        source = dataset
        order = None if indices is None else item_indices(indices, len(source))
        rows = torch.arange(len(source)) if order is None else order
    else:
        length = dataset_length(dataset)
        rows = torch.arange(length) if indices is None else item_indices(indices, length)
        # One pass over the data gains nothing from keeping it.
        dataset = collated(dataset, collate_fn)
        source, order = BatchSource(dataset, rows, device=where, cache_bytes=0), None
    logits_NC, embeddings_NE, labels_N = _forward(model, source, order, batch_size, head, where)
    _check_rows(logits_NC, embeddings_NE, labels_N, rows)
    chunks = zip(torch.split(logits_NC, LOSS_CHUNK), torch.split(labels_N, LOSS_CHUNK), strict=True)
    unreduced = per_sample_loss(loss, where)
    grads_NC = torch.cat([logit_gradients(z, y, unreduced) for z, y in chunks])
    if unreduced is not None:
        _check_finite(finite_rows(grads_NC), rows, "gradients", "check the loss")
    part = None if indices is None else rows
    return LastLayerGradients(grads_NC, embeddings_NE, labels_N, logits_NC, part)


def readable(
    model: nn.Module, head: str | None, device: torch.device | str | None
) -> tuple[nn.Module, str | None, torch.device]:
    """The network inside of wrappers, its head's name there, and its device; a copy on another one.

    Raises:
        ValueError: a network without weights yet, or with BatchNorm layers without statistics.
    """
    require_weights(model)
    require_own_outputs(model)
    while (inside := bare(model)) is not model:
        model, head = inside, head and head.removeprefix("_orig_mod.").removeprefix("module.")
    at = model_device(model)
    where = at if device is None else nearest(resolve_device(device), at)
    return (model if where == at else copy_model(model).to(where)), head, where


def _forward(
    model: nn.Module,
    source: BatchSource,
    order: Tensor | None,
    batch_size: int,
    head: str | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, embeddings and labels of every sample: one forward pass, written into place."""
    count = len(source) if order is None else len(order)
    if count == 0:
        raise ValueError("the data set is empty: expected at least one sample")
    found = None
    start = 0
    labels_N = torch.empty(count, dtype=torch.int64, device=device)
    with undisturbed(model):
        for inputs, labels in source.batches(order, batch_size=batch_size):
            inputs = to_device(inputs, device)
            if found is None:
                with explained(model, inputs, "the first samples"):
                    found = find_head(model, head=head, sample=_few(inputs))
                require_class_outputs(found.module.out_features, f"the head {found.name!r}")
                width, classes = found.module.in_features, found.module.out_features
                embeddings_NE = torch.empty(count, width, device=device)
                logits_NC = torch.empty(count, classes, device=device)
            first = explained(model, inputs, "the first samples") if start == 0 else nullcontext()
            with first, EmbeddingRecorder(found) as recorder:
                output = run_model(model, inputs)
            if start == 0:
                place = recorder.place_in(output)
                recorder.check(tensor_at(output, place))
            logits = tensor_at(output, place)
            stop = start + len(labels)
            embeddings_NE[start:stop] = recorder.embeddings_of(logits)
            logits_NC[start:stop] = logits.detach()
            labels_N[start:stop] = labels
            start = stop
    return logits_NC, embeddings_NE, labels_N


def _few(inputs: Inputs) -> Inputs:
    """Two samples are enough to watch which layer makes the logits."""
    if isinstance(inputs, Tensor):
        return inputs[:2]
    return {key: value[:2] for key, value in inputs.items()}


def finite_rows(values: Tensor) -> Tensor:
    """Which rows hold neither NaN nor infinity, shape (N,), bool."""
    # A sum is finite only if all terms are; looking at each takes several times the memory.
    finite_N = values.sum(dim=1).isfinite()
    # A sum of large numbers may also have overflowed.
    return finite_N if bool(finite_N.all()) else values.isfinite().all(dim=1)


def _check_finite(finite_N: Tensor, rows: Tensor, what: str, remedy: str) -> None:
    if not finite_N.all():
        bad = rows[(~finite_N).nonzero().flatten().cpu()].tolist()
        shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(
            f"{len(bad)} of {len(rows)} samples have NaN or infinite {what} (samples {shown}): "
            f"{remedy}"
        )


def _check_rows(logits_NC: Tensor, embeddings_NE: Tensor, labels_N: Tensor, rows: Tensor) -> None:
    finite_N = finite_rows(logits_NC) & finite_rows(embeddings_NE)
    _check_finite(finite_N, rows, "logits", "check their inputs and the network's weights")
    outside = (labels_N < 0) | (labels_N >= logits_NC.shape[1])
    if outside.any():
        first = int(outside.nonzero()[0])
        raise ValueError(
            f"labels must lie in [0, {logits_NC.shape[1]}), the outputs of the head; sample "
            f"{int(rows[first])} has {int(labels_N[first])}: build the network for more classes "
            "or correct the labels"
        )
