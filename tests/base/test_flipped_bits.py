"""A flipped bit in a file of any kind: equal contents or an error that names it, nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from report_material import comparison, runs_of
from torch import nn
from warmstart_material import make_images

from lipt_cords.base.files import read_json, write_json
from lipt_cords.base.tensor_files import load_tensors, save_tensors
from lipt_cords.experiments.report.results import read_results
from lipt_cords.training.checkpoint import load_checkpoint, save_checkpoint
from lipt_cords.training.weights import load_weights
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.warm_start import LiPTWarmStart


class Kind(NamedTuple):
    """A file, and what reads it."""

    file: Path
    read: Callable[[], Any]


def _net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def _weights(path: Path) -> dict[str, Any]:
    net = _net()
    load_weights(net, path)
    return dict(net.state_dict())


def _result(path: Path) -> dict[str, Any]:
    found = WarmStartResult.load(path)
    workers = found.worker_states or []
    return {
        "state": found.state_dict, "start": found.theta_star, "config": found.config.model_dump(),
        "report": found.report.to_dict(), "shards": found.shards, "workers": workers,
    }  # fmt: skip


def _found(folder: Path) -> Any:
    return RunFolder(folder, "run", {"seed": 0}).find("round_00000/worker_00001")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    root = tmp_path_factory.mktemp("kinds")
    net = _net()
    state = {"model": net.state_dict(), "epoch": 3, "random": [1, "a", None, 0.5]}
    checkpoint = save_checkpoint(root / "run.pt", state, identity={"seed": 0})
    warm = root / "warm"
    options = {"num_workers": 2, "epochs": 1, "common_steps": 1, "keep_workers": True}
    LiPTWarmStart(**options, launch="serial").fit(net, make_images(32)).save(warm)
    work = root / "work"
    RunFolder(work, "run", {"seed": 0}).keep(
        "round_00000/worker_00001", {"state": net.state_dict(), "residual": {"r": torch.ones(3)}},
        {"passes": 3, "loss": 0.25},
    )  # fmt: skip
    stored = work / "progress/round_00000/worker_00001"
    results = write_json(
        root / "results.json", comparison(runs_of("random", [0.5], 0, 0)), seal=True
    )
    plain = save_tensors(root / "any.safetensors", net.state_dict())
    return {
        "checkpoint, to resume": Kind(
            checkpoint, lambda: load_checkpoint(checkpoint, identity={"seed": 0})
        ),
        "checkpoint, for its weights": Kind(checkpoint, lambda: _weights(checkpoint)),
        "merged weights": Kind(warm / "merged.safetensors", lambda: _weights(warm)),
        "any weights": Kind(plain, lambda: load_tensors(plain)),
        **{
            f"warm start, {path.name}": Kind(path, lambda: _result(warm))
            for path in sorted(warm.iterdir())
        },
        "worker, record": Kind(stored.with_suffix(".json"), lambda: _found(work)),
        "worker, tensors": Kind(stored.with_suffix(".safetensors"), lambda: _found(work)),
        "run": Kind(work / "progress/run.json", lambda: _found(work)),
        "results": Kind(results, lambda: read_results(results)),
    }


KINDS = (
    "checkpoint, to resume", "checkpoint, for its weights", "merged weights", "any weights",
    "warm start, merged.safetensors", "warm start, shards.safetensors",
    "warm start, theta_star.safetensors", "warm start, warm_start.json",
    "warm start, worker_00000.safetensors", "worker, record", "worker, tensors", "run", "results",
)  # fmt: skip


def same(one: Any, two: Any) -> bool:
    """Whether contents are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and bool(torch.equal(one, two))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if hasattr(one, "groups"):
        return same(one.groups, two.groups) and same(one.details, two.details)
    return bool(one == two)


