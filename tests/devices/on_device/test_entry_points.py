"""Every public entry point on an accelerator: it runs there, and finds what the CPU finds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_material import Problem, tiny_data, tiny_net
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset
from warmstart_material import Dicts, Streamed, make_images, make_net

import lipt_cords
from lipt_cords import (
    LiPTWarmStart,
    SubsetLoader,
    WarmStartResult,
    average_weights,
    last_layer_gradients,
    select,
    train_on_subset,
    worker_difficulty,
)
from lipt_cords.base import devices
from lipt_cords.base.tensor_files import load_plain
from lipt_cords.cli.commands import main
from lipt_cords.cli.doctor import device_checks
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.importing import cords_version
from lipt_cords.cords.patches import enabled
from lipt_cords.data.batches import item_indices
from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.run import run
from lipt_cords.models.build import build_model
from lipt_cords.selectors.base import SELECTORS, Choice, register_selector
from lipt_cords.selectors.difficulty import SCORES, register_score
from lipt_cords.warmstart.merge.outer import OUTER_STEPS
from lipt_cords.warmstart.merge.soup import SOUPS
from lipt_cords.warmstart.unlearning.deltagrad import DeltaGrad
from lipt_cords.warmstart.workers.augment import AUGMENTATIONS, register_augmentation
from lipt_cords.warmstart.workers.sparsity import SPARSITIES, register_sparsity

THERE = torch.device("emulated")
TRAIN, VAL = make_images(72), make_images(24, seed=1)
SMALL: dict[str, Any] = {
    "num_workers": 3, "common_steps": 2, "local_steps": 4, "batch_size": 8, "launch": "serial",
    "memory_format": "contiguous", "progress": False,
}  # fmt: skip


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]), label_smoothing=0.1)


def fit(
    net: nn.Module | None = None, data: Any = TRAIN, loss: Any = None, **options: Any
) -> WarmStartResult:
    warm_start = LiPTWarmStart(**{**SMALL, **options})
    return warm_start.fit(net or make_net(dropout=0.0), data, VAL, loss=loss)


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        torch.allclose(one[n].cpu(), two[n].cpu(), rtol=1e-3, atol=1e-4) for n in one
    )


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n].cpu(), two[n].cpu()) for n in one)


def test_auto_is_the_accelerator() -> None:
    assert devices.resolve_device("auto") == THERE
    assert [str(one) for one in devices.devices_here()] == ["cpu", "emulated:0"]
    with pytest.raises(ValueError, match="cuda is not here: this machine has cpu, emulated:0"):
        LiPTWarmStart(**SMALL, device="cuda").fit(make_net(), TRAIN)


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted loss": {"loss": WEIGHTED},
    "rounds": {"rounds": 2, "outer": "nesterov"},
    "together": {"together": 3},
    "averaged": {"ema": 0.9, "schedule": "wsd", "precision": "fp32"},
    "augmented": {"augmentation": "randaugment"},
    "stop": {"rounds": 2, "stop_when": {"benefit": 0.05}},
}
FITS |= {f"soup {name}": {"soup": name} for name in SOUPS.names() if name != "uniform"}
FITS |= {f"sparsity {name}": {"sparsity": name} for name in SPARSITIES.names() if name != "none"}


@pytest.mark.parametrize("name", FITS)
def test_fit_finds_what_the_cpu_finds(name: str) -> None:
    away, here = fit(**FITS[name]), fit(**FITS[name], device="cpu")
    assert away.device.type == THERE.type
    assert {value.device.type for value in away.state_dict.values()} == {"cpu"}
    assert close(away.state_dict, here.state_dict)
    net = make_net().to(THERE)
    away.apply_to(net)
    assert next(net.parameters()).device.type == THERE.type


def test_more_kinds_of_fit_run() -> None:
    half = fit(precision="bf16")
    assert half.report.notes is not None
    assert fit(data=Dicts(TRAIN), net=OfDicts()).device.type == THERE.type
    streamed = fit(data=Streamed(TRAIN), loader_workers=0)
    assert len(streamed.gradients(TRAIN)) == 72


class OfDicts(nn.Module):
    """A net that takes a dict's entry by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net(dropout=0.0)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


