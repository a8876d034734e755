"""Muon against torch's own, SGD and AdamW on the rest, and which weights are matrices."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart
from lipt_cords.models import build_model
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.training import train_on_subset
from lipt_cords.training.muon import ITERATIONS, NEWTON_SCHULZ, Muon, Rest, orthogonalised
from lipt_cords.training.optimizers import OptimizerConfig, build_optimizer
from lipt_cords.warmstart.config import WarmStartConfig


def _weights(*shapes: tuple[int, ...], seed: int = 0) -> list[nn.Parameter]:
    draws = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draws)) for shape in shapes]


def _steps(optimizers, weights, count=4, seed=1):
    """The same gradients for several lists of weights; each list's optimizer takes steps."""
    draws = torch.Generator().manual_seed(seed)
    for _ in range(count):
        gradients = [torch.randn(one.shape, generator=draws) for one in weights[0]]
        for optimizer, ours in zip(optimizers, weights, strict=True):
            for one, gradient in zip(ours, gradients, strict=True):
                one.grad = gradient.clone()
            optimizer.step()


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_matrices_move_as_by_torchs_muon(shape: tuple[int, int]) -> None:
    ours, theirs = _weights(shape, shape), _weights(shape, shape)
    before = ours[0].detach().clone()
    mine = Muon(ours, [], lr=0.1, momentum=0.7, weight_decay=0.2, precision=torch.bfloat16)
    torchs = torch.optim.Muon(
        theirs, lr=0.1, momentum=0.7, weight_decay=0.2, ns_steps=3, adjust_lr_fn="original"
    )
    _steps([mine, torchs], [ours, theirs])
    moved = (theirs[0] - before).norm()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.03 * moved  # eight bits, a dozen products


