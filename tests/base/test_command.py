"""Ctrl-C while torch is imported, in a process whose torch is a stand-in that is interrupted."""

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


@pytest.mark.parametrize(
    ("words", "is_command"),
    [
        (["-m", "lipt_cords", "--help"], True),
        (["-c", CODE], True),
        (["-c", "import lipt_cords"], False),
        (["-m", "lipt_cords.cords_plugin", "lipt_cords"], False),
    ],
)
def test_ctrl_c_while_torch_is_imported(words: list[str], is_command: bool, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n"
    (tmp_path / "torch/__init__.py").write_text(text)
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT  # 130 in a shell
    if is_command:
        assert done.stderr == "lipt-cords: interrupted\n"
    else:
        assert "KeyboardInterrupt" in done.stderr