@pytest.mark.parametrize(
    "options",
    [
        {"early_bird": {"ratio": 0.3, "window": 2}},
        {"subnetwork": {"lengths": (1, 1)}},
    ],
)
def test_cheaper_steps(options: dict[str, Any]) -> None:
    def net() -> nn.Module:
        return build_model("resnet8", 4, in_channels=1, image_size=8, seed=0)

    result = fit(net(), **options)
    assert close(result.state_dict, fit(net(), **options, device="cpu").state_dict)
    trained = train_on_subset(net(), TRAIN, range(32), epochs=2, batch_size=8, **options)
    assert trained.work <= 1 and (trained.ticket_net is None) == ("subnetwork" in options)


def images() -> ImageTensors:
    pixels, labels = TRAIN.tensors
    return ImageTensors((pixels * 40 + 100).clamp(0, 255).to(torch.uint8), labels)


def test_images_that_fit_on_the_device_as_bytes_alone() -> None:
    data = images()
    source = BatchSource(data, range(0, 72, 2), device=THERE, cache_bytes=3000)
    assert source.nbytes == 36 * 64
    here = BatchSource(data, range(0, 72, 2), device="cpu")
    for order in (None, torch.tensor([3, 1, 30])):
        away = list(source.batches(order, batch_size=16))
        for one, two in zip(away, here.batches(order, batch_size=16), strict=True):
            assert one[0].device.type == one[1].device.type == THERE.type
            assert torch.equal(one[0].cpu(), two[0]) and torch.equal(one[1].cpu(), two[1])
    options = {"augmentation": "randaugment"}
    assert close(
        fit(data=data, **options).state_dict, fit(data=data, **options, device="cpu").state_dict
    )


def test_a_memory_budget_has_the_bits_of_plain_training() -> None:
    """Swapped through streams and page-locked memory, as on CUDA; here a copy is over at once."""
    draws = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(25, 3, 16, 16, generator=draws), torch.arange(25) % 10)
    nets = [build_model("resnet8", 10, seed=0) for _ in range(2)]
    options = {"memory_budget": "3.5MiB", "memory_bandwidth": 1e12}
    for net, given in zip(nets, ({}, options), strict=True):
        found = train_on_subset(net, data, range(25), epochs=4, batch_size=25, **given)
    assert same(nets[0].state_dict(), nets[1].state_dict())
    assert found.memory is not None and found.memory.plan is not None
    assert "swap" in found.memory.plan.decisions.values() and found.memory.steps["guided"] == 2


class Interrupt(Exception):
    """What ends a run in the middle."""


def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """Dropout draws on the device, whose random state is every worker's own."""
    options = {"rounds": 2, "work_dir": tmp_path / "run"}
    whole = fit(make_net(dropout=0.3), rounds=2)

    def stop(*reading: Any) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        LiPTWarmStart(**{**SMALL, **options}).fit(make_net(dropout=0.3), TRAIN, VAL, on_round=stop)
    torch.rand(7, device=THERE)  # the device's state is another one by now
    resumed = fit(make_net(dropout=0.3), **options)
    assert same(resumed.state_dict, whole.state_dict)


def test_the_random_state_of_the_device_is_the_callers() -> None:
    torch.manual_seed(3)
    before = devices.random_states()
    one = fit(make_net(dropout=0.3))
    train_on_subset(make_net(dropout=0.3), TRAIN, range(16), epochs=1, batch_size=8)
    assert all(map(torch.equal, before, devices.random_states()))
    torch.rand(5, device=THERE)
    assert same(fit(make_net(dropout=0.3)).state_dict, one.state_dict)


def test_a_result_is_stored_and_forgets(tmp_path: Path) -> None:
    options = {
        "common_steps": 0, "epochs": 1, "local_steps": None, "keep_workers": True,
        "log_samples": True,
    }  # fmt: skip
    result = fit(**options)
    result.save(tmp_path / "result")
    loaded = WarmStartResult.load(tmp_path / "result")
    assert same(loaded.state_dict, result.state_dict)
    assert loaded.dynamics.score("aum").equal(result.dynamics.score("aum"))
    left = result.forget([0, 5])
    assert left.dynamics.unseen.tolist() == [0, 5]
    assert 5 not in {int(i) for shard in left.shards for i in shard}
    assert same(left.add([0, 5]).state_dict, result.state_dict)
    net = build_model("resnet8", 4, in_channels=1, image_size=8, seed=0)
    ticket = fit(net, **options | {"common_steps": 4}, early_bird={"ratio": 0.3, "window": 2})
    assert same(ticket.forget([0, 5]).add([0, 5]).state_dict, ticket.state_dict)
    hard = worker_difficulty(result, TRAIN)
    assert hard.scores.device.type == "cpu" and hard.scores.shape == (72,)


