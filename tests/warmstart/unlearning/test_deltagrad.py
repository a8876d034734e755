"""DeltaGrad: dense BFGS, retraining, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import TensorDataset

from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.warmstart.unlearning.deltagrad import DeltaGrad
from lipt_cords.warmstart.unlearning.lbfgs import CompactHessian
from lipt_cords.warmstart.unlearning.replay import FAR

DRAWS = torch.Generator().manual_seed(0)
X = torch.randn(1200, 12, generator=DRAWS)
Y = (X @ torch.randn(12, 3, generator=DRAWS) + torch.randn(1200, 3, generator=DRAWS)).argmax(1)
DATA = TensorDataset(X, Y)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny products, for which threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def head() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(12, 3)


def trained(**options: Any) -> DeltaGrad:
    given = {"epochs": 30, "batch_size": 600, "lr": 0.5, "l2": 1e-2}
    return DeltaGrad(options.pop("model", head()), DATA, **{**given, **options})


def dense_bfgs(steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The BFGS matrix by its recurrence, from sigma I."""
    sigma = (changes[-1] @ steps[-1]) / (steps[-1] @ steps[-1])
    matrix = sigma * torch.eye(len(steps[0]), dtype=torch.float64)
    for s, y in zip(steps, changes, strict=True):
        moved = matrix @ s
        matrix = matrix - torch.outer(moved, moved) / (s @ moved) + torch.outer(y, y) / (y @ s)
    return matrix


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
def test_products_are_those_of_dense_bfgs(seed: int, size: int, memory: int, pairs: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=draws, dtype=torch.float64)
    curved = root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)
    hessian, steps, changes = CompactHessian(memory), [], []
    for _ in range(pairs):
        s = torch.randn(size, generator=draws, dtype=torch.float64)
        assert hessian.add(s, curved @ s)
        steps.append(s)
        changes.append(curved @ s)
    kept = slice(-memory, None)
    if memory > size:
        return  # more pairs than directions: the middle matrix is singular
    vector = torch.randn(size, generator=draws, dtype=torch.float64)
    expected = dense_bfgs(steps[kept], changes[kept]) @ vector
    torch.testing.assert_close(hessian.product(vector), expected, rtol=1e-6, atol=1e-6)


def test_pairs_without_curvature_are_passed_over() -> None:
    hessian, ones = CompactHessian(), torch.ones(3, dtype=torch.float64)
    assert not hessian.add(ones, -ones) and not hessian.add(0 * ones, ones) and len(hessian) == 0
    with pytest.raises(ValueError, match="at least one pair"):
        hessian.product(ones)


def test_the_training_is_plain_sgd() -> None:
    delta, net = trained(), head().double()
    sgd = torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=1e-2)
    for batch in delta.batches:
        sgd.zero_grad()
        nn.functional.cross_entropy(net(X[batch].double()), Y[batch]).backward()
        sgd.step()
    mine = delta.apply_to(head().double())
    torch.testing.assert_close(mine.weight, net.weight, rtol=1e-9, atol=1e-12)


@settings(max_examples=20)
@given(st.sets(st.integers(0, 1189), min_size=1, max_size=40))
def test_a_period_of_one_is_retraining(gone: set[int]) -> None:
    delta = trained(period=1, epochs=4, start_with=range(1190)).remove(sorted(gone))
    delta.add(range(1190, 1195))
    distance = delta.distance()
    assert distance.to_retraining == 0.0 < distance.of_change
    assert 7 <= delta.last.explicit <= delta.last.steps == 8  # the first one may be as it was


@pytest.mark.parametrize("count", [1, 12])
def test_replayed_weights_are_near_those_of_retraining(count: int) -> None:
    removed = trained().remove(range(count))
    added = trained(start_with=range(1200 - count)).add(range(1200 - count, 1200))
    for delta in (removed, added):
        distance = delta.distance()
        assert distance.to_retraining < distance.of_change / 10
        assert delta.last.explicit < delta.last.steps / 2
        assert delta.last.sample_gradients < delta.last.retraining_gradients / 2


def test_many_requests_one_after_the_other() -> None:
    delta = trained()
    for sample in range(100):
        delta.remove([sample])
    distance = delta.distance()
    assert distance.to_retraining < distance.of_change / 10
    assert int(delta.present.sum()) == 1100
    with pytest.raises(ValueError, match="sample 7 is not trained on, or is gone already"):
        delta.remove([7])
    delta.add([7])
    assert bool(delta.present[7]) and delta.distance().ratio < 0.1


