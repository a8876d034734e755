"""The one place that knows devices, on this machine and on machines that are put in its place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lipt_cords.base import devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with accelerators of a kind, whose module is what the test says."""

    def build(kind: str, number: int, **module: object) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: number)
        monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(**module))

    return build


def test_auto_is_the_accelerator_that_is_here(machine) -> None:
    machine("xpu", 2)
    assert devices.resolve_device("auto") == torch.device("xpu")
    assert devices.devices_here() == tuple(map(torch.device, ("cpu", "xpu:0", "xpu:1")))
    machine("cuda", 0)
    assert devices.resolve_device("auto") == torch.device("cpu")
    assert devices.devices_here() == (torch.device("cpu"),)


@pytest.mark.parametrize("name", ["cuda:2", "mps", "cuda:99", "xpu", "npu:0", "hpu:1"])
def test_a_device_that_is_not_here_is_refused_with_what_is_here(machine, name: str) -> None:
    machine("cuda", 2)
    for given in (name, torch.device(name)) if name != "npu:0" else (name,):
        with pytest.raises(
            ValueError, match=r"not here: this machine has cpu, cuda:0, cuda:1\. Use"
        ):
            devices.resolve_device(given)


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "meta", "", "cpu:a", "CUDA"]
)
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown device '{name}': expected one of 'auto', 'cpu'"):
        devices.known_device(name)


def test_devices_that_are_here(machine) -> None:
    assert devices.resolve_device(torch.device("cpu")) == torch.device("cpu")
    machine("cuda", 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert devices.resolve_device(name) == torch.device(name)
    assert devices.numbered_device(1) == "cuda:1"


def test_ranks_of_a_machine_share_its_accelerators(machine) -> None:
    machine("xpu", 2)
    taken = [devices.of_rank(torch.device("xpu"), local) for local in range(3)]
    assert taken == [torch.device("xpu", number) for number in (0, 1, 0)]
    for own in ("cpu", "xpu:1"):
        assert devices.of_rank(torch.device(own), 0) == torch.device(own)
    for kind, backend in (("cpu", "gloo"), ("cuda", "nccl"), ("mps", "gloo")):
        assert devices.exchange_backend(torch.device(kind)) == backend


def test_a_backend_that_lacks_a_piece_falls_back(machine) -> None:
    machine("hpu", 1)
    there = torch.device("hpu:0")
    assert devices.free_accelerator_bytes(there) is None
    assert devices.peak_bytes(there) is None
    devices.reset_peak(there)
    assert devices.initialize(there) == there
    assert not devices.has_streams(there) and not devices.pins_memory(there)
    assert not devices.computes_bfloat16(there)
    assert devices.described() == {"hpu:0": "hpu device"}
    with devices.current(there):
        pass


def test_a_full_backend_is_asked(machine) -> None:
    used = []
    machine(
        "cuda", 1, mem_get_info=lambda device: (5, 9), max_memory_allocated=lambda device: 7,
        reset_peak_memory_stats=used.append, init=lambda: used.append("started"),
        is_bf16_supported=lambda including_emulation: not including_emulation,
        get_device_name=lambda device: "a card",
        get_device_properties=lambda device: SimpleNamespace(total_memory=3 * 2**30),
        Stream=object, Event=object, stream=object, current_stream=object,
    )  # fmt: skip
    there = torch.device("cuda:0")
    devices.reset_peak(there)
    devices.initialize(there)
    assert used == [there, "started"]
    assert devices.free_accelerator_bytes(there) == 5 and devices.peak_bytes(there) == 7
    assert devices.computes_bfloat16(there) and devices.pins_memory(there)
    assert devices.described() == {"cuda:0": "a card, 3 GiB"}
    assert devices.model_names() == ["a card"]


def test_random_states_of_devices_in_use_are_preserved(machine) -> None:
    states = {0: torch.tensor([1]), 1: torch.tensor([2])}
    started = [False]
    machine(
        "cuda", 2, is_initialized=lambda: started[0],
        get_rng_state=lambda device: states[device.index],
        set_rng_state=lambda state, device: states.update({device.index: state}),
    )  # fmt: skip
    assert devices.random_states() == ()  # a device that nobody used is not started for it
    started[0] = True
    with devices.preserved_random_states():
        states[0] = states[1] = torch.tensor([3])
    assert [int(states[n]) for n in range(2)] == [1, 2]
    devices.set_random_states([torch.tensor([5])])  # of a machine with one device
    assert [int(states[n]) for n in range(2)] == [5, 2]


def test_the_cpu_has_nothing_to_wait_for() -> None:
    here = torch.device("cpu")
    devices.synchronize(here)
    assert devices.initialize(here) == here
    assert devices.peak_bytes(here) is None and devices.free_accelerator_bytes(here) is None
    assert not devices.pins_memory(here) and not devices.computes_bfloat16(here)


def test_a_name_without_number_means_the_device_where_something_is() -> None:
    one, kind, other = map(torch.device, ("cuda:1", "cuda", "cuda:0"))
    assert devices.nearest(kind, one) == one
    assert devices.nearest(other, one) == other
    assert devices.nearest(torch.device("cpu"), one) == torch.device("cpu")
