"""Every block on every page runs or is understood, and the reference tells every public name."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from programs import run_program
from tiny_pretrained import tiny_pretrained
from torch import nn
from torch.utils.data import TensorDataset

import lipt_cords
from lipt_cords import LiPTWarmStart, choose_subset, select, train_on_subset
from lipt_cords.base.registry import REGISTRIES
from lipt_cords.cli.commands import app
from lipt_cords.cli.support import TUTORIAL
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.importing import cords_version
from lipt_cords.data import labels_of, load_dataset
from lipt_cords.models import build_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```([\w{}-]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


def of(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


def what_a_reader_has() -> dict[str, Any]:
    """A model, data and gradients, which the pages about them take for granted."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 3
    inputs = torch.randn(3000, 6, generator=draws) + 2 * labels[:, None]
    torch.manual_seed(0)
    return {
        "__name__": "__main__",
        "model": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        "train_set": TensorDataset(inputs, labels),
        "val_set": TensorDataset(inputs[:300], labels[:300]),
        "rank": 0,
    }


HOLDS = {
    "CONTRIBUTING.md": "all(works(kind, name) for kind, name in added.items())",
    "README.md": "result.val_accuracy > 0.8 and len(subset) == 65 and warm_starts(dss_args)",
    "cords.md": "warm_starts(dss_args)",
    "dict-batches.md": "len(subset) == len(set(subset.indices.tolist())) and 'labels' in batch",
    "distributed.md": "warm_start.config.processes == 4",
    "memory.md": "planner.report().measured_peak <= planner.budget",
    "quick-start.md": "result.val_accuracy > 0.8 and len(subset) == 65",
    "selectors.md": "len(x) == len(y) == len(w) and scored.scores.shape == (3000,)",
    "trainers.md": "len(loader) == 19 and loss.isfinite() and len(loader.selection) == 300",
    "unlearning.md": "head.distance().ratio <= 0.1 and not set(indices.tolist()) & {17, 400}",
    "warm-start.md": "result.report.critical_path_passes == result.report.passes",
    "without-cords.md": "loss.isfinite() and warm.report.merged_accuracy > 0.9",
}
"""What a reader who has run a page's blocks can see."""
STAND_ALONE = ("warm-start.md",)
"""Pages whose fits need nothing that stands before them."""


def warm_starts(options: dict[str, Any]) -> bool:
    """Whether CORDS's loaders take these options now that the plug-in is enabled."""
    parsed = RunConfig.parse({"dss_args": options}).dss_args
    return parsed.warm_start is not None and parsed.strategy == options["type"]


KINDS = (
    "selector", "difficulty score", "kind of features", "coverage method", "sparsity", "soup",
    "optimizer", "codec", "data set", "model",
)  # fmt: skip


def works(kind: str, name: str) -> bool:
    """Whether what the map tells how to add does its work."""
    digits = load_dataset("digits", limit=120)
    assert kind in KINDS, kind
    if kind == "data set":
        found = load_dataset(name)
        return (len(found.train), found.num_classes, found.input_shape) == (144, 2, (1, 8, 8))
    if kind == "model":
        return (
            build_model(name, 10, in_channels=1, image_size=8)(digits.train[0][0]).shape[-1] == 10
        )
    if kind in ("kind of features", "coverage method"):
        option = {"features" if kind == "kind of features" else "method": name}
        return len(choose_subset(digits.train, 20, **option)) == 20
    net = build_model("cnn", 10, in_channels=1, image_size=8)
    option = {kind: name} if kind in ("sparsity", "soup", "optimizer", "codec") else {}
    warm = LiPTWarmStart(
        num_workers=2, common_steps=2, local_steps=4, launch="serial", device="cpu", **option
    ).fit(net, digits.train, digits.val)
    gradients = warm.gradients(digits.train)
    if kind == "selector":
        return len(select(name, gradients, 20, skip=3)) == 20
    if kind == "difficulty score":
        return len(select("stratified", gradients, 20, score=name, cut=0.1)) == 20
    return warm.report.merged_accuracy is not None


def test_the_map_says_how_to_add_everything() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    steps = re.findall(r"^### \.\.\. an? (.*)$", text, re.MULTILINE)
    kinds = [*KINDS[:-1], "net"]
    assert steps == kinds
    for code in blocks(ROOT / "CONTRIBUTING.md", "python"):
        assert len([line for line in code.splitlines() if line.strip()]) <= 10, code
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "lipt_cords" / path).exists(), path


