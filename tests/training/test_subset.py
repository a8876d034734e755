"""Training on a subset: the weighted loss, its own randomness, and an exact resume."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from lipt_cords.base import registry
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors.base import Selection
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.training.optimizers import (
    OPTIMIZERS,
    OptimizerConfig,
    build_optimizer,
    register_optimizer,
)
from lipt_cords.training.sources import Epoch
from lipt_cords.training.subset import train_on_subset
from lipt_cords.training.trainer import Trainer, split_weighted

DRAWS = torch.Generator().manual_seed(0)
X = torch.randn(60, 5, generator=DRAWS)
DATA = TensorDataset(X, (X[:, 0] > 0).long() + (X[:, 1] > 0).long())
SUBSET = Selection(torch.arange(0, 60, 2), torch.linspace(0.5, 2.0, 30))


def _net() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    draws = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3, generator=draws)
    return net


def _train(net: nn.Module, **options: Any) -> Any:
    given = {"val_dataset": DATA, "epochs": 6, "batch_size": 8, "lr": 0.1, "device": "cpu"}
    return train_on_subset(net, DATA, SUBSET, **{**given, **options})


def _weights(net: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def _equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_weights(one), _weights(two), strict=True))


class _Once:
    """A source of one batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def open(self, epoch: int) -> Epoch:
        return Epoch("subset", [self.batch], 1)


def _one_step(batch: Any, net: nn.Module) -> None:
    config = OptimizerConfig(lr=0.5, momentum=0.0, weight_decay=0.0)
    loss = nn.CrossEntropyLoss(reduction="none")
    Trainer(net, _Once(batch), build_optimizer(net, config), None, loss=loss).run(1)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_step_descends_the_weighted_mean(as_dict: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(features)

    net, labels = Net(), torch.tensor([0, 1, 2, 1])
    weights = torch.tensor([1, 3, 0, 2])  # int64, as in CORDS's full-data epochs
    expected = copy.deepcopy(net)
    losses = nn.functional.cross_entropy(expected(X[:4]), labels, reduction="none")
    ((weights * losses).sum() / weights.sum()).backward()
    batch: Any = (X[:4], labels, weights)
    if as_dict:
        batch = {"features": X[:4], "labels": labels, "weights": weights}
    _one_step(batch, net)
    for mine, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), (theirs - 0.5 * theirs.grad).detach())


def test_a_batch_of_zero_weights_changes_nothing() -> None:
    net = nn.Linear(5, 3)
    before = _weights(net)
    _one_step((X[:4], torch.zeros(4, dtype=torch.int64), torch.zeros(4)), net)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(net), strict=True))


def test_divergence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"diverged: the loss of epoch 0 is nan; lower"):
        _one_step((X[:4] * float("nan"), torch.zeros(4).long(), torch.ones(4)), nn.Linear(5, 3))


def test_unweighted_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected weighted batches \(x, y, w\)"):
        split_weighted((X[:2], torch.zeros(2)))


def test_it_learns_and_counts() -> None:
    result = _train(_net(), epochs=25)
    assert result.val_accuracy > 0.7 > result.curve[0].val_accuracy
    assert result.costs.training_passes == 25 * 30 == result.curve[-1].passes
    assert [point.epoch for point in result.curve] == list(range(26))
    assert result.curve[-1].learning_rate < 1e-3 < result.curve[0].learning_rate


def test_same_seed_same_bits_and_the_callers_randomness_is_kept() -> None:
    one, two, other = _net(), _net(), _net()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    _train(one)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())
    torch.manual_seed(6)
    _train(two)
    _train(other, seed=1)
    assert _equal(one, two) and not _equal(one, other)