def test_gradients_and_every_selector_and_score() -> None:
    net = make_net(dropout=0.0)
    here, there = (last_layer_gradients(net.to(one), TRAIN) for one in ("cpu", THERE))
    val_here, val_there = (last_layer_gradients(net.to(one), VAL) for one in ("cpu", THERE))
    for name in ("logit_grads", "embeddings", "labels", "logits"):
        assert getattr(there, name).device.type == THERE.type
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name))
    tried = [(name, per, {}) for name in lipt_cords.selectors.selector_names() for per in PER]
    tried += [("stratified", "class", {"score": score}) for score in SCORES.names()]
    tried += [
        ("glister", "class", {"greedy": "rgreedy"}),
        ("glister", "class", {"memory_limit": 2**20}),
        ("gradmatch", "all", {"target": "validation"}),
        ("craig", "all", {"memory_limit": 2**20}),
        ("gradmatch", "all", {"memory_limit": 2**20}),
    ]  # fmt: skip
    for name, per, options in tried:
        found = []
        for gradients, validation in ((here, val_here), (there, val_there)):
            found.append(
                select(
                    name,
                    gradients,
                    12,
                    val_gradients=validation,
                    per=per,
                    seed=1,
                    batch_size=5,
                    **options,
                )
            )
        one, two = found
        assert two.indices.device.type == two.weights.device.type == "cpu"
        assert torch.equal(one.indices, two.indices), (name, per, options)
        torch.testing.assert_close(one.weights, two.weights, rtol=1e-3, atol=1e-4)
    pursued = [select("gradmatch", one, 60, per="all") for one in (here, there)]  # takes some back
    assert torch.equal(pursued[0].indices, pursued[1].indices)
    source = BatchSource(TRAIN, range(8), device=THERE)
    assert len(last_layer_gradients(net.to(THERE), source, indices=[1, 2])) == 2


def test_workers_trained_at_once_draw_on_the_device_as_alone() -> None:
    @register_augmentation("noise")
    def noise(options: Any, low: Tensor, high: Tensor) -> Any:
        """Noise from the global random state of the device."""
        return lambda images: images + 0.3 * torch.rand_like(images)

    try:
        alone, at_once = fit(augmentation="noise"), fit(augmentation="noise", together=3)
        assert close(at_once.state_dict, alone.state_dict)
    finally:
        AUGMENTATIONS.unregister("noise")


def test_registered_functions_work_on_the_device() -> None:
    @register_selector("longest")
    def longest(problem: Any) -> Choice:
        """The largest gradients."""
        order = problem.gradients.norms().argsort(descending=True)[: problem.budget]
        return Choice(order, problem.gradients.norms()[order])

    @register_score("doubt")
    def doubt(gradients: Any) -> Tensor:
        """One minus the largest probability."""
        return 1 - gradients.logits.softmax(dim=1).amax(dim=1)

    @register_sparsity("steep")
    def steep(weights: Any, moment: Any) -> list[Tensor]:
        """The largest gradients on one batch."""
        pairs = zip(weights, moment.gradients(), strict=True)
        return [torch.zeros_like(w) if g is None else g.abs() for w, g in pairs]

    try:
        gradients = last_layer_gradients(make_net(dropout=0.0).to(THERE), TRAIN)
        chosen = select("longest", gradients, 9)
        assert chosen.indices.device.type == chosen.weights.device.type == "cpu"
        assert len(select("stratified", gradients, 9, score="doubt")) == 9
        away, here = fit(sparsity="steep"), fit(sparsity="steep", device="cpu")
        assert close(away.state_dict, here.state_dict)
    finally:
        SELECTORS.unregister("longest")
        SCORES.unregister("doubt")
        SPARSITIES.unregister("steep")


PER = ("class", "batch", "all")


def test_indices_may_be_on_the_device() -> None:
    net = make_net(dropout=0.0).to(THERE)
    places, mask = torch.tensor([5, 2, 40], device=THERE), torch.zeros(72, dtype=torch.bool)
    mask[[2, 5, 40]] = True
    assert item_indices(places, 72).device.type == "cpu"
    gradients = last_layer_gradients(net, TRAIN, indices=places)
    assert gradients.indices is not None and gradients.indices.tolist() == [5, 2, 40]
    marked = last_layer_gradients(net, TRAIN, indices=mask.to(THERE))
    assert torch.equal(marked.logits[[1, 0, 2]], gradients.logits)
    assert torch.equal(gradients.subset(places[:0] + 1).logits, gradients.logits[:0])
    chosen = select("craig", marked, 2)
    assert set(chosen.indices.tolist()) <= {2, 5, 40}
    trained = train_on_subset(net, TRAIN, places, epochs=1, batch_size=2)
    assert trained.costs.training_passes == 3
    result = fit(common_steps=0, epochs=1, local_steps=None, keep_workers=True)
    assert sorted(result.forget(places).forgotten) == [2, 5, 40]