@pytest.mark.parametrize("page", of("python"))
def test_python_on_the_page_runs(page: Path) -> None:
    names = what_a_reader_has()
    before = {kind: set(registry.names()) for kind, registry in REGISTRIES.items()}
    codes = blocks(page, "python")
    if page.name == "cords.md" and cords_version() is None:
        codes = [code for code in codes if "from cords" not in code]
    try:
        for number, code in enumerate(codes):
            alone = page.name in STAND_ALONE and ".fit(" in code
            space = {"__name__": "__main__"} if alone else names
            exec(compile(code, f"{page.name}, block {number}", "exec"), space)
            names.update(space)
        added = {
            kind: name
            for kind, registry in REGISTRIES.items()
            for name in set(registry.names()) - before[kind]
        }
        seen = {"warm_starts": warm_starts, "works": works, "added": added}
        assert eval(HOLDS[page.name], names | seen), HOLDS[page.name]
    finally:
        lipt_cords.cords.patches.disable()
        for kind, registry in REGISTRIES.items():
            for name in set(registry.names()) - before[kind]:
                registry.unregister(name)


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


def test_the_first_example_beats_a_random_subset() -> None:
    """README's example and the quick start's, with three seeds."""
    assert (
        blocks(ROOT / "README.md", "python")[0].rpartition("print")[0].count("epochs=40, lr=0.02")
    )
    digits = load_dataset("digits")
    labels = labels_of(digits.train)
    reached: dict[str, list[float]] = {"chosen": [], "random": []}
    for seed in range(3):
        subsets = {
            "chosen": choose_subset(digits.train, 0.05, seed=seed),
            "random": select("random", labels, 65, seed=seed),
        }
        for name, subset in subsets.items():
            model = build_model("cnn", 10, in_channels=1, image_size=8, seed=seed)
            trained = train_on_subset(
                model, digits.train, subset, val_dataset=digits.test, epochs=40, lr=0.02,
                eval_every=40, seed=seed,
            )  # fmt: skip
            assert trained.val_accuracy is not None
            reached[name].append(trained.val_accuracy)
    assert min(one - other for one, other in zip(*reached.values(), strict=True)) > 0
    assert sum(reached["chosen"]) / 3 > sum(reached["random"]) / 3 + 0.02


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


def test_pages_read_one_after_the_other_give_each_command_an_output_of_its_own() -> None:
    """A run is refused where another command has written."""
    lines = [words for page in PAGES for words in commands(page)]
    lines += [shlex.split(line) for line in TUTORIAL.splitlines() if "--output" in line]
    wrote: dict[str, set[str]] = {}
    for words in lines:
        if words[0] == "lipt-cords" and "--output" in words:
            wrote.setdefault(words[words.index("--output") + 1], set()).add(words[1])
    assert "runs/compared" in wrote
    assert {output: names for output, names in wrote.items() if len(names) > 1} == {}


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
        ("quickstart.py", "130 images after 1354 passes"),
        ("images.py", "97 of 486 images in 10 classes"),
        ("dict_batches.py", "81 of 405 snippets"),
        ("own_model.py", "test accuracy 9"),
        ("search_subsets.py", "trained on everything, test accuracy 9"),
        ("lightning_subset.py", "test accuracy 9"),
        ("transformers_subset.py", "24 of 120 texts, chosen twice: held-out accuracy 0.9"),
    ],
)
def test_examples_run(script: str, words: str) -> None:
    assert words in ran(ROOT / "examples" / script)


def test_the_pretrained_example_runs_on_the_folder_of_a_model(tmp_path: Path) -> None:
    said = ran(ROOT / "examples/pretrained_text.py", tiny_pretrained(tmp_path))
    assert re.match(r"\d+ snippets, \d+ passes one after another: test accuracy .* merged", said)


def test_accelerate_in_two_processes_loses_and_doubles_nothing() -> None:
    told = ran(ROOT / "examples/accelerate_subset.py", ranks=2)
    assert told.count("121 samples in 2 processes, each of the subset once") == 3


def ran(script: Path, *words: object, ranks: int | None = None) -> str:
    done = run_program(script, *words, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