class _Stop(Exception):
    pass


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "wsd"), ("adam", "cosine_annealing")])
def test_resumed_equals_uninterrupted(tmp_path: Path, optimizer: str, schedule: str) -> None:
    def stop(point: CurvePoint) -> None:
        if point.epoch == 4:
            raise _Stop

    given = {"optimizer": optimizer, "schedule": schedule}
    whole, broken, resumed = _net(), _net(), _net()
    expected = _train(whole, **given, checkpoint_dir=tmp_path / "whole")
    with pytest.raises(_Stop):
        _train(broken, **given, checkpoint_dir=tmp_path / "half", on_point=stop)
    result = _train(resumed, **given, checkpoint_dir=tmp_path / "half", resume=True)
    assert _equal(whole, resumed)
    assert [_facts(p) for p in result.curve] == [_facts(p) for p in expected.curve]
    assert result.costs.training_passes == expected.costs.training_passes
    # Resuming what is finished changes nothing.
    finished = _net()
    _train(finished, **given, checkpoint_dir=tmp_path / "whole", resume=True)
    assert _equal(whole, finished)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_rate_reaches_zero_in_any_number_of_epochs(optimizer: str, epochs: int) -> None:
    rates = [p.learning_rate for p in _train(_net(), optimizer=optimizer, epochs=epochs).curve]
    assert rates[0] == 0.1 and rates[-1] == 0.0
    held = _train(_net(), optimizer=optimizer, epochs=epochs, schedule="none").curve
    assert held[-1].learning_rate == 0.1
    restarted = _train(_net(), optimizer=optimizer, epochs=4, schedule={"T_max": 2}).curve
    rates = [p.learning_rate for p in restarted]
    assert rates == pytest.approx([0.1, 0.05, 0.0, 0.05, 0.1]), "CORDS's cosine, of that length"
    held = _train(_net(), optimizer=optimizer, epochs=epochs, schedule=None).curve
    assert held[-1].learning_rate == 0.1
    halved = {"type": "multistep", "milestones": (1,), "gamma": 0.5}
    steps = _train(_net(), optimizer=optimizer, epochs=epochs, schedule=halved).curve
    assert steps[-1].learning_rate == 0.05


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {"type": "wsd", "T_max": 2},
            "T_max is an option of cosine_annealing, and the type is wsd",
        ),
        ({"milestones": (1,)}, "milestones is an option of multistep, and the type is auto"),
        ({"type": "cosine", "gamma": 0.5}, "gamma is an option of linear_decay"),
        ("multistep", "none is given: give milestones"),
        ("warmup", r"scheduler\.type: .*'warmup'"),
        (["wsd"], "expected the name of a schedule or options .*, received list"),
    ],
)
def test_a_schedule_that_would_be_ignored_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _train(_net(), schedule=schedule)


def _facts(point: CurvePoint) -> tuple[Any, ...]:
    return point.epoch, point.passes, point.train_loss, point.val_accuracy, point.learning_rate


def test_resume_asks_for_the_same_run(tmp_path: Path) -> None:
    _train(_net(), epochs=2, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(epochs is 2 there and 6 here\)"):
        _train(_net(), checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="needs the checkpoint_dir"):
        _train(_net(), resume=True)
    with pytest.raises(ValueError, match="there is no checkpoint to resume in"):
        _train(_net(), checkpoint_dir=tmp_path / "empty", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found a file"):
        _train(_net(), checkpoint_dir=tmp_path / "file")


def _smoothed(amount: float) -> Any:
    return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=amount)


@pytest.mark.parametrize(
    ("there", "here", "differing"),
    [
        (
            {},
            {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
            r"loss is 'cross-entropy' there and .*; value of the loss is",
        ),
        (
            {"loss": _smoothed(0.0)},
            {"loss": _smoothed(0.1)},
            r"\(value of the loss is '[0-9.]+' there and '[0-9.]+' here\)",
        ),
        ({"optimizer": "muon"}, {"optimizer": {"type": "muon", "rest": "adamw"}}, "rest is 'sgd'"),
        ({"weight_decay": 0.0}, {}, r"optimizer\.weight_decay is 0\.0 there and 0\.0005 here"),
        ({"schedule": "none"}, {}, "schedule is 'none' there and 'cosine' here"),
        ({}, {"precision": "bf16"}, "precision is 'fp32' there and 'bf16' here"),
        ({}, {"early_bird": {"ratio": 0.0}}, "early_bird is None there"),
        ({}, {"subnetwork": {}}, "subnetwork is None there"),
    ],
)
def test_what_decides_bits_must_be_as_it_was(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], differing: str
) -> None:
    _train(_net(), epochs=1, checkpoint_dir=tmp_path, **there)
    with pytest.raises(ValueError, match=f"run with other settings.*{differing}"):
        _train(_net(), epochs=1, checkpoint_dir=tmp_path, resume=True, **here)
    _train(_net(), epochs=1, checkpoint_dir=tmp_path, resume=True, **there)


def test_other_layers_and_other_weights_of_samples_are_another_run(tmp_path: Path) -> None:
    _train(_net(), epochs=1, checkpoint_dir=tmp_path)
    other = _net()
    other[2].p = 0.5  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"layers\.2 is 'Dropout\(p=0\.3.* and 'Dropout\(p=0\.5"):
        _train(other, epochs=1, checkpoint_dir=tmp_path, resume=True)
    swapped = Selection(SUBSET.indices, SUBSET.weights.flip(0))
    with pytest.raises(ValueError, match=r"subset\.digest is"):
        train_on_subset(
            _net(), DATA, swapped, epochs=1, batch_size=8, lr=0.1, device="cpu",
            checkpoint_dir=tmp_path, resume=True,
        )  # fmt: skip


