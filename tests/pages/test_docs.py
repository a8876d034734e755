"""Every block on every page runs or is understood, and the reference tells every public name."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from torch import nn
from torch.utils.data import TensorDataset

import lipt_cords
from lipt_cords.cli.commands import app
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.selectors.base import unregister_selector
from lipt_cords.selectors.difficulty import SCORES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```([\w{}-]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


def of(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


def what_a_reader_has() -> dict[str, Any]:
    """A model, data and gradients, which the pages about them take for granted."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(6000) % 3
    inputs = torch.randn(6000, 6, generator=draws) + 2 * labels[:, None]
    torch.manual_seed(0)
    return {
        "__name__": "__main__",
        "model": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        "train_set": TensorDataset(inputs, labels),
        "val_set": TensorDataset(inputs[:300], labels[:300]),
        "rank": 0,
    }


HOLDS = {
    "README.md": "result.val_accuracy > 0.8 and warm.report.merged_accuracy > 0.9",
    "cords.md": "warm_starts(dss_args)",
    "dict-batches.md": "len(subset) == len(set(subset.indices.tolist())) and 'labels' in batch",
    "distributed.md": "warm_start.config.rounds == 40 and warm_start.config.stop_when",
    "memory.md": "planner.report().measured_peak <= planner.budget",
    "quick-start.md": "result.val_accuracy > 0.8 and warm.report.merged_accuracy > 0.9",
    "selectors.md": "len(x) == len(y) == len(w) and scored.scores.shape == (6000,)",
    "unlearning.md": "head.distance().ratio <= 0.1 and not set(chosen.indices.tolist()) & {3, 8}",
    "warm-start.md": "warm.report.ticket['work'] < 1 and small is not model",
    "without-cords.md": "loss.isfinite() and warm.report.merged_accuracy > 0.9",
}
"""What a reader who has run a page's blocks can see."""


def warm_starts(options: dict[str, Any]) -> bool:
    """Whether CORDS's loaders take these options now that the plug-in is enabled."""
    parsed = RunConfig.parse({"dss_args": options}).dss_args
    return parsed.warm_start is not None and parsed.strategy == options["type"]


@pytest.mark.parametrize("page", of("python"))
def test_python_on_the_page_runs(page: Path) -> None:
    names = what_a_reader_has()
    codes = blocks(page, "python")
    if page.name == "cords.md" and cords_version() is None:
        codes = [code for code in codes if "from cords" not in code]
    try:
        for number, code in enumerate(codes):
            exec(compile(code, f"{page.name}, block {number}", "exec"), names)
        assert eval(HOLDS[page.name], names | {"warm_starts": warm_starts}), HOLDS[page.name]
    finally:
        lipt_cords.cords.patches.disable()
        if "newest" in names:
            unregister_selector("newest")
        SCORES.unregister("entropy")


@pytest.mark.parametrize("page", of("yaml"))
def test_configurations_on_the_page_are_valid(page: Path) -> None:
    for code in blocks(page, "yaml"):
        given = yaml.safe_load(code)
        assert list(differing(given, RunConfig.parse(given).to_dict())) == []


def differing(given: dict[str, Any], kept: dict[str, Any]) -> Iterator[str]:
    """Keys whose values a configuration did not keep."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(kept.get(key), dict):
            yield from (f"{key}.{one}" for one in differing(value, kept[key]))
        elif kept.get(key) != value:
            yield key


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.parametrize("page", of("sh"))
def test_commands_on_the_page_are_understood(page: Path) -> None:
    program: Any = typer.main.get_command(app)
    for words in commands(page):
        if words[0] == "lipt-cords":
            name, arguments = words[1], words[2:]
        elif "lipt_cords" in words:
            name, *arguments = words[words.index("lipt_cords") + 1 :]
        else:
            assert words[0] in ("make", "pip", "python", "torchrun", "tensorboard"), words
            for word in words:
                if word.endswith(".py") and "/" in word:
                    assert (ROOT / word).exists(), word
                if word.startswith("--table"):
                    assert words[1] == "benchmarks/paper.py"
            continue
        if name.startswith("-"):
            continue
        command = program.get_command(program.make_context("lipt-cords", [name]), name)
        command.make_context(name, arguments)  # raises for what it does not know


def test_every_public_name_has_an_entry_with_all_that_a_user_asks() -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    told = set(re.findall(r"lipt_cords\.([A-Za-z_]+)$", reference, re.MULTILINE))
    assert told == set(lipt_cords.__all__)
    for name in re.findall(r"autofunction:: (\S+)", reference):
        where, _, last = name.rpartition(".")
        __import__(where)
        function = getattr(sys.modules[where], last)
        text = function.__doc__ or ""
        parameters = (
            function.__code__.co_varnames[
                : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
            ]
            if hasattr(function, "__code__")
            else ()
        )
        if parameters:
            assert "Args:" in text, name
            for parameter in parameters:
                assert re.search(rf"^\s+{parameter}:", text, re.MULTILINE), (name, parameter)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("quickstart.py", "130 images after 2576 passes"),
        ("images.py", "97 of 486 images in 10 classes"),
        ("dict_batches.py", "81 of 405 snippets"),
        ("own_model.py", "test accuracy 9"),
        ("search_subsets.py", "trained on everything, test accuracy 9"),
        ("lightning_subset.py", "test accuracy"),
    ],
)
def test_examples_run(script: str, words: str) -> None:
    assert words in ran([sys.executable, str(ROOT / "examples" / script)])


def test_accelerate_in_two_processes_loses_and_doubles_nothing() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(ROOT / "examples/accelerate_subset.py")
    told = ran([*torchrun, "--nproc_per_node", "2", script])
    assert told.count("121 samples in 2 processes, each of the subset once") == 2


def ran(command: list[str]) -> str:

    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