def test_singular_values_move_towards_one_and_vectors_stay() -> None:
    draws = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 6, 4, generator=draws, dtype=torch.float64)
    made = orthogonalised(matrices)
    for before, after in zip(matrices, made, strict=True):
        left, values, right = torch.linalg.svd(before, full_matrices=False)
        inside = left.T @ after @ right.T
        assert torch.allclose(inside, torch.diag(inside.diag()), atol=1e-12)
        spread = inside.diag().max() / inside.diag().min()
        assert spread < values.max() / values.min() and float(inside.diag().min()) > 0.3
    assert torch.equal(orthogonalised(torch.zeros(2, 3)), torch.zeros(2, 3))
    tiny, huge = torch.full((2, 2), 1e-30), torch.full((2, 2), 1e30)
    assert torch.allclose(orthogonalised(tiny), orthogonalised(huge))


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 9), st.booleans(), st.integers(0, 5))
def test_wide_matrices_move_through_their_gram_matrix_as_step_by_step(
    short: int, longer: int, rank: int, tall: bool, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    shapes = (2, short, rank), (2, rank, short + longer)
    left, right = (torch.randn(one, generator=draws, dtype=torch.float64) for one in shapes)
    matrices = left @ right
    values = matrices / torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = values @ values.mT
        values = a * values + (b * gram + c * gram @ gram) @ values
    given = matrices.mT if tall else matrices
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        made = orthogonalised(given.to(dtype))
        assert torch.allclose((made.mT if tall else made).double(), values, atol=error)
    halved = orthogonalised(given.float(), torch.bfloat16)
    assert float(torch.linalg.matrix_norm(halved, 2).max()) < 1.25  # 1.21 in exact arithmetic


@given(st.integers(1, 4), st.booleans(), st.sampled_from([(6, 4), (4, 3, 3, 3), (7, 2, 5), (3, 9)]))
def test_a_batch_of_matrices_and_stacked_nets_move_like_single_ones(count, stacked, shape) -> None:
    single = [_weights(shape, seed=number) for number in range(count)]
    alone = [Muon(ours, []) for ours in single]
    if stacked:
        many = [nn.Parameter(torch.stack([ours[0].detach() for ours in single]))]
    else:
        many = [nn.Parameter(ours[0].detach().clone()) for ours in single]
    together = Muon(many, [], stacked=stacked)
    draws = torch.Generator().manual_seed(2)
    for _ in range(3):
        gradients = torch.randn(count, *shape, generator=draws)
        for optimizer, ours, gradient in zip(alone, single, gradients, strict=True):
            ours[0].grad = gradient.clone()
            optimizer.step()
        for one, gradient in zip(many, [gradients] if stacked else gradients, strict=True):
            one.grad = gradient.clone()
        together.step()
    made = many[0].unbind() if stacked else many
    for one, (other,) in zip(made, single, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("rest", ["sgd", "adamw"])
def test_the_rest_moves_as_by_torchs_optimizer(rest: Rest) -> None:
    shapes = (3,), (4, 2)
    ours, theirs = _weights(*shapes), _weights(*shapes)
    mine = Muon(_weights((2, 2)), ours, rest=rest, rest_lr=0.1, rest_weight_decay=0.01)
    if rest == "sgd":
        torchs: torch.optim.Optimizer = torch.optim.SGD(
            theirs, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
        )
    else:
        torchs = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01)
    _steps([mine, torchs], [ours, theirs])
    assert all(map(torch.equal, ours, theirs))


def test_a_stored_state_continues_with_the_same_bits_and_a_missing_gradient_moves_nothing() -> None:
    def made(weights):
        return Muon(weights[:1], weights[1:], rest="adamw")

    weights = _weights((4, 3), (3,))
    optimizer = made(weights)
    _steps([optimizer], [weights], 2)
    copies = copy.deepcopy(weights)
    again = made(copies)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _steps([optimizer, again], [weights, copies], 2)
    assert all(map(torch.equal, weights, copies))
    still = weights[0].detach().clone()
    weights[0].grad, weights[1].grad = None, torch.ones(3)
    optimizer.step()
    assert torch.equal(weights[0], still) and not torch.equal(weights[1], copies[1])


class _Text(nn.Module):
    """Embeddings with a tied head, attention, a recurrent layer, a position parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.places = nn.Parameter(torch.zeros(5, 8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.memory = nn.GRU(8, 8)
        self.norm = nn.LayerNorm((5, 8))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.scale = nn.Linear(8, 1)
        self.head = nn.Linear(8, 9)
        self.head.weight = self.words.weight


def test_hidden_matrices() -> None:
    net = build_model("resnet8", 10, in_channels=3, image_size=32)
    names = {id(one): name for name, one in net.named_parameters()}
    found = [names[id(one)] for one in hidden_matrices(net)]
    assert found == [name for name, one in net.named_parameters() if one.ndim == 4]
    text = _Text()
    names = {id(one): name for name, one in text.named_parameters()}
    assert {names[id(one)] for one in hidden_matrices(text)} == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "memory.weight_ih_l0",
        "memory.weight_hh_l0",
    }
    two = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 3))
    assert hidden_matrices(two, head="1")[1] is two[2].weight


def test_defaults_follow_the_optimizer() -> None:
    for made in (WarmStartConfig(optimizer="muon"), OptimizerConfig(type="muon")):
        assert (made.lr, made.momentum, made.weight_decay) == (0.03, 0.6, 0.0)
    assert (WarmStartConfig().lr, OptimizerConfig().lr, OptimizerConfig(type="adamw").lr) == (
        0.03, 0.05, 1e-3,
    )  # fmt: skip
    sgd, own = WarmStartConfig(optimizer="sgd"), OptimizerConfig()
    assert (sgd.lr, sgd.momentum, sgd.weight_decay) == (own.lr, own.momentum, own.weight_decay)
    assert WarmStartConfig(optimizer="muon", lr=0.2).lr == 0.2
    assert OptimizerConfig(type="muon", rest="adamw").head_lr == 1e-3
    for kind, options in (
        (WarmStartConfig, {"optimizer": "sgd", "rest_lr": 1.0}),
        (OptimizerConfig, {"rest": "adamw"}),
    ):
        with pytest.raises(ValueError, match="option of optimizer 'muon'"):
            kind(**options)


def _data(count: int = 48) -> TensorDataset:
    draws = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=draws), torch.arange(count) % 4)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def test_a_model_without_matrices_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ValueError, match="no hidden weight matrix"):
        LiPTWarmStart(optimizer="muon", num_workers=2, progress=False).fit(flat, _data())
    with pytest.raises(ValueError, match="no hidden weight matrix"):
        train_on_subset(flat, _data(), range(8), optimizer="muon", epochs=1)


def test_a_subset_trains_with_it() -> None:
    net = _net()
    train_on_subset(net, _data(), range(40), optimizer={"type": "muon", "lr": 0.1}, epochs=2)
    other = _net()
    train_on_subset(other, _data(), range(40), optimizer="muon", lr=0.1, epochs=2)
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))
    built = build_optimizer(net, OptimizerConfig(type="muon"))
    assert [len(group["params"]) for group in built.param_groups] == [2, 6]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_ticket_keeps_the_momentum_of_each_group(optimizer: str) -> None:
    net = _net()
    result = train_on_subset(
        net, _data(), range(48), optimizer=optimizer, epochs=4, batch_size=8,
        early_bird={"ratio": 0.34},
    )  # fmt: skip
    first, last = result.curve[1].train_loss, result.curve[-1].train_loss
    assert first is not None and last is not None and last < first


FIT = {
    "num_workers": 2, "common_steps": 2, "local_steps": 6, "rounds": 2, "batch_size": 8,
    "sparsity": "none", "progress": False, "threads": 1, "launch": "serial", "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "rmsprop"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sparsity": "random", "density": 0.5},
        {"ema": 0.5},
        {"memory_budget": "1MiB"},
        {"early_bird": {"ratio": 0.3}, "common_steps": 12},
        {"precision": "bf16"},
        {"together": 2},
        {"outer": "nesterov"},
    ],
    ids=str,
)
def test_workers_train_with_each(optimizer: str, options: dict[str, object]) -> None:
    given = {**FIT, **options, "optimizer": optimizer}
    result = LiPTWarmStart(**given).fit(_net(), _data())
    again = LiPTWarmStart(**given).fit(_net(), _data())
    assert all(map(torch.equal, result.state_dict.values(), again.state_dict.values()))
    if "together" in options and optimizer == "muon":  # others amplify gradients near zero
        plain = LiPTWarmStart(**{**given, "together": 1}).fit(_net(), _data())
        for one, other in zip(result.state_dict.values(), plain.state_dict.values(), strict=True):
            assert torch.allclose(one.float(), other.float(), atol=2e-3)


def test_full_loss_falls() -> None:
    data, net = _data(), _net()
    images, labels = data.tensors
    result = LiPTWarmStart(**{**FIT, "optimizer": "muon", "local_steps": 30}).fit(net, data)
    before = F.cross_entropy(_net()(images), labels)
    trained = result.apply_to(net).train()
    assert F.cross_entropy(trained(images), labels) < before
