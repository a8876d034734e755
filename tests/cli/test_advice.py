"""What an error advises works: it is done here, and no second error follows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lipt_cords.cli.commands import main
from lipt_cords.training.subset import train_on_subset

CONFIG = """
dataset: {name: digits, limit: 100}
model: {architecture: cnn}
dataloader: {batch_size: 16}
dss_args: {type: Random, selector: fast, fraction: 0.2, select_every: 2}
train_args: {num_epochs: 1, device: cpu}
"""
WARM = """
dataset: {name: digits, limit: 100}
model: {architecture: cnn}
dss_args:
  {type: GLISTER, selector: fast, warm_start: {num_workers: 2, common_steps: 1, local_steps: 1}}
train_args: {device: cpu}
"""


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data[: len(data) // 3] if how == "cut" else data)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_an_earlier_run_is_not_written_over(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    command = ["train", str(config), "--output", str(output)]
    assert main(command) == 0
    files = {path.name: path.read_bytes() for path in output.iterdir()}
    capsys.readouterr()
    assert main(command) == 2
    assert (
        "checkpoint.pt holds results already: resume (--resume) to continue with them, or choose "
        "another --output" in " ".join(capsys.readouterr().err.split())
    )
    assert {path.name: path.read_bytes() for path in output.iterdir()} == files
    assert main([*command, "--resume"]) == 0
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    (output / "checkpoint.pt").unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert "delete it, or choose another --output" in " ".join(capsys.readouterr().err.split())
    (output / "results.json").unlink()
    assert main(command) == 0


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_after_a_damaged_checkpoint(
    how: str, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    command = ["train", str(config), "--output", str(output)]
    assert main(command) == 0
    damage(output / "checkpoint.pt", how)
    assert main([*command, "--resume"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "checkpoint.pt" in said
    assert said.endswith(": delete it and results.json and run again without --resume")
    (output / "checkpoint.pt").unlink()
    (output / "results.json").unlink()
    assert main(command) == 0


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_after_a_damaged_checkpoint_of_a_training_on_a_subset(how: str, tmp_path: Path) -> None:
    data = TensorDataset(torch.ones(4, 2), torch.arange(4) % 2)

    def train(resume: bool) -> None:
        train_on_subset(
            nn.Linear(2, 2), data, [0, 1], epochs=1, device="cpu", checkpoint_dir=tmp_path,
            resume=resume,
        )  # fmt: skip

    train(False)
    with pytest.raises(ValueError, match=r"resume \(resume=True\).* choose another checkpoint_dir"):
        train(False)
    train(True)
    damage(tmp_path / "checkpoint.pt", how)
    with pytest.raises(ValueError, match="delete it and run again without resume=True"):
        train(True)
    (tmp_path / "checkpoint.pt").unlink()
    train(False)


@pytest.mark.parametrize("how", ["cut", "flipped"])
@pytest.mark.parametrize("name", ["merged.safetensors", "warm_start.json", "progress/run.json"])
def test_after_a_damaged_file_of_a_warm_start(
    name: str, how: str, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(WARM)
    command = ["warmstart", str(config), "--output", str(output)]
    chosen = ["select", str(config), "--checkpoint", str(output), "--output", str(tmp_path / "s")]
    assert main(command) == 0
    damage(output / name, how)
    capsys.readouterr()
    gone = [output / name]
    if name == "progress/run.json":
        assert main(command) == 2
        said = capsys.readouterr().err
        gone = [output / "progress", output / "warm_start.json"]
        assert f"delete {gone[0]} and {gone[1]} and run again" in " ".join(said.split())
    else:
        assert main(chosen) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert said.endswith("delete it and run the warm start again") and name in said
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(command) == 0
    assert main(chosen) == 0
