"""The presets: what they take where nothing is given, and that given options win."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset
from warmstart_material import make_images, make_net

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.forecast import forecast
from lipt_cords.warmstart.presets import ALONE, MOST_MERGES, cost_line, local_epochs, scaled
from lipt_cords.warmstart.warm_start import LiPTWarmStart

GIVEN = {
    "num_workers": 5, "epochs": 2.5, "common_steps": 7, "rounds": 3, "batch_size": 32,
    "optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 1e-3, "schedule": "cosine",
    "outer": "average", "sparsity": "random", "density": 0.4, "codec": "int8", "seed": 4,
}  # fmt: skip


@given(st.sets(st.sampled_from(list(GIVEN))), st.integers(1, 10**6), st.integers(1, 40))
def test_given_options_stay_and_the_rest_fits_the_data(names, samples, processes):
    options = {name: GIVEN[name] for name in names}
    made = scaled(WarmStartConfig(**options), samples, processes)
    assert {name: getattr(made, name) for name in names} == options
    assert made.num_workers == (5 if "num_workers" in names else processes)
    if "rounds" not in names:
        assert 1 <= made.rounds <= MOST_MERGES
        assert made.rounds == 1 or made.num_workers > 1
    assert scaled(made, samples, 17) == made  # once is enough
    cost = forecast(made, samples)
    assert cost.passes >= cost.critical_passes > 0 or samples < processes
    left_out = not names & {"epochs", "common_steps", "rounds", "batch_size"}
    if left_out and samples > 1000 * processes:
        assert cost.passes <= 8.4 * samples  # of ten full epochs
    assert str(made.num_workers if made.num_workers > 1 else "one") in cost_line(made, samples)


def test_once_is_the_paper_and_has_nothing_to_scale():
    config = WarmStartConfig(type="lipt-once", density=0.5)
    assert scaled(config, 20_000, 16) is config
    taken = (config.rounds, config.outer, config.sparsity, config.optimizer, config.lr)
    assert taken == (1, "average", "magnitude", "sgd", 0.05)
    assert WarmStartConfig(**config.model_dump()) == config


def test_fine_tuning_is_gentle_and_follows_data_and_processes():
    config = WarmStartConfig(type="lipt-finetune")
    alone, several = scaled(config, 1_600, 1), scaled(config, 1_600, 8)
    for made in (alone, several):
        taken = (made.optimizer, made.schedule, made.outer, made.sparsity)
        assert taken == ("adamw", "linear", "average", "none")
        assert (made.batch_size, made.epochs, made.common_steps) == (8, 4.0, 0)
        assert scaled(made, 1_600, 17) == made  # once is enough
    assert (alone.num_workers, alone.rounds, alone.lr) == (1, 1, 1e-4)
    assert (several.num_workers, several.rounds) == (8, 25)  # every 4 of 100 steps
    assert several.lr == pytest.approx(1e-4 * 8**0.5)
    given = WarmStartConfig(type="lipt-finetune", lr=1e-4)
    assert scaled(given, 1_600, 8).lr == 1e-4
    assert forecast(several, 1_600).critical_passes == forecast(alone, 1_600).passes // 8
    assert WarmStartConfig(type="lipt-finetune", optimizer="adamw", lr=1e-3).lr == 1e-3
    muon = scaled(WarmStartConfig(type="lipt-finetune", optimizer="muon"), 1_600, 8)
    assert (muon.lr, muon.epochs) == (WarmStartConfig(optimizer="muon").lr, 4.0)
    assert WarmStartConfig.parse("lipt-finetune").type == "lipt-finetune"
    assert WarmStartConfig(type="lipt-finetune", density=0.5).sparsity == "magnitude"
    assert WarmStartConfig(**several.model_dump()) == several


def test_fine_tuning_keeps_what_the_preset_lipt_destroys():
    """A trained net, trained on: at the rate of ``lipt-finetune`` it stays as good as it was."""
    data, held_out = make_images(320), make_images(160, seed=1)
    shared: dict[str, Any] = {"launch": "serial", "progress": False}
    first = LiPTWarmStart(**shared).fit(make_net(), data)
    trained = first.apply_to(make_net())
    result = LiPTWarmStart(type="lipt-finetune", **shared).fit(trained, data, held_out)
    tuned, given = result.apply_to(make_net()).state_dict(), trained.state_dict()
    moved = sum(float((one - given[name]).square().sum()) for name, one in tuned.items())
    size = sum(float(one.square().sum()) for one in given.values())
    assert 0 < moved / size < 1e-2
    assert result.report.merged_accuracy > 0.9


def test_more_workers_take_more_epochs_and_less_time():
    epochs = [local_epochs(workers) for workers in range(1, 65)]
    assert epochs == sorted(epochs)
    critical = [forecast(scaled(WarmStartConfig(), 20_000, w), 20_000) for w in (1, 2, 4, 8, 16)]
    assert [one.critical_passes for one in critical] == sorted(
        (one.critical_passes for one in critical), reverse=True
    )


def test_one_process_trains_one_worker_and_the_report_says_so(capfd):
    result = LiPTWarmStart(launch="serial", batch_size=16).fit(make_net(), make_images(160))
    assert capfd.readouterr().err == (
        "lipt: one worker on all data; 480 passes one after another (3.0 epochs)\n"
    )
    assert result.config.num_workers == len(result.shards) == 1
    assert result.report.passes == result.report.critical_path_passes == 480
    assert ALONE in result.report.notes
    several = LiPTWarmStart(launch="serial", num_workers=2, batch_size=16)
    assert ALONE not in several.fit(make_net(), make_images(160)).report.notes


@pytest.mark.parametrize(
    ("lr", "held_out", "said"), [(0.02, 160, False), (1e-9, 160, True), (1e-9, 40, False)]
)
def test_a_model_that_has_learned_nothing_is_named(lr, held_out, said):
    """A rate too low here; pretrained weights at a rate that is too high end alike."""
    warm = LiPTWarmStart(
        launch="serial", batch_size=16, optimizer="sgd", lr=lr, epochs=8, progress=False
    )
    report = warm.fit(make_net(), make_images(160), make_images(held_out, seed=1)).report
    notes = [note for note in report.notes if "no more than the most frequent class" in note]
    assert bool(notes) == said, (report.merged_accuracy, report.notes)
    if said:
        assert f"{report.merged_accuracy:.1%} of 160 held-out samples" in notes[0]
        assert "type='lipt-finetune'" in notes[0]


def test_as_many_workers_as_given_shards():
    shards = [torch.arange(0, 60), torch.arange(60, 160)]
    result = LiPTWarmStart(launch="serial").fit(make_net(), make_images(160), shards=shards)
    assert result.config.num_workers == 2


def test_a_net_without_hidden_matrices_takes_sgd_unless_muon_is_asked_for():
    data = TensorDataset(torch.randn(40, 4), torch.arange(40) % 3)
    result = LiPTWarmStart(launch="serial").fit(nn.Linear(4, 3), data)
    assert (result.config.optimizer, result.config.lr) == ("sgd", 0.05)
    with pytest.raises(ValueError, match="'muon' found no hidden weight matrix"):
        LiPTWarmStart(launch="serial", optimizer="muon").fit(nn.Linear(4, 3), data)


def test_a_search_for_a_ticket_has_a_common_start_with_one_worker_too():
    made = scaled(WarmStartConfig(early_bird={"ratio": 0.3}), 1_000, 1)
    assert made.num_workers == 1
    assert made.common_steps > 0
    assert scaled(WarmStartConfig(stop_when={"benefit": 0.1}), 100, 4).rounds >= 2
    alone = scaled(WarmStartConfig(stop_when={"benefit": 0.1}), 20_000, 1)
    assert (alone.rounds, alone.outer) == (MOST_MERGES, "average")


def test_what_the_number_of_processes_contradicts_is_said_with_the_way_out():
    said = r"min_workers \(3\) exceeds num_workers \(2\).*set num_workers, or start more processes"
    with pytest.raises(ValueError, match=said):
        scaled(WarmStartConfig(min_workers=3), 1_000, 2)