def test_errors_of_one_request_do_not_go_into_the_next() -> None:
    nets = [head() for _ in range(2)]
    trained().remove(range(30)).apply_to(nets[0])
    delta = trained()
    for sample in range(30):
        delta.remove([sample])
    delta.apply_to(nets[1])
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_samples_that_came_can_go_again() -> None:
    delta = trained(start_with=range(1000))
    first = delta.apply_to(head()).weight.clone()
    delta.add(range(1000, 1010)).remove(range(1000, 1010))
    assert torch.equal(delta.apply_to(head()).weight, first)
    assert delta.distance().to_retraining == 0.0 and delta.last.sample_gradients == 0


def test_batches_that_lose_everything_are_passed_over() -> None:
    delta = trained(batch_size=3, epochs=1, start_with=range(9), burn_in=0)
    gone = delta.batches[1].clone()
    delta.remove(gone)
    assert len(delta.batches[1]) == 0
    assert delta.distance().ratio == 0.0
    delta.remove(delta.batches[0][:1])
    delta.add(gone)  # a batch that was empty can be filled again
    assert delta.distance().ratio < 0.1


def test_a_small_net_is_replayed_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    net[0].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    delta = trained(model=net, lr=0.2)
    delta.remove(range(5))
    distance = delta.distance()
    assert distance.to_retraining < distance.of_change / 2
    fitted = delta.apply_to(copy.deepcopy(net))
    assert torch.equal(fitted[0].bias, before["0.bias"])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_head_on_frozen_embeddings() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    gradients = last_layer_gradients(net, DATA)
    options = {"epochs": 100, "batch_size": 600, "lr": 0.5}
    delta = DeltaGrad.on_head(gradients, **options).remove([1, 2])
    fitted, untrained = delta.apply_to(nn.Linear(6, 3)), nn.Linear(6, 3)
    losses = [nn.functional.cross_entropy(h(gradients.embeddings), Y) for h in (fitted, untrained)]
    assert losses[0] < 0.9 * losses[1]
    assert delta.distance().to_retraining < delta.distance().of_change / 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"momentum": 0.9}, "replays only plain SGD"), ({"optimizer": "adam"}, "or Adam"),
        ({"model": nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))},
         "BatchNorm1d .*on_head"),
        ({"model": nn.Sequential(nn.Dropout(), nn.Linear(12, 3))}, "Dropout"),
        ({"max_cache": 1000}, "the cache of 60 steps of 39 weights"),
        ({"period": 0}, "period must"), ({"lr": float("nan")}, "lr must"),
        ({"burn_in": 2.5}, "burn_in must"), ({"lr": float("inf")}, "lr must"),
        ({"l2": None}, "l2 must"), ({"max_cache": "1KiB"}, "1 KiB|1.00 KiB may be used"),
        ({"start_with": [3, 3]}, "named twice"), ({"start_with": "x"}, "whole numbers"),
        ({"lr": 1e300}, "training diverged"),
        ({"lr": 0.0}, "lr must"), ({"epochs": 1.5}, "epochs must"),
        ({"start_with": []}, "at least one sample"), ({"memory": True}, "memory must"),
    ],
)  # fmt: skip
def test_what_it_does_not_cover_is_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trained(**options)


@pytest.mark.parametrize(
    ("indices", "words"),
    [([5000], "must lie in"), ([1, 1], "named twice"), ([], "at least one"), ("x", "whole numbers"),
     (range(1200), "leave at least one")],
)  # fmt: skip
def test_bad_requests_change_nothing(indices: Any, words: str) -> None:
    delta = trained(epochs=2)
    before = delta.retrained()
    with pytest.raises(ValueError, match=words):
        delta.remove(indices)
    with pytest.raises(ValueError, match="trained on already"):
        delta.add([3])
    assert (
        torch.equal(before, delta.retrained()) and delta.last is None and bool(delta.present.all())
    )
    with pytest.raises(ValueError, match="do not fit"):
        delta.apply_to(nn.Linear(3, 3))


