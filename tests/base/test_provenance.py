"""Where figures come from: the revision of this tree, as git says it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lipt_cords.base.provenance import git_revision

ROOT = Path(__file__).resolve().parents[2]


def test_the_revision_is_that_of_the_repository() -> None:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True).stdout
    revision = git_revision()
    if not (ROOT / ".git").exists():  # an unpacked archive
        assert revision is None
    else:
        assert revision is not None
        assert head.startswith(revision.removesuffix("+dirty").rpartition("-g")[2])
