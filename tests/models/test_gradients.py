from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.source import BatchSource
from lipt_cords.models.build import build_model
from lipt_cords.models.gradients import (
    HeadGradient,
    LastLayerGradients,
    gradient_gains,
    last_layer_gradients,
)
from lipt_cords.models.heads import find_head
from lipt_cords.selectors.base import select

LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "none": None,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "mse": nn.MSELoss(),
    "multi-margin": nn.MultiMarginLoss(reduction="sum"),
    "function": lambda z, y: nn.functional.cross_entropy(z, y, reduction="none").square(),
}


def oracle_loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a batch of one sample, written independently."""
    if name == "mse":
        return nn.functional.mse_loss(logits, torch.eye(logits.shape[1])[labels])
    loss = LOSSES[name] or nn.CrossEntropyLoss()
    return loss(logits, labels).sum()


def small_net(width: int, classes: int, *, bias: bool, seed: int) -> nn.Module:
    draws = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.5),
        nn.Linear(width, classes, bias=bias),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=draws))
    return model.train()


def problem(count: int, classes: int, seed: int = 0) -> TensorDataset:
    draws = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(count, 3, generator=draws)
    return TensorDataset(x, torch.randint(0, classes, (count,), generator=draws))


def autograd_gradients(model: nn.Module, data: TensorDataset, name: str) -> tuple[Tensor, Any]:
    """Per-sample gradients of the head's own parameters, one backward pass a sample."""
    model = copy.deepcopy(model).eval()
    head = model[-1]
    weights, biases = [], []
    for x, y in data:
        model.zero_grad()
        oracle_loss(name, model(x[None]), y[None]).backward()
        weights.append(head.weight.grad.clone())
        biases.append(None if head.bias is None else head.bias.grad.clone())
    return torch.stack(weights), None if biases[0] is None else torch.stack(biases)


def dense(gradients: LastLayerGradients, linear_layer: bool = True) -> Tensor:
    outer = torch.einsum("nc,ne->nce", gradients.logit_grads, gradients.embeddings).flatten(1)
    parts = [gradients.logit_grads, outer] if linear_layer else [gradients.logit_grads]
    return torch.cat(parts, dim=1)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    count=st.integers(1, 7),
    width=st.integers(1, 6),
    classes=st.integers(2, 5),
    bias=st.booleans(),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 100),
)
def test_factors_equal_autograd(name, count, width, classes, bias, batch_size, seed):
    model = small_net(width, classes, bias=bias, seed=seed)
    data = problem(count, classes, seed)
    head = str(len(model) - 1)
    ours = last_layer_gradients(model, data, loss=LOSSES[name], head=head, batch_size=batch_size)
    weights, biases = autograd_gradients(model, data, name)
    outer = torch.einsum("nc,ne->nce", ours.logit_grads, ours.embeddings)
    torch.testing.assert_close(outer, weights, atol=1e-5, rtol=1e-4)
    if biases is not None:
        torch.testing.assert_close(ours.logit_grads, biases, atol=1e-5, rtol=1e-4)


def test_class_weights_multiply_the_samples_losses():
    model, data = small_net(4, 3, bias=True, seed=0), problem(9, 3)
    weight = torch.tensor([1.0, 0.0, 3.0])
    plain = last_layer_gradients(model, data)
    weighted = last_layer_gradients(model, data, loss=nn.CrossEntropyLoss(weight=weight))
    expected = plain.logit_grads * weight[plain.labels][:, None]
    torch.testing.assert_close(weighted.logit_grads, expected)


