"""Learning rates: CORDS's schedules by epochs, and those that move at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipt_cords.cords.config import RunConfig
from lipt_cords.training.optimizers import OPTIMIZERS, register_optimizer
from lipt_cords.training.scheduler import EveryStep, SchedulerConfig, build_scheduler
from lipt_cords.training.schedules import EVERY_STEP, rate_factor
from lipt_cords.training.sources import Epoch
from lipt_cords.training.trainer import Trainer


def _rates(config: SchedulerConfig, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, config, name="sgd", epochs=epochs)
    rates = []
    for _ in range(epochs):
        rates.append(round(optimizer.param_groups[0]["lr"], 4))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return rates


def test_schedules_of_cords_move_once_per_epoch() -> None:
    assert _rates(SchedulerConfig(), 4) == [1.0, 0.8536, 0.5, 0.1464]
    assert _rates(SchedulerConfig(T_max=2), 3) == [1.0, 0.5, 0.0]
    assert _rates(SchedulerConfig(type=None), 3) == [1.0, 1.0, 1.0]
    steps = SchedulerConfig(type="linear_decay", stepsize=2, gamma=0.1)
    assert _rates(steps, 5) == [1.0, 1.0, 0.1, 0.1, 0.01]
    stones = SchedulerConfig(type="multistep", milestones=(1, 3), gamma=0.5)
    assert _rates(stones, 4) == [1.0, 0.5, 0.5, 0.25]
    restarts = SchedulerConfig(type="cosine_annealing_WS", T_0=2)
    assert _rates(restarts, 4) == [1.0, 0.5, 1.0, 0.5]


class _Batches:
    """A source of epochs of some kinds, with so many batches each."""

    def __init__(self, *epochs: tuple[str, int]) -> None:
        self.epochs = epochs

    def open(self, epoch: int) -> Epoch:
        kind, steps = self.epochs[epoch]
        batch = (torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(2))
        return Epoch(kind, [batch] * steps, steps)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def _taken(config: SchedulerConfig, epochs: int, *kinds: tuple[str, int]) -> list[float]:
    """The rate of the second group at every step of a training, and after the last one."""
    net, taken = nn.Linear(3, 2), []
    groups = [{"params": [net.weight], "lr": 4.0}, {"params": [net.bias], "lr": 1.0}]
    optimizer = torch.optim.SGD(groups)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        taken.append(optimizer.param_groups[1]["lr"])
        assert optimizer.param_groups[0]["lr"] == 4 * taken[-1]
        return 0 * nn.functional.cross_entropy(logits, labels, reduction="none")

    scheduler = build_scheduler(optimizer, config, name="sgd", epochs=epochs)
    trainer = Trainer(
        net, _Batches(*kinds), optimizer, scheduler, loss=loss, schedule_over=config.over
    )
    trainer.run(len(kinds))
    return [*taken, optimizer.param_groups[1]["lr"]]


@pytest.mark.parametrize("schedule", EVERY_STEP)
def test_the_rate_falls_to_zero_over_all_steps(schedule: Any) -> None:
    rates = _taken(SchedulerConfig(type=schedule), 2, ("subset", 8), ("subset", 8))
    assert rates == pytest.approx([rate_factor(schedule, step, 16) for step in range(16)] + [0.0])
    assert len(set(rates)) > 4


def test_an_epoch_of_fewer_steps_moves_the_rate_as_far() -> None:
    rates = _taken(SchedulerConfig(type="linear"), 2, ("subset", 2), ("subset", 4))
    assert rates == pytest.approx([1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8, 0])


def test_a_warm_up_and_skipped_epochs_move_it_if_the_run_is_meant() -> None:
    kinds = ("full", 2), ("skipped", 0), ("subset", 2)
    run = SchedulerConfig(type="linear")
    assert _taken(run, 3, *kinds) == pytest.approx([1, 5 / 6, 1 / 3, 1 / 6, 0])
    subset = SchedulerConfig(type="linear", over="subset")
    assert _taken(subset, 1, *kinds) == pytest.approx([1, 1, 1, 1 / 2, 0])


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_who_names_no_schedule_gets_that_of_the_optimizer(name: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    def built(**options: Any) -> Any:
        return build_scheduler(optimizer, SchedulerConfig(**options), name=name, epochs=4)

    assert isinstance(built(), EveryStep) is (name == "muon")
    assert isinstance(built(over="subset", T_max=None), EveryStep) is (name == "muon")
    assert isinstance(built(T_max=4), torch.optim.lr_scheduler.CosineAnnealingLR)
    assert isinstance(built(type="cosine_annealing"), torch.optim.lr_scheduler.CosineAnnealingLR)
    assert built(type=None) is None


def test_a_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    rate = torch.tensor(1.0)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=rate, capturable=True)
    schedule = EveryStep(optimizer, "linear", 4)
    schedule.move(0.5)
    assert optimizer.param_groups[0]["lr"] is rate and rate == 0.875
    schedule.step()
    assert rate == 0.75


@pytest.mark.parametrize("schedule", ["nonsense", "auto", "constant", "multistep", None])
def test_an_optimizer_is_registered_with_a_schedule_that_is_known(schedule: Any) -> None:
    with pytest.raises(ValueError, match="unknown schedule"):
        register_optimizer("of mine", schedule=schedule)
    assert "of mine" not in OPTIMIZERS


def test_a_record_says_which_schedule_was_taken() -> None:
    def told(**sections: Any) -> Any:
        return RunConfig.parse(sections).to_dict()["scheduler"]["type"]

    assert told() == "cosine_annealing"
    assert told(optimizer={"type": "muon"}) == "wsd"
    assert told(optimizer={"type": "muon"}, scheduler={"T_max": 3}) == "cosine_annealing"
