"""A few samples, tried on model and loss, tell runs apart that have the same names and options."""

from __future__ import annotations

import copy
import functools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from warmstart_material import Dicts, Streamed, make_images, make_net

from lipt_cords.warmstart.resume.fingerprint import (
    HELD_OUT,
    INPUTS,
    LOSS,
    OUTPUTS,
    fingerprint,
    require_alike,
)
from lipt_cords.warmstart.warm_start import LiPTWarmStart

DATA, HELD = make_images(60), make_images(40, seed=1)
OPTIONS = {
    "num_workers": 2, "local_steps": 2, "common_steps": 1, "batch_size": 8, "launch": "serial",
}  # fmt: skip


def taken(model=None, data=DATA, held_out=HELD, loss=None, classes=4, seed=0):
    return fingerprint(
        make_net() if model is None else model, data, held_out, loss,
        classes=classes, seed=seed, device=torch.device("cpu"),
    )  # fmt: skip


class Scaled(nn.Module):
    """A net with an attribute that no name and no printout shows."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.inner, self.scale = make_net(), scale

    def forward(self, x):
        return self.inner(x * self.scale)


def smoothed(amount):
    return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=amount)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, logits, labels):
        return self.inner(logits, labels)


def moved(data, by):
    return TensorDataset(data.tensors[0] + by, data.tensors[1])


def rolled(data):
    return TensorDataset(*(tensor.roll(1, 0) for tensor in data.tensors))


OTHERS = [
    (INPUTS, {"data": moved(DATA, 0.5)}, {}),
    (INPUTS, {"data": rolled(DATA)}, {}),
    (HELD_OUT, {"held_out": moved(HELD, 0.5)}, {}),
    (OUTPUTS, {"model": Scaled(5.0)}, {"model": Scaled()}),
    (LOSS, {"loss": smoothed(0.5)}, {"loss": smoothed(0.0)}),
    (LOSS, {"loss": functools.partial(F.cross_entropy, label_smoothing=0.1)},
     {"loss": functools.partial(F.cross_entropy, label_smoothing=0.0)}),
    (LOSS, {"loss": Wrapped(nn.CrossEntropyLoss(label_smoothing=0.5))},
     {"loss": Wrapped(nn.CrossEntropyLoss())}),
    (LOSS, {"loss": Wrapped(nn.CrossEntropyLoss(torch.tensor([1.0, 1, 1, 2])))},
     {"loss": Wrapped(nn.CrossEntropyLoss(torch.ones(4)))}),
    (LOSS, {"loss": lambda logits, labels: -F.cross_entropy(logits, labels)},
     {"loss": lambda logits, labels: F.cross_entropy(logits, labels)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "there", "here"), OTHERS)
def test_what_changed_is_found_and_named(name, there, here):
    one, other = taken(**here), taken(**there)
    assert not one.unknown and not other.unknown
    assert one.difference(other).startswith(f"{name} is '{other.values[name]}' there and")
    with pytest.raises(ValueError, match=f"rank 1 differs from rank 0: {name} is"):
        require_alike([one, other])
    require_alike([one, taken(**here)])


@pytest.mark.parametrize(
    ("name", "there", "here"),
    [o for o in OTHERS if o[0] != LOSS] + [OTHERS[4]],
)
def test_work_of_a_run_that_did_something_else_is_not_taken_up(tmp_path, name, there, here):
    def fit(model=None, data=DATA, held_out=HELD, loss=None):
        warm = LiPTWarmStart(**OPTIONS, work_dir=tmp_path)
        labels = torch.arange(60) % 4  # equal, so that it is not the labels that tell
        data = TensorDataset(data.tensors[0], labels)
        return warm.fit(model or make_net(), data, held_out, loss=loss)

    fit(**here)
    with pytest.raises(ValueError, match=rf"belongs to another run \({name} is"):
        fit(**there)
    assert "another" not in str(fit(**here).report.notes)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_modes_and_layouts_make_no_difference(threads):
    expected = taken()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert taken(make_net().eval().to(memory_format=torch.channels_last)) == expected
    finally:
        torch.set_num_threads(before)


def test_nothing_is_disturbed():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.head(x.flatten(1)) + torch.rand(1)

    model = Counting().train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    others = random.getstate(), np.random.get_state()[1].tolist()
    weighted = nn.CrossEntropyLoss(torch.ones(4))
    assert not taken(model, loss=weighted).unknown
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert model.training and model.head.weight.grad is None
    assert torch.get_rng_state().equal(random_state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others
    assert weighted.weight.dtype == torch.float32


def test_few_samples_are_read_and_random_transforms_are_equal_on_all_ranks():
    streams = [Streamed(DATA), Streamed(DATA)]
    found = []
    for number, data in enumerate(streams):
        torch.manual_seed(number)
        found.append(taken(data=data, held_out=None))
        assert len(set(data.read)) == 16 and len(data.read) == 32
    assert found[0] == found[1] and not found[0].unknown
    assert found[0].difference(taken(data=streams[0], held_out=None, seed=1)) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_models_of_other_dtypes_and_of_dicts_are_tried(dtype):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net().to(dtype)

        def forward(self, image):
            return self.net(image)

    data = Dicts(TensorDataset(DATA.tensors[0].to(dtype), DATA.tensors[1]))
    assert not taken(Named(), data, None).unknown


class Own(Dataset):
    """Draws from its own generator, which cannot be seeded."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(0)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.rand(1, 8, 8, generator=self.draws), index % 4


class Broken(nn.Module):
    def forward(self, *given):
        raise RuntimeError("not here\nand more")


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        (INPUTS, {"data": Own()}, "it differs from one try to the next"),
        (HELD_OUT, {"held_out": Own()}, "it differs from one try to the next"),
        (OUTPUTS, {"model": Broken()}, "RuntimeError: not here)"),
        (LOSS, {"loss": Broken()}, "RuntimeError: not here)"),
    ],
)
def test_what_cannot_be_compared_is_named_and_passed_over(name, given, reason):
    found = taken(**given)
    assert found.values[name] is None
    assert len(found.unknown) == 1 and found.unknown[0].startswith(name)
    assert reason in found.unknown[0]
    weights = given.get("model") or make_net()
    require_alike([found, taken(weights) if name != OUTPUTS else found])


def test_the_report_tells_what_could_not_be_compared(tmp_path):
    warm = LiPTWarmStart(**OPTIONS, work_dir=tmp_path)
    first, second = (warm.fit(make_net(), Own()) for _ in range(2))
    for result in (first, second):
        assert any(f"not compared with other ranks and runs: {INPUTS}" in n
                   for n in result.report.notes)  # fmt: skip


def test_ranks_may_draw_initial_weights_of_their_own():
    one, other = taken(make_net(0)), taken(make_net(1))
    require_alike([one, other])
    assert one.difference(other) is None and one.values[OUTPUTS] is not None
    assert not make_net(0)[0].weight.equal(make_net(1)[0].weight)
