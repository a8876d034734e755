"""A loader that chooses its subset anew by the model as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from texts import Texts, TokenHead, padded
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset

from lipt_cords import ReselectingLoader, last_layer_gradients, select
from lipt_cords.base.randomness import derive_seed
from lipt_cords.training.reselect import Reselect

LABELS = torch.arange(60) % 3
ROWS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]
DATA = TensorDataset(ROWS, LABELS)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def loader(model: nn.Module, **options: Any) -> ReselectingLoader:
    return ReselectingLoader(DATA, 0.2, model, **{"batch_size": 5, "every": 2, **options})


def train(model: nn.Module, batches: Any, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """An epoch; what was read."""
    read = []
    for x, y, weights in batches:
        loss = (weights * functional.cross_entropy(model(x), y, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        read.append(x)
    return read


def test_every_second_epoch_has_a_new_subset_by_the_model_as_it_is() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine, subsets, before = loader(model), [], torch.get_rng_state()
    assert len(mine) == 3  # known before the first selection
    for epoch in range(4):
        seed = derive_seed(0, "reselect", epoch) % 2**31
        expected = select("importance", last_layer_gradients(model, DATA), 12, seed=seed)
        train(model, mine, optimizer)
        subsets.append(mine.selection.indices)
        if epoch % 2 == 0:
            assert torch.equal(mine.selection.indices, expected.indices)
            assert torch.equal(mine.selection.weights, expected.weights)
    assert torch.equal(subsets[0], subsets[1]) and torch.equal(subsets[2], subsets[3])
    assert not torch.equal(subsets[1], subsets[2]) and model.training
    assert torch.equal(before, torch.get_rng_state())


def run(epochs: int, stop: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Weights after some epochs, interrupted and resumed after (epoch, batches)."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = loader(model)
    for epoch in range(epochs):
        batches = iter(mine)
        if stop is not None and stop[0] == epoch:
            train(model, (next(batches) for _ in range(stop[1])), optimizer)
            states = [model.state_dict(), optimizer.state_dict(), mine.state_dict()]
            model = nn.Linear(6, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            mine = loader(model)
            for one, state in zip((model, optimizer, mine), states, strict=True):
                one.load_state_dict(state)
            batches = iter(mine)
        train(model, batches, optimizer)
    return model.state_dict()


@pytest.mark.parametrize("stop", [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (3, 2)])
def test_a_resumed_run_has_the_same_bits(stop: tuple[int, int]) -> None:
    whole, resumed = run(4), run(4, stop)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_dataloader_is_taken_with_its_options() -> None:
    given = DataLoader(Texts(40), batch_size=3, collate_fn=padded, drop_last=True)
    mine = ReselectingLoader(given, 11, TokenHead(), selector="glister", val_dataset=Texts(9))
    batches = list(mine)
    assert len(mine) == len(batches) == 3 and mine.batch_size == 3
    assert set(batches[0]) == {"input_ids", "attention_mask", "labels", "weights"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 3, "sampler": SubsetRandomSampler(range(9))}, "SubsetRandomSampler"),
        ({"batch_sampler": BatchSampler(range(60), 7, False)}, "a batch_sampler of its own"),
        ({"batch_size": None}, "no batch_size"),
    ],
)
def test_a_dataloader_that_holds_samples_back_is_refused(
    options: dict[str, Any], words: str
) -> None:
    for build in (ReselectingLoader, Reselect):
        with pytest.raises(ValueError, match=f"{words}.*Subset.dataset, indices"):
            build(DataLoader(DATA, **options), 12)


def test_a_model_may_be_bound_later_and_a_subset_given() -> None:
    mine = ReselectingLoader(DATA, 12, every=3)
    with pytest.raises(ValueError, match="pass model=, or call bind"):
        next(iter(mine))
    mine.bind(net())
    next(iter(mine))
    given = select("random", LABELS, 12, seed=5)
    mine.reselect(given)
    list(mine)
    assert torch.equal(mine.selection.indices, given.indices)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selector": "glister"}, "'glister' needs held-out samples: pass val_dataset="),
        ({"selector": "gradmtch"}, "Did you mean 'gradmatch'"),
        ({"every": 0}, "every must be a whole number of epochs from 1, received 0"),
        ({"selector_options": {"tempo": 1}}, "option of selector 'importance' 'tempo'"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loader(net(), **options)


def test_states_of_others_are_refused() -> None:
    mine = loader(net())
    list(mine)
    state = mine.state_dict()
    with pytest.raises(ValueError, match="holds a subset of 12 samples, and this loader chooses 9"):
        ReselectingLoader(DATA, 9, net()).load_state_dict(state)
    del state["chosen_in"]
    with pytest.raises(ValueError, match="state of a ReselectingLoader"):
        loader(net()).load_state_dict(state)