def test_gradients_with_losses_of_the_device() -> None:
    net = make_net(dropout=0.0).to(THERE)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]))
    here = last_layer_gradients(copy.deepcopy(net).cpu(), TRAIN, loss=weighted)
    for loss in (weighted, copy.deepcopy(weighted).to(THERE)):
        there = last_layer_gradients(net, TRAIN, loss=loss)
        torch.testing.assert_close(there.logit_grads.cpu(), here.logit_grads)
    moved = last_layer_gradients(net, TRAIN, device="cpu")
    assert moved.logits.device.type == "cpu" and next(net.parameters()).device.type == THERE.type


def test_a_subset_loader_and_a_loop_of_ones_own() -> None:
    net = make_net(dropout=0.0).to(THERE)
    selection = select("gradmatch", last_layer_gradients(net, TRAIN), 24)
    loader = SubsetLoader(TRAIN, selection, batch_size=8, pin_memory=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y, w in loader:
        losses = nn.functional.cross_entropy(net(x.to(THERE)), y.to(THERE), reduction="none")
        optimizer.zero_grad()
        ((losses * w.to(THERE)).sum() / w.sum()).backward()
        optimizer.step()
    indices = selection.indices.to(THERE)  # a selection that the user holds on the device
    moved = lipt_cords.Selection(indices, selection.weights.to(THERE))
    assert sum(len(x) for x, _, _ in SubsetLoader(TRAIN, moved, batch_size=8)) == 24


def places_of(value: Any) -> set[str]:
    """Where the tensors of a checkpoint are."""
    return {one.device.type for one in tree_leaves(value) if isinstance(one, Tensor)}


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 1e-3}, {"precision": "bf16"}])
def test_training_on_a_subset_resumes_with_the_same_bits(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    selection = select("el2n", last_layer_gradients(make_net(), TRAIN), 24)
    common = {"val_dataset": VAL, "batch_size": 8, "checkpoint_dir": tmp_path, **options}
    whole, part = make_net(dropout=0.3), make_net(dropout=0.3)
    train_on_subset(whole, TRAIN, selection, epochs=3, **common)
    stored = tmp_path / "checkpoint.pt"
    assert THERE.type in places_of(torch.load(stored, weights_only=True))
    assert places_of(load_plain(stored, what="it", expected="it", remedy="it")) == {"cpu"}
    stored.unlink()

    def stop(point: Any) -> None:
        if point.epoch == 2:
            raise Interrupt

    with pytest.raises(Interrupt):
        train_on_subset(part, TRAIN, selection, epochs=3, on_point=stop, **common)
    torch.rand(7, device=THERE)
    part = make_net(dropout=0.3)
    result = train_on_subset(part, TRAIN, selection, epochs=3, resume=True, **common)
    assert len(result.curve) == 4 and next(part.parameters()).device.type == THERE.type
    assert same(part.state_dict(), whole.state_dict())


def test_training_on_a_subset_finds_what_the_cpu_finds() -> None:
    nets = [make_net(dropout=0.0) for _ in range(2)]
    for net, where in zip(nets, ("cpu", "auto"), strict=True):
        train_on_subset(
            net, TRAIN, range(0, 72, 3), val_dataset=VAL, epochs=2, batch_size=8, device=where,
            loss=WEIGHTED, memory_format="contiguous",
        )  # fmt: skip
    assert close(nets[0].state_dict(), nets[1].state_dict())


def test_averages_and_outer_steps_of_states_on_the_device() -> None:
    states = [make_net(seed).to(THERE).state_dict() for seed in range(3)]
    mean = average_weights(states)
    assert {value.device.type for value in mean.values()} == {THERE.type}
    here = average_weights([{n: v.cpu() for n, v in state.items()} for state in states])
    assert same(mean, here)
    assert set(OUTER_STEPS.names()) == {"average", "nesterov"}


def test_deltagrad_of_a_net_on_the_device() -> None:
    head = nn.Linear(6, 3)
    deltas = [
        DeltaGrad(copy.deepcopy(head).to(where), tiny_data(30), epochs=4, batch_size=10, burn_in=2)
        for where in ("cpu", THERE)
    ]
    for delta in deltas:
        delta.remove([1, 2])
    net = nn.Linear(6, 3).to(THERE)
    deltas[1].apply_to(net)
    reference = nn.Linear(6, 3)
    deltas[0].apply_to(reference)
    assert close(net.state_dict(), reference.state_dict())
    gradients = last_layer_gradients(tiny_net().to(THERE), tiny_data(30))
    DeltaGrad.on_head(gradients, epochs=2, batch_size=10).remove([3])


needs_cords = pytest.mark.skipif(cords_version() is None, reason="CORDS is not installed")


@needs_cords
@pytest.mark.parametrize("selector", ["fast", "cords"])
@pytest.mark.parametrize("strategy", ["GLISTER", "GradMatch", "CRAIG", "Random"])
def test_loaders_of_cords(strategy: str, selector: str) -> None:
    warm = {"type": "lipt", **SMALL} if strategy == "GLISTER" else None
    problem = Problem()
    problem.model.to(THERE)
    chosen = {"selector": selector} if strategy != "Random" else {}
    options = problem.options(device=str(THERE), **chosen, **({"warm_start": warm} if warm else {}))
    options["loss"] = nn.CrossEntropyLoss(reduction="none")
    with enabled():
        loader = cords_loader(
            strategy, problem.train_loader, problem.val_loader, options, problem.logger,
            batch_size=4, shuffle=True,
        )  # fmt: skip
        for _ in range(3):
            for batch in loader:
                x, _y, _w = batch
                problem.model(x.to(THERE))
    assert len(set(loader.subset_indices)) == 12


CONFIG = """
dataset: {name: digits, limit: 100}
dataloader: {batch_size: 16}
dss_args: {type: TYPE, fraction: 0.2, select_every: 1, SELECTOR
  warm_start: {num_workers: 2, common_steps: 2, local_steps: 2, batch_size: 16}}
train_args: {num_epochs: 2, device: emulated}
"""


def config_at(place: Path, strategy: str = "GLISTER", selector: str = "selector: fast,") -> str:
    path = place / "config.yaml"
    path.write_text(CONFIG.replace("TYPE", strategy).replace("SELECTOR", selector))
    return str(path)


@pytest.mark.parametrize("strategy", ["Stratified", "RS2", "AdaptiveRandom", "Curriculum"])
def test_configured_runs(strategy: str) -> None:
    warm = {"num_workers": 2, "common_steps": 2, "local_steps": 2, "batch_size": 16}
    config = RunConfig.parse(
        {
            "dss_args": {"type": strategy, "fraction": 0.2, "select_every": 1, "warm_start": warm},
            "train_args": {"num_epochs": 2, "device": "auto"},
            "dataloader": {"batch_size": 16},
        }
    )
    record = run(config, splits=load_dataset("digits", limit=100))
    assert record is not None and "gpu" in record.peak_memory_bytes


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, output = config_at(tmp_path), str(tmp_path / "run")
    assert main(["train", config, "--output", output]) == 0
    capsys.readouterr()
    first = json.loads((tmp_path / "run/results.json").read_text())
    assert main(["train", config, "--output", output, "--resume", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["test_accuracy"] == first["test_accuracy"]
    assert first["provenance"]["machine"]["gpus"] == ["emulated accelerator"]
    assert main(["warmstart", config, "--output", str(tmp_path / "warm")]) == 0
    assert main(["select", config, "--output", str(tmp_path / "chosen")]) == 0
    assert main(["report", output]) == 0
    assert [check.name for check in device_checks()] == ["cpu", "emulated:0"]


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.emulated, "has_float64", False)  # type: ignore[attr-defined]
    devices.has_float64.cache_clear()
    yield
    devices.has_float64.cache_clear()


def test_a_device_without_float64(without_float64: None) -> None:
    """MPS has none: what decides in float64 is taken to the CPU."""
    assert not devices.has_float64(THERE.type)
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(1, dtype=torch.float64, device=THERE)
    test_fit_finds_what_the_cpu_finds("soup greedy")
    test_gradients_and_every_selector_and_score()
    test_training_on_a_subset_finds_what_the_cpu_finds()
    test_averages_and_outer_steps_of_states_on_the_device()