def tried(kind: Kind, whole: bytes, expected: Any, bits: list[int]) -> bool:
    """Whether the file with flipped bits was read; what was read is what was written."""
    data = np.frombuffer(whole, np.uint8).copy()
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    kind.file.write_bytes(data.tobytes())
    try:
        found = kind.read()
    except ValueError as error:
        assert kind.file.name in str(error) or str(kind.file.with_suffix("")) in str(error)
        return False
    finally:
        kind.file.write_bytes(whole)
    assert same(expected, found), bits
    return True


@pytest.mark.parametrize("name", KINDS)
def test_random_flips(kinds: dict[str, Kind], name: str) -> None:
    kind = kinds[name]
    whole, expected = kind.file.read_bytes(), kind.read()
    most = 1 if name == "any weights" else 3  # a second bit may hide the checksum of a lone file

    @settings(max_examples=40)
    @given(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=most, unique=True))
    def flips(bits: list[int]) -> None:
        tried(kind, whole, expected, bits)

    flips()


@pytest.mark.parametrize("name", ["checkpoint, to resume", "any weights", "worker, record"])
def test_every_bit_around_the_checksum(kinds: dict[str, Kind], name: str) -> None:
    """Where it may no longer be seen that there is a checksum."""
    kind = kinds[name]
    whole, expected = kind.file.read_bytes(), kind.read()
    place = re.search(rb'"lipt_cords_sha256": ?"', whole)
    assert place is not None
    read = [
        tried(kind, whole, expected, [bit])
        for bit in range(8 * max(0, place.start() - 30), 8 * min(len(whole), place.end() + 70), 7)
    ]
    assert not any(read) or name == "any weights"  # others' files have no checksum


@pytest.mark.parametrize("name", KINDS)
def test_files_that_were_cut(kinds: dict[str, Kind], name: str) -> None:
    kind = kinds[name]
    whole = kind.file.read_bytes()
    for kept in (0, 1, 9, len(whole) // 3, len(whole) - 100, len(whole) - 1):
        kind.file.write_bytes(whole[:kept])
        try:
            with pytest.raises(ValueError, match=re.escape(kind.file.stem)):
                kind.read()
        finally:
            kind.file.write_bytes(whole)


def test_a_file_of_another_warm_start_is_not_taken(kinds: dict[str, Kind], tmp_path: Path) -> None:
    shutil.copytree(kinds["merged weights"].file.parent, tmp_path / "warm")
    save_tensors(tmp_path / "warm/merged.safetensors", _net().state_dict())
    with pytest.raises(ValueError, match=r"merged\.safetensors does not belong to .*warm_start"):
        _weights(tmp_path / "warm")


def test_files_of_earlier_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lipt_cords.training.checkpoint.logger.propagate", True)
    monkeypatch.setattr("lipt_cords.training.checkpoint.logger.parent", None)
    path = tmp_path / "checkpoint.pt"
    state = {"model": _net().state_dict()}
    payload = {"format": "lipt_cords.checkpoint", "version": 2, "identity": {}, "state": state}
    torch.save(payload, path)
    with pytest.raises(ValueError, match="has checkpoint version 2, expected 3"):
        load_checkpoint(path, identity={})
    assert same(state["model"], _weights(path))
    torch.save({**payload, "version": 3}, path)
    for read in (lambda: _weights(path), lambda: load_checkpoint(path, identity={})):
        with pytest.raises(ValueError, match=r"checkpoint\.pt has no whole checksum"):
            read()
    write_json(tmp_path / "results.json", {"a": 1})
    assert read_json(tmp_path / "results.json") == {"a": 1}
    with pytest.raises(ValueError, match="has no whole checksum"):
        read_json(tmp_path / "results.json", must_be_sealed=True)


def test_torch_and_others_read_what_is_sealed(kinds: dict[str, Kind]) -> None:
    from safetensors.torch import load_file

    assert torch.load(kinds["checkpoint, to resume"].file, weights_only=True)["version"] == 3
    assert same(load_file(kinds["any weights"].file), kinds["any weights"].read())
