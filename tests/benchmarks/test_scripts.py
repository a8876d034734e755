"""Every script of the benchmarks runs from any folder and hides no package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    path
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]
PLACE = "sys.path[0] = str(Path(__file__).resolve().parents[{up}])"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_puts_the_repository_in_place_of_its_folder(path):
    up = len(path.relative_to(ROOT).parts) - 1
    before, found, after = path.read_text().partition(PLACE.format(up=up))
    assert found, "see benchmarks/memory/run.py"
    assert "import torch" not in before and "from benchmarks" not in before and "\nimport" in before
    command = f"python {path.relative_to(ROOT)}"
    assert command in before, "its docstring says how to run it"
    assert '"command"' not in after or command in after, "its results say how to run it"


def test_every_module_of_the_benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        importlib.import_module(".".join(parts).removesuffix(".__init__"))


@pytest.mark.parametrize(
    "words",
    [[str(ROOT / "benchmarks/tables/write.py"), "--check"], ["-m", "benchmarks.lean", "--help"]],
)
def test_a_script_runs_as_a_file_from_anywhere_and_as_a_module(words, tmp_path):
    where = ROOT if "-m" in words else tmp_path
    done = subprocess.run(
        [sys.executable, *words], cwd=where, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