def test_a_changed_optimizer_of_ones_own_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "changed between runs"

    @register_optimizer(name)
    def made(parameters: list[nn.Parameter], options: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=options.lr)

    try:
        _train(_net(), epochs=1, checkpoint_dir=tmp_path, optimizer=name)
        (what,) = OPTIMIZERS.foreign_code(name)
        assert not OPTIMIZERS.foreign_code("sgd")
        monkeypatch.setattr(registry.inspect, "getsource", lambda code: "of another version")
        with pytest.raises(ValueError, match=f"{what} is '[0-9a-f]+' there and '"):
            _train(_net(), epochs=1, checkpoint_dir=tmp_path, resume=True, optimizer=name)
    finally:
        OPTIMIZERS.unregister(name)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (nn.Linear(5, 3).bfloat16(), DATA, r"weights are torch\.bfloat16: call model\.float\(\)"),
        (nn.Linear(4, 3), DATA, r"first of the chosen samples \(inputs \(2, 5\) torch\.float32\)"),
    ],
)
def test_samples_that_the_model_cannot_read_are_refused_before_work(
    tmp_path: Path, model: nn.Module, given: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_on_subset(model, given, SUBSET, device="cpu", checkpoint_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"cannot read the first samples \(inputs \(60, 5\)"):
        last_layer_gradients(model, given)


def test_a_bf16_net_learns_from_float32_items_under_autocast() -> None:
    net = _net().bfloat16()
    before = _weights(net)
    with pytest.raises(ValueError, match=r"first of the held-out samples .*call model\.float"):
        _train(net, epochs=1, precision="bf16")
    _train(net, epochs=1, precision="bf16", val_dataset=None)
    assert not all(map(torch.equal, before, _weights(net)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, received 0"),
        ({"lr": 0.0}, r"optimizer\.lr: .*greater than 0"),
        ({"optimizer": "lion"}, r"optimizer\.type"),
        ({"schedule": "warm"}, r"scheduler\.type"),
        ({"device": "tpu0"}, "device"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _train(_net(), **options)


def test_a_dataset_of_dicts(tmp_path: Path) -> None:
    class Rows(Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 60

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"input": DATA.tensors[0][index], "labels": DATA.tensors[1][index]}

    net = _net()
    result = train_on_subset(
        net, Rows(), SUBSET, val_dataset=Rows(), epochs=2, batch_size=8, device="cpu"
    )
    assert result.costs.training_passes == 60 and result.val_accuracy is not None


def test_bf16_is_used_in_the_forward_pass_and_layouts_agree() -> None:
    images = TensorDataset(torch.randn(24, 3, 8, 8, generator=DRAWS), torch.arange(24) % 3)
    subset = Selection(torch.arange(24), torch.ones(24))
    seen: list[tuple[torch.dtype, bool]] = []

    def net() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        layers[0].register_forward_hook(
            lambda module, inputs, output: seen.append(
                (output.dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
        )
        return nn.Sequential(*layers)

    def weights(**options: Any) -> Tensor:
        trained = net()
        train_on_subset(trained, images, subset, epochs=2, batch_size=8, device="cpu", **options)
        return torch.cat([one.flatten() for one in trained.state_dict().values()])

    plain = weights(memory_format="contiguous")
    assert seen.pop() == (torch.float32, False)
    assert torch.allclose(plain, weights(), atol=1e-5)
    assert seen.pop() == (torch.float32, True)
    half = weights(precision="bf16")
    assert seen.pop() == (torch.bfloat16, True)
    assert half.dtype == torch.float32 and torch.allclose(plain, half, atol=0.05)


@pytest.mark.parametrize("wrong", [{"precision": "bf61"}, {"memory_format": "nhwc"}])
def test_an_unknown_precision_or_layout_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"unknown {next(iter(wrong))}"):
        _train(_net(), **wrong)


def test_plain_indices_are_a_subset_whose_samples_count_alike() -> None:
    nets = [_net() for _ in range(3)]
    even = torch.arange(0, 60, 2)
    for net, subset in zip(
        nets, (Selection(even, torch.ones(30)), even, even.tolist()), strict=True
    ):
        train_on_subset(net, DATA, subset, epochs=2, batch_size=8, lr=0.1, device="cpu")
    assert _equal(nets[0], nets[1])
    assert _equal(nets[0], nets[2])


@pytest.mark.parametrize(
    ("subset", "said"),
    [
        ([3, 60], "60"),
        ([3, 3], "sample 3 is named twice"),
        ([], "sample"),
        (Subset(DATA, [1]), "pass its .indices"),
    ],
)
def test_indices_that_are_no_subset_are_refused(subset: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train_on_subset(_net(), DATA, subset)


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        (nn.Linear(2, 2, device="meta"), {}, "'weight' is on the meta device.*to_empty"),
        (nn.LazyLinear(2), {}, "lazy layers without weights yet"),
        (len, {}, "expected a torch.nn.Module, received builtin"),
        (nn.Linear(2, 2).requires_grad_(False), {}, "no trainable parameter"),
        (nn.Sequential().eval().append(nn.Linear(2, 2)), {}, "'0' in it is in train mode"),
        (
            nn.Embedding(4, 2, sparse=True),
            {},
            "sparse gradients, which optimizer 'sgd' with weight",
        ),
        (nn.Embedding(4, 2, sparse=True), {"optimizer": "adam"}, "optimizer 'adam'.*sparse=False"),
    ],
)
def test_models_that_cannot_be_trained(
    model: nn.Module, options: dict[str, str], match: str
) -> None:
    data = TensorDataset(torch.arange(4) % 4, torch.arange(4) % 2)
    with pytest.raises(ValueError, match=match):
        train_on_subset(model, data, range(4), epochs=1, **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_a_quantised_network_is_refused_with_the_reason() -> None:
    net = nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(5, 3))
    with pytest.raises(
        ValueError, match=r"layer '0' is quantised \(Linear\), and no weight is left"
    ):
        _train(net)


def test_sparse_embeddings_train_as_dense_ones() -> None:
    data, trained = TensorDataset(torch.arange(8) % 4, torch.arange(8) % 2), []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Embedding(4, 2, sparse=sparse)
        train_on_subset(model, data, range(8), epochs=2, weight_decay=0.0)
        trained.append(model.weight.detach())
    torch.testing.assert_close(*trained)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    _train(_net(), checkpoint_dir=tmp_path)
    frozen = _net()
    name, weight = next(iter(frozen.named_parameters()))
    weight.requires_grad_(False)
    with pytest.raises(ValueError, match=rf"weights\.{name} is .trained, .* and .frozen, "):
        _train(frozen, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        _train(nn.Sequential(_net(), nn.Linear(3, 3)), checkpoint_dir=tmp_path, resume=True)
