"""A forked program is what a new interpreter would make of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from programs import run_program

SCRIPT = """
    import os, signal, sys, tempfile
    from pathlib import Path
    import beside
    print(__name__, sys.argv[1:], Path.cwd() == Path(sys.argv[1]), sys.stdin.read() == "")
    print(os.environ["GIVEN"], tempfile.gettempdir() == os.environ["TMPDIR"], beside.__name__)
    print("a word", file=sys.stderr)
    if sys.argv[2] == "raise":
        raise ValueError("torn")
    if sys.argv[2] == "killed":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("end", "code"), [("0", 0), ("3", 3), ("raise", 1), ("killed", -signal.SIGKILL)]
)
def test_it_finds_and_leaves_what_it_would_as_a_new_interpreter(
    end: str, code: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "beside.py").touch()
    where = tmp_path / "elsewhere"
    where.mkdir()
    done = run_program(script, where, end, cwd=where, GIVEN="5", TMPDIR=str(tmp_path))
    assert done.returncode == code
    assert done.stdout.splitlines() == [
        f"__main__ ['{where}', '{end}'] True True", "5 True beside",
    ]  # fmt: skip
    assert done.stderr.startswith("a word\n")
    assert ("ValueError: torn" in done.stderr) == (end == "raise")


def test_a_module_runs_as_well() -> None:
    fresh = subprocess.run([sys.executable, "-m", "this"], capture_output=True, text=True)
    assert run_program("-m", "this").stdout == fresh.stdout != ""


def test_ranks_know_their_number_and_one_that_fails_fails_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n"
        "sys.exit(sys.argv[1] == os.environ['RANK'])\n"
    )
    done = run_program(script, "none", ranks=2)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]
    assert run_program(script, "1", ranks=2).returncode != 0
