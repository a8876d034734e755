"""What a warm start takes, training on a subset takes: labels, items, losses, precisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lipt_cords import LiPTWarmStart, last_layer_gradients, select, train_on_subset
from lipt_cords.selectors import SubsetLoader
from lipt_cords.training.sources import without_single_last

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
WARM = {"num_workers": 2, "common_steps": 2, "local_steps": 3, "launch": "serial", "device": "cpu"}


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([one.detach().flatten().double() for one in model.parameters()])


class Items(Dataset[Any]):
    """Items as one makes them."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


FORMS: dict[str, Any] = {
    "int32": TensorDataset(X, Y.to(torch.int32)),
    "int16": TensorDataset(X, Y.to(torch.int16)),
    "uint8": TensorDataset(X, Y.to(torch.uint8)),
    "(N, 1)": TensorDataset(X, Y[:, None]),
    "three tensors": TensorDataset(X, Y, torch.arange(60)),
    "python ints": Items(lambda i: (X[i], int(Y[i]))),
    "numpy": Items(lambda i: (X[i], np.int32(Y[i]))),
    "arrays of one": Items(lambda i: (X[i], Y[i : i + 1].numpy())),
    "with an index": Items(lambda i: (X[i], int(Y[i]), i)),
    "with a file name": Items(lambda i: (X[i], int(Y[i]), f"{i}.jpg")),
    "dict of shape (1,)": Items(lambda i: {"input": X[i], "labels": Y[i : i + 1]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_items_trains_as_the_plain_one(form: str) -> None:
    def trained(data: Dataset[Any]) -> Tensor:
        model = net()
        result = LiPTWarmStart(**WARM).fit(model, data, data)
        chosen = select("gradmatch", result.gradients(data), 21)
        done = train_on_subset(
            model, data, chosen, val_dataset=data, epochs=2, batch_size=8, device="cpu"
        )
        assert done.val_accuracy is not None
        return weights(model)

    assert trained(FORMS[form]).equal(trained(TensorDataset(X, Y)))


def test_truth_values_are_two_classes() -> None:
    data = TensorDataset(X, Y > 0)
    model = net()
    result = LiPTWarmStart(**WARM).fit(model, data, data)
    chosen = select("random", result.gradients(data), 20)
    assert train_on_subset(model, data, chosen, epochs=1, device="cpu").val_accuracy is None


@pytest.mark.parametrize("size", [8, 9, 17, 1])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_single_sample_left_over_joins_the_batch_before_it(size: int, workers: int) -> None:
    chosen = select("random", Y, size)
    loader = SubsetLoader(TensorDataset(X, Y), chosen, batch_size=8, num_workers=workers)
    epoch, steps = without_single_last(loader)
    batches = list(epoch)
    assert len(batches) == steps
    joined = [8] * (size // 8 - 1) + [9] if size > 8 and size % 8 == 1 else [min(size, 8)]
    assert [len(x) for x, _, _ in batches] == joined
    loader.set_epoch(0)
    plain = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for part, (one, other) in enumerate(zip(zip(*batches, strict=True), plain, strict=True)):
        assert torch.cat(one).equal(other), part


def test_batchnorm_trains_whatever_is_left_over() -> None:
    data = Items(lambda i: (X[i], int(Y[i]), f"{i}.jpg"))
    for size in (17, 33, 49):
        model = net(nn.BatchNorm1d(8))
        done = train_on_subset(model, data, range(size), epochs=2, batch_size=16, device="cpu")
        assert done.costs.training_passes == 2 * size
    named, _ = without_single_last(SubsetLoader(data, select("random", Y, 17), batch_size=16))
    (batch,) = list(named)
    assert len(batch[2]) == 17 and batch[2][0].endswith(".jpg")


def mean_of(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels)


def one_by_one(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


LOSSES = {
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.3),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 25.0])),
    "no reduction": nn.CrossEntropyLoss(label_smoothing=0.3, reduction="none"),
    "binary": nn.BCEWithLogitsLoss(),
    "margin": nn.MultiMarginLoss(),
    "a mean": mean_of,
    "one by one": one_by_one,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_serves_all_and_the_fits_is_remembered(name: str) -> None:
    loss, data, model = LOSSES[name], TensorDataset(X, Y), net()
    result = LiPTWarmStart(**WARM).fit(model, data, loss=loss)
    own = result.gradients(data).logit_grads
    meant = last_layer_gradients(result.model(), data, loss=loss).logit_grads
    torch.testing.assert_close(own, meant)
    done = train_on_subset(model, data, range(20), loss=loss, epochs=2, batch_size=8, device="cpu")
    assert done.curve[-1].train_loss is not None


@pytest.mark.parametrize("name", ["a mean", "one by one"])
def test_reduction_changes_no_gradient(name: str) -> None:
    model, data = net(), TensorDataset(X, Y)
    plain = last_layer_gradients(model, data).logit_grads
    torch.testing.assert_close(
        last_layer_gradients(model, data, loss=LOSSES[name]).logit_grads, plain
    )


def test_a_loss_of_another_shape_is_refused() -> None:
    def pairs(logits: Tensor, labels: Tensor) -> Tensor:
        return logits - 1.0

    with pytest.raises(ValueError, match=r"one value a sample, shape \(8,\); it returned \(8, 3\)"):
        train_on_subset(net(), TensorDataset(X, Y), range(16), loss=pairs, batch_size=8, epochs=1)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_nets_of_every_precision_train(kind: torch.dtype) -> None:
    data = TensorDataset(X.to(kind), Y)
    model = net().to(kind)
    chosen = select("gradmatch", last_layer_gradients(model, data), 20)
    before = weights(model)
    train_on_subset(model, data, chosen, epochs=2, batch_size=8, lr=0.05, device="cpu")
    assert next(model.parameters()).dtype == kind
    assert torch.isfinite(weights(model)).all() and not weights(model).equal(before)
    if kind == torch.float64:
        exact = net()
        train_on_subset(
            exact, TensorDataset(X, Y), chosen, epochs=2, batch_size=8, lr=0.05, device="cpu"
        )
        torch.testing.assert_close(weights(exact), weights(model), rtol=1e-3, atol=1e-4)