def test_nothing_of_the_model_the_loss_or_the_random_state_changes():
    model, data = small_net(4, 3, bias=True, seed=0), problem(9, 3)
    model[3].eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    rng = torch.get_rng_state()
    gradients = last_layer_gradients(model, data, loss=loss)
    assert torch.equal(rng, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert loss.reduction == "mean"
    assert not gradients.logit_grads.requires_grad and not gradients.embeddings.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_batch_size_and_residence_change_rounding_alone():
    splits = load_dataset("digits", limit=100)
    model = build_model("cnn", 10, in_channels=1)
    whole = last_layer_gradients(model, splits.train)
    for batch_size in (1, 7, 100):
        parts = last_layer_gradients(model, BatchSource(splits.train), batch_size=batch_size)
        torch.testing.assert_close(parts.logit_grads, whole.logit_grads, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(parts.embeddings, whole.embeddings, atol=1e-6, rtol=1e-5)
    assert torch.equal(whole.labels, splits.train.labels)
    assert whole.logit_grads.shape == (100, 10) and whole.embeddings.shape == (100, 192)
    assert (whole.num_classes, whole.embedding_dim, len(whole)) == (10, 192, 100)
    assert whole.nbytes == 100 * (10 + 192 + 10) * 4 + 100 * 8


@pytest.mark.parametrize("resident", [False, True])
def test_indices_choose_and_order(resident):
    model, data = small_net(4, 3, bias=True, seed=0), problem(9, 3)
    source: Any = BatchSource(data) if resident else data
    indices = [7, 1, 1, 4]
    some = last_layer_gradients(model, source, indices=indices, batch_size=3)
    subset = last_layer_gradients(model, data).subset(indices)
    torch.testing.assert_close(some.logit_grads, subset.logit_grads)
    assert torch.equal(some.labels, subset.labels)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[[1, 4]] = True
    picked = last_layer_gradients(model, data).subset(mask)
    torch.testing.assert_close(picked.embeddings, subset.embeddings[[1, 3]])


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_factored_algebra_equals_the_dense_one(count, other_count, classes, width, linear_layer):
    draws = torch.Generator().manual_seed(count * 100 + width)

    def random_gradients(n: int) -> LastLayerGradients:
        return LastLayerGradients(
            torch.randn(n, classes, generator=draws),
            torch.randn(n, width, generator=draws),
            torch.randint(0, classes, (n,), generator=draws),
            torch.randn(n, classes, generator=draws),
        )

    one, two = random_gradients(count), random_gradients(other_count)
    full, other = dense(one, linear_layer), dense(two, linear_layer)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(one.inner(two, linear_layer=linear_layer), full @ other.T, **close)
    torch.testing.assert_close(one.gram(linear_layer=linear_layer), full @ full.T, **close)
    torch.testing.assert_close(one.norms(linear_layer=linear_layer), full.norm(dim=1), **close)
    mean = two.mean()
    flat = torch.cat((mean.bias, mean.weight.flatten()))
    torch.testing.assert_close(flat, dense(two).mean(dim=0), **close)
    gains = gradient_gains(one.logit_grads, one.embeddings, mean)
    torch.testing.assert_close(gains, dense(one) @ flat, **close)
    first = two.mean([0])
    torch.testing.assert_close(first.weight.flatten(), dense(two)[0, classes:], **close)


def test_correct_compares_argmax_with_labels():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    gradients = LastLayerGradients(logits, logits, torch.tensor([1, 1]), logits)
    assert gradients.correct().tolist() == [True, False]


def test_the_mean_of_nothing_is_refused():
    gradients = last_layer_gradients(small_net(4, 3, bias=True, seed=0), problem(5, 3))
    with pytest.raises(ValueError, match="mean gradient of no sample"):
        gradients.mean([])
    assert isinstance(gradients.mean([0, 1]), HeadGradient)


def test_dict_data_and_models_with_a_hidden_linear_layer():
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.score = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"logits": self.score(self.hidden(left + right).relu())}

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            x = torch.full((3,), float(index))
            return {"left": x, "right": -2 * x, "labels": index % 2}

    model = Pairs()
    gradients = last_layer_gradients(model, Rows(), batch_size=2)
    x = -torch.arange(5.0)[:, None].expand(5, 3)
    torch.testing.assert_close(gradients.embeddings, model.hidden(x).relu().detach())
    assert gradients.labels.tolist() == [0, 1, 0, 1, 0]


def test_nan_inputs_are_named_by_their_place_in_the_data():
    model, data = small_net(4, 3, bias=True, seed=0), problem(30, 3)
    data.tensors[0][[4, 17]] = torch.tensor([[float("nan")] * 3, [float("inf"), 0, 0]])
    with pytest.raises(ValueError, match=r"1 of 30 samples have NaN or infinite .*samples 4\)"):
        last_layer_gradients(model, data)  # tanh makes an infinite input finite
    with pytest.raises(ValueError, match=r"1 of 3 .*samples 4\)"):
        last_layer_gradients(model, data, indices=[2, 4, 6])
    with torch.no_grad():
        model[-1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"30 of 30 .*samples 0, 1, .*9, \.\.\.\)"):
        last_layer_gradients(model, data, head="4")


def test_a_loss_that_gives_nan_is_named_and_large_numbers_are_none():
    model, data = small_net(4, 3, bias=True, seed=0), problem(6, 3)

    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        factors = torch.tensor([1, 1, float("nan"), 1, 1, 1])
        return nn.functional.cross_entropy(logits, labels, reduction="none") * factors

    with pytest.raises(ValueError, match=r"1 of 6 .*infinite gradients \(samples 2\)"):
        last_layer_gradients(model, data, loss=broken)
    head = nn.Linear(3, 3)  # each finite, their sum is not
    huge = TensorDataset(torch.full((1, 3), 2e38), torch.tensor([0]))
    with torch.no_grad():
        head.weight.fill_(1e-3)
    assert last_layer_gradients(head, huge).embeddings.sum().isinf()


@pytest.mark.parametrize("resident", [True, False])
def test_a_mask_is_no_list_of_zeros_and_ones(resident):
    model, data = small_net(4, 3, bias=True, seed=0), problem(9, 3)
    mask = data.tensors[1] == 1
    source = BatchSource(data) if resident else data
    masked = last_layer_gradients(model, source, indices=mask)
    assert torch.equal(masked.logits, last_layer_gradients(model, data).logits[mask])
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 9\)"):
        last_layer_gradients(model, source, indices=[-1])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_head_are_named(label):
    data = problem(6, 3)
    data.tensors[1][5] = label
    with pytest.raises(ValueError, match=rf"\[0, 3\).*sample 5 has {label}"):
        last_layer_gradients(small_net(4, 3, bias=True, seed=0), data)


