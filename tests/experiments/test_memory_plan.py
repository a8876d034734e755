"""A memory plan from a configuration to a terminal, and the search for the largest batch."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lipt_cords.cli.commands import main
from lipt_cords.cli.display_memory import show_memory_plan
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments.memory_bench import MemoryBench, faster
from lipt_cords.experiments.memory_plan import MemoryRun, plan_memory
from lipt_cords.training.memory.largest_batch import LargestBatch, TooLarge, largest_batch
from lipt_cords.training.memory.plan import plan_activations
from lipt_cords.training.memory.trace import Op, Storage, Trace

CONFIG = """
dataset: {name: digits, limit: 150}
model: {architecture: resnet8}
dataloader: {batch_size: 64}
dss_args: {type: Random}
train_args: {device: cpu}
"""
MIB = 2**20


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_dataset("digits", limit=150)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def _config(**sections: Any) -> RunConfig:
    given: dict[str, Any] = {
        "model": {"architecture": "resnet8"},
        "dataloader": {"batch_size": 64},
        "train_args": {"device": "cpu"},
    }
    return RunConfig.parse({**given, **sections})


def _parts(made: MemoryRun) -> list[int]:
    plain = made.to_dict()["plain"]
    names = ("weights", "optimizer", "inputs", "activations", "gradients", "temporary")
    return [plain[name] for name in names]


def test_the_planned_step_fits_and_has_the_bits_of_the_measured_one(digits: DataSplits) -> None:
    made = plan_memory(_config(), 2 * MIB, splits=digits)
    assert made.plan.trace.peak > 2 * MIB >= made.plan.peak
    assert made.guided.measured_peak is not None
    # What leaves earlier than planned makes it lower, never higher.
    assert 0.7 * made.plan.peak < made.guided.measured_peak <= made.plan.peak
    assert made.same_bits and made.guided.steps == {"measured": 2, "guided": 1, "on_demand": 0}
    parts = _parts(made)
    assert sum(parts) == made.plan.trace.peak and min(parts) >= 0
    # SGD with momentum: a buffer for every weight, none for the statistics of BatchNorm.
    assert 0.9 * made.weights < made.optimizer_state < made.weights
    sizes, counts = made.plan.bytes_by_decision(), made.counts
    assert sizes["swap"] + sizes["recompute"] == sum(one.size for one in made.moved) > 0
    assert counts["swap"] + counts["recompute"] == len(made.moved)
    assert made.moved[0].size == max(one.size for one in made.moved)
    assert any(one.block.startswith(("stem", "blocks")) for one in made.moved)
    json.dumps(made.to_dict(), allow_nan=False)


def test_nothing_of_the_callers_is_changed(
    digits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = _config()
    told = config.to_dict()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    plan_memory(config, 2 * MIB, splits=digits)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert config.to_dict() == told and list(tmp_path.iterdir()) == []


def test_samples_repeat_where_the_data_are_fewer(digits: DataSplits) -> None:
    bench = MemoryBench(_config(), digits, torch.device("cpu"))
    small, large = bench.measure(100), bench.measure(400)
    assert large.activations == pytest.approx(4 * small.activations, rel=0.01)
    assert large.given == 4 * small.given
    assert large.resident == small.resident


def test_another_loss_precision_and_optimizer_are_the_configurations(digits: DataSplits) -> None:
    adam = _config(
        optimizer={"type": "adam"}, loss={"label_smoothing": 0.1},
        train_args={"device": "cpu", "precision": "bf16"},
    )  # fmt: skip
    made, plain = (plan_memory(one, MIB * 64, splits=digits) for one in (adam, _config()))
    assert made.optimizer_state > 1.9 * plain.optimizer_state
    assert made.plan.trace.activations < 0.8 * plain.plan.trace.activations
    assert made.same_bits and not made.moved and made.plan.peak == made.plan.trace.peak


def test_a_faster_device_has_less_time_to_swap_in(digits: DataSplits) -> None:
    bench = MemoryBench(_config(), digits, torch.device("cpu"))
    trace = bench.measure(64)
    quick = faster(trace, 50)
    assert quick.seconds == pytest.approx(trace.seconds / 50) and quick.peak == trace.peak
    assert faster(trace, 1) is trace
    made = plan_memory(_config(), int(0.9 * trace.peak), splits=digits, speed=50)
    assert made.plan.trace.seconds < trace.seconds / 10
    # The guided step is followed on this device, where the same transfers hide better.
    assert made.guided.measured_peak is not None and made.guided.measured_peak <= made.plan.peak
    assert made.same_bits
    with pytest.raises(ValueError, match="speed must be positive, received -1"):
        plan_memory(_config(), MIB, splits=digits, speed=-1)


def test_the_largest_batch_is_larger_with_a_plan_and_really_fits(digits: DataSplits) -> None:
    seen: list[int] = []
    made = plan_memory(
        _config(), 3 * MIB, splits=digits, batch_size=48, largest=True,
        on_measured=lambda samples, trace: seen.append(samples),
    )  # fmt: skip
    found = made.largest
    assert found is not None and found.ratio is not None and found.ratio > 1.2
    assert seen == list(dict.fromkeys(seen)) == list(found.traces)
    assert found.traces[found.plain].peak <= 3 * MIB
    assert made.batch_size == found.planned and found.stopped is None
    assert made.guided.measured_peak is not None and made.same_bits
    assert made.guided.measured_peak <= made.plan.peak <= 3 * MIB
    assert made.to_dict()["largest"]["plain_peaks"][str(found.plain)] <= 3 * MIB


def test_the_search_leaves_the_machine_its_memory(
    digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text

    def read_text(path: Path, *args: Any, **options: Any) -> str:
        if str(path) == "/proc/meminfo":
            return "MemTotal: 9999999 kB\nMemAvailable: 4096 kB\n"
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    made = plan_memory(_config(), 64 * MIB, splits=digits, batch_size=16, largest=True)
    found = made.largest
    assert found is not None and found.stopped is not None
    assert found.plain == found.planned == max(found.traces)
    assert f"a batch of {2 * found.planned} was not tried" in found.stopped
    assert "--at-most" in found.stopped and "2.80 MiB are to be had" in found.stopped


@cache
def _step(samples: int) -> Trace:
    """A chain of layers, each of whose results the backward pass wants once."""
    layers, size = 5, 1000 * samples
    last = 2 * layers
    ops, storages, events = list[Op](), list[Storage](), list[tuple[int, int]]()
    for number in range(layers):
        reads = (number - 1,) if number else (-1,)
        ops.append(Op("forward", 1e-3, reads, (number,)))
        access = last - 1 - number
        storages.append(Storage(size, number, number + 2, number + 1, (access,), access + 1))
        events.append((access, number))
    for number in range(layers):
        made = layers + number
        ops.append(Op("backward", 2e-3, (layers - 1 - number,), (made,)))
        storages.append(Storage(size // 2, made, min(made + 2, last)))
    return Trace(tuple(ops), layers, tuple(storages), 5000, samples, events=tuple(events[::-1]))


@settings(max_examples=8)
@given(
    budget=st.integers(4_000, 100_000),
    start=st.integers(1, 24),
    policy=st.sampled_from(["both", "swap", "recompute"]),
)
def test_the_search_finds_what_trying_all_sizes_finds(budget: int, start: int, policy: Any) -> None:
    measured: list[int] = []

    def measure(samples: int) -> Trace:
        measured.append(samples)
        return _step(samples)

    def planned(samples: int) -> bool:
        try:
            plan_activations(_step(samples), budget, policy=policy)
        except ValueError:
            return False
        return True

    found = largest_batch(measure, budget, policy=policy, start=start, at_most=24)
    sizes = range(1, 25)
    plain = max((n for n in sizes if _step(n).peak <= budget), default=0)
    fitting = max((n for n in sizes if planned(n)), default=0)
    assert found.plain <= plain <= max(found.plain + 1, 1.05 * found.plain)
    assert found.planned <= fitting <= max(found.planned + 1, 1.05 * found.planned)
    assert found.planned >= found.plain and (found.plan is None) == (found.planned == 0)
    assert len(measured) == len(set(measured)) <= 20 and max(measured) <= 24
    assert found.ratio is None if not found.plain else found.ratio == found.planned / found.plain
    assert (found.stopped is None) == (found.planned < 24)


def test_the_search_stops_before_what_cannot_be_measured() -> None:
    def measure(samples: int) -> Trace:
        if samples > 20:
            raise TooLarge(f"{samples} samples are too many for this machine")
        return _step(samples)

    found = largest_batch(measure, 10**9, start=4)
    assert found.planned == found.plain == 20
    assert found.stopped == "21 samples are too many for this machine"
    measured = _step(8)
    found = largest_batch(_step, 10**9, start=8, room=measured.base + 2 * measured.activations)
    assert found.planned == 8 and "a batch of 16 was not tried" in str(found.stopped)


def test_wrong_terms_of_a_search_are_named() -> None:
    with pytest.raises(ValueError, match="a batch of 8 to start from and at most 4"):
        largest_batch(_step, 10**6, start=8, at_most=4)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        largest_batch(_step, 10**6, bandwidth=-1.0)
    with pytest.raises(ValueError, match="saved nothing"):
        largest_batch(lambda samples: Trace((Op("aten.add", 1.0),), 1, ()), 10)


def test_plan_shows_the_figure_and_json(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "new" / "step.svg"
    command = ["plan", config, "--budget", "2MiB", "--bandwidth", "12 GB/s"]
    assert main([*command, "--plot", str(plot)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert main([*command, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert "resnet8 on cpu, a step on 64 samples, 12 GB a second to a simulated host" in shown
    for words in ("plain step's peak", "optimizer's state", "budget 2.00 MiB", "swapped",
                  "have the bits of the measured step", 'memory_budget="2.00 MiB"', str(plot),
                  "Moved, largest first", "times as fast"):  # fmt: skip
        assert (words in shown) == (words != "times as fast"), words
    assert read["kind"] == "memory_plan" and read["budget"] == 2 * MIB
    assert read["guided"]["peak"] <= read["planned"]["peak"] <= 2 * MIB
    assert read["guided"]["same_bits"] and read["largest"] is None
    assert plot.read_text().startswith("<?xml") and "var(--" not in plot.read_text()


def test_plan_prints_json_alone(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", config, "--budget", "64MiB", "--batch-size", "8", "--json"]
    assert main([*command, "--largest", "--at-most", "16"]) == 0
    told = capsys.readouterr()
    read = json.loads(told.out)
    assert read["batch_size"] == read["largest"]["planned"] == 16
    assert "--at-most" in read["largest"]["stopped"]
    assert "measured a batch of 8" in told.err and "measured a batch of 16" in told.err


def test_what_needs_no_plan_and_what_a_faster_device_would_do(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", config, "--budget", "1GiB", "--speed", "20", "--largest",
                 "--at-most", "64"]) == 0  # fmt: skip
    shown = " ".join(capsys.readouterr().out.split())
    assert "planned as for a device 20 times as fast" in shown
    assert "64 samples without a plan, 64 with one." in shown
    assert "next: dataloader.batch_size: 64, which fits without a plan" in shown
    assert "a subset of fraction 0.1 has 15 samples, so training on it has no batch of 64" in shown
    assert "within the budget" in shown and "%, on that device, to a plain step" in shown
    assert "Largest batch, to 5 %: 64 samples without a plan, 64 with one" in shown


def test_what_did_not_go_as_planned_is_told(
    digits: DataSplits, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan_memory(_config(), 2 * MIB, splits=digits)
    found = LargestBatch(0, 8, made.plan, {8: made.plan.trace}, "a note on the search")
    guided = replace(made.guided, measured_peak=None)
    odd = replace(made, same_bits=False, guided=guided, largest=found, notes=["a note"])
    show_memory_plan(Console(width=200), odd)
    shown = capsys.readouterr().out
    assert "warning: loss, gradients or weights differ" in shown and "not measured" in shown
    assert "0 samples without a plan, 8 with one." in shown
    assert "note: a note on the search" in shown and "note: a note\n" in shown
    assert odd.to_dict()["largest"]["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "20KiB"], "a memory budget of 20.00 KiB is too small"),
        (["--budget", "20KiB", "--largest"], "with every activation moved as it can be the step"),
        (["--budget", "much"], "--budget: expected bytes as a number, or a size such as '2GiB'"),
        (["--budget", "2MiB", "--bandwidth", "fast"], "--bandwidth, a second: expected bytes"),
        (["--budget", "2MiB", "--policy", "swp"], "Did you mean 'swap'"),
        (["--budget", "2MiB", "--speed", "0"], "speed must be positive, received 0"),
        (["--budget", "2MiB", "--at-most", "9"], "--at-most ends the search of --largest"),
        (["--budget", "2MiB", "--largest", "--at-most", "9"], "to start from and at most 9"),
        (["--budget", "2MiB", "--plot", "{folder}"], "found a directory"),
        (["--budget", "2MiB", "--plot", "step.png"], "name a file that ends in .svg"),
        (["--budget", "2MiB", "--plot", "{config}/x.svg"], "found a file"),
        ([], "Missing option '--budget'"),
    ],
)
def test_user_errors_end_in_one_line(
    config: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = str(tmp_path)
    words = [word.format(config=config, folder=folder) for word in arguments]
    assert main(["plan", config, *words]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