def test_where_most_has_changed_it_retrains() -> None:
    delta = trained().remove(range(900))
    assert delta.distance().ratio == 0.0
    assert delta.last.explicit == delta.last.steps
    assert delta.last.sample_gradients == delta.last.retraining_gradients
    short = trained(epochs=5).remove([1])  # its ten steps are all within the burn-in
    assert short.last.sample_gradients == short.last.retraining_gradients


class CtrlC(TorchFunctionMode):
    """Ctrl-C at some operation of torch.

    Args:
        at: how many are done before it; None never stops, and counts.
    """

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.done = at, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.done == self.at:
            raise KeyboardInterrupt
        self.done += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_an_interrupted_request_changes_nothing(share: float) -> None:
    delta, other = trained(epochs=4), trained(epochs=4)
    with CtrlC(None) as counted:
        expected = other.remove([7])
    with pytest.raises(KeyboardInterrupt), CtrlC(int(share * counted.done)):
        delta.remove([7])
    assert bool(delta.present.all()) and delta.last is None
    delta.remove([7])
    assert torch.equal(delta.apply_to(head()).weight, expected.apply_to(head()).weight)


def test_rebasing_lets_go_of_what_was_removed() -> None:
    delta = trained().remove([3, 8])
    anew = delta.retrained()
    delta.rebase()
    assert delta.distance().of_change == 0.0 and torch.equal(delta.retrained(), anew)
    assert not delta.inputs[[3, 8]].any() and bool(delta.inputs[4].any())
    with pytest.raises(ValueError, match="sample 8 was erased"):
        delta.add([8])
    delta.remove([4])
    assert delta.distance().ratio < 0.1
    assert delta.last.sample_gradients < delta.last.retraining_gradients / 2
    delta.add([4])
    assert delta.distance().to_retraining < 1e-3


def test_a_batch_that_was_rebased_away_can_be_filled_again() -> None:
    delta = trained(batch_size=400, epochs=20, start_with=range(1000))
    gone = delta.batches[0]
    delta.remove(gone).rebase()
    assert len(delta.batches[0]) == 0
    delta.add(range(1000, 1012))
    assert delta.distance().ratio < 0.1
    assert sum(1000 in batch.tolist() for batch in delta.batches) == 20


def test_bad_predictions_are_computed_or_told(caplog: pytest.LogCaptureFixture) -> None:
    wide = TensorDataset(20 * X, Y)
    options: dict[str, Any] = {"epochs": 100, "batch_size": 600, "lr": 0.02, "l2": 1e-3}
    delta = DeltaGrad(head(), wide, **options).remove(range(12))
    assert delta.distance().ratio > 0.1 and delta.last.drift > FAR
    assert "may be far from retraining" in caplog.text
    caplog.clear()
    strict = DeltaGrad(head(), wide, **options, tolerance=0.1).remove(range(12))
    assert strict.distance().ratio < 0.01 and not caplog.text
    near = trained().remove(range(12))
    assert 0 < near.last.drift < FAR and not caplog.text


@pytest.mark.parametrize(
    ("net", "data", "words"),
    [
        (nn.Linear(5, 3), DATA, r"inputs of shape \(12,\)"),
        (nn.Linear(12, 2), DATA, "labels reach from 0 to 2, and the model has 2 outputs"),
        (nn.Flatten(0), DATA, "one row of class scores"),
        (nn.Linear(12, 3), TensorDataset(X / 0, Y), "inputs of sample 0 are not finite"),
    ],
)
def test_samples_that_the_net_cannot_read_are_refused(net: Any, data: Any, words: str) -> None:
    if not list(net.parameters()):
        net = nn.Sequential(nn.Linear(12, 3), net)
    with pytest.raises(ValueError, match=words):
        DeltaGrad(net, data)


def test_dropout_hidden_in_a_forward_pass_is_found() -> None:
    class Hidden(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), 0.5, self.training)

    with pytest.raises(ValueError, match="two outputs for one input"):
        DeltaGrad(Hidden(12, 3), DATA)


def test_heads_need_gradients_and_draw_nothing() -> None:
    with pytest.raises(ValueError, match="TensorDataset of your own embeddings"):
        DeltaGrad.on_head(X)
    gradients = last_layer_gradients(nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 3)), DATA)
    before = torch.get_rng_state()
    DeltaGrad.on_head(gradients, epochs=2)
    assert torch.equal(before, torch.get_rng_state())