def test_other_bad_input_is_refused():
    model, data = small_net(4, 3, bias=True, seed=0), problem(6, 3)
    empty = TensorDataset(torch.ones(0, 3), torch.ones(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="the data set is empty"):
        last_layer_gradients(model, empty)
    with pytest.raises(ValueError, match="the data set is empty"):
        last_layer_gradients(model, BatchSource(data), indices=[])
    with pytest.raises(ValueError, match="has no linear head"):
        last_layer_gradients(nn.Identity(), data)
    with pytest.raises(ValueError, match="must return one value a sample.*reduction='none'"):
        last_layer_gradients(model, data, loss=lambda logits, labels: logits.square())
    with pytest.raises(ValueError, match="returns .6, 3., the head .6, 4."):
        last_layer_gradients(model, data, head="0")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        last_layer_gradients(model, data, device="tpu")
    scaled = nn.Sequential(model, nn.Softmax(dim=1))
    with pytest.raises(ValueError, match="changes the output of the head '0.4'"):
        last_layer_gradients(scaled, data, head="0.4")


def test_a_module_loss_without_reduction_is_called_as_it_is():
    class Focal(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            loss = nn.functional.cross_entropy(logits, labels, reduction="none")
            return (1 - torch.exp(-loss)) ** 2 * loss

    model, data = small_net(4, 3, bias=True, seed=0), problem(6, 3)
    gradients = last_layer_gradients(model, data, loss=Focal())
    plain = last_layer_gradients(model, data)
    assert (gradients.norms() < plain.norms()).any()
    leaf = plain.logits.clone().requires_grad_()
    Focal()(leaf, plain.labels).sum().backward()
    torch.testing.assert_close(gradients.logit_grads, leaf.grad)


def test_the_head_of_every_small_net_is_found_with_its_data():
    splits = load_dataset("digits", limit=20)
    for name in ("cnn", "resnet8"):
        model = build_model(name, 10, in_channels=1, image_size=8)
        gradients = last_layer_gradients(model, splits.train)
        assert gradients.embedding_dim == find_head(model).module.in_features
        expected = gradients.logits.softmax(dim=1)
        expected[torch.arange(20), gradients.labels] -= 1
        assert torch.equal(gradients.logit_grads, expected)


def test_indices_of_the_data_set_are_carried_through_to_the_selection() -> None:
    """Else a loader reads other samples: positions in a part were taken for indices."""
    data = TensorDataset(torch.randn(100, 4), torch.arange(100) % 2)
    candidates = torch.arange(60, 100)
    model = nn.Linear(4, 2)
    part = last_layer_gradients(model, data, indices=candidates)
    assert part.indices is not None and part.indices.equal(candidates)
    for one in (part, last_layer_gradients(model, data).subset(candidates)):
        for name in ("random", "gradmatch", "craig", "grand", "importance"):
            chosen = select(name, one, 10)
            assert set(chosen.indices.tolist()) <= set(candidates.tolist())
            labels = data.tensors[1][chosen.indices]
            assert labels.bincount().tolist() == [5, 5]
    some = part.subset([3, 1]).subset(torch.tensor([False, True]))
    assert some.indices is not None and some.indices.tolist() == [61]
    assert last_layer_gradients(model, data).indices is None
    assert part.subset([3, 3]).indices is None
