"""Commands begin without torch: in processes where a stand-in for a module is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lipt_cords

ROOT = Path(lipt_cords.__file__).parents[1]
CODE = "import sys; sys.argv[0] = '/usr/bin/lipt-cords'; from lipt_cords.cli import main"


def interrupted_in(module: str, words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in which the import of a module is interrupted."""
    (where / module).mkdir()
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (where / module / "__init__.py").write_text(text)
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{where}{os.pathsep}{ROOT}"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "words", "is_command"),
    [
        ("typer", ["-m", "lipt_cords", "doctor"], True),
        ("typer", ["-c", CODE], True),
        ("torch", ["-c", "import lipt_cords; lipt_cords.select"], False),
        ("torch", ["-m", "lipt_cords.cords_plugin", "lipt_cords"], False),
    ],
)
def test_ctrl_c_before_a_command_begins(
    module: str, words: list[str], is_command: bool, tmp_path: Path
) -> None:
    done = interrupted_in(module, words, tmp_path)
    assert done.returncode == -signal.SIGINT  # 130 in a shell
    if is_command:
        assert done.stderr == "lipt-cords: interrupted\n"
    else:
        assert "KeyboardInterrupt" in done.stderr


def test_ctrl_c_while_a_command_imports_torch(tmp_path: Path) -> None:
    done = interrupted_in("torch", ["-m", "lipt_cords", "doctor"], tmp_path)
    assert done.returncode == 130
    assert done.stderr == "lipt-cords: interrupted: nothing had begun\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["compare", "--help"], []])
def test_help_and_version_need_no_torch(words: list[str], tmp_path: Path) -> None:
    done = interrupted_in("torch", ["-m", "lipt_cords", *words], tmp_path)
    assert done.returncode == (0 if words else 2), done.stderr
    assert (lipt_cords.__version__ if words == ["--version"] else "Usage: ") in (
        done.stdout or done.stderr
    )


def test_public_names_are_imported_when_they_are_used() -> None:
    assert set(lipt_cords.__all__) == set(lipt_cords._FROM) <= set(dir(lipt_cords))
    for name in lipt_cords.__all__:
        assert getattr(lipt_cords, name).__name__ == name
    assert lipt_cords.models.build_model is not None
    with pytest.raises(AttributeError, match="no attribute 'sellect'"):
        getattr(lipt_cords, "sellect")  # noqa: B009


def test_one_version_everywhere() -> None:
    assert f"\nversion: {lipt_cords.__version__}\n" in (ROOT / "CITATION.cff").read_text()
